"""The command ``windtunnel``: thin verbs over the library.

Nothing heavy is imported here: each verb imports what it needs when it runs, so help and listings
answer at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from windtunnel import __version__
from windtunnel.cli import (
    ablate,
    compare,
    configs,
    data,
    evaluate,
    ghn,
    interop,
    ladder,
    models,
    probe,
    runs,
    schedules,
    search,
    space,
)
from windtunnel.errors import WindtunnelError

app = typer.Typer(
    name="windtunnel",
    help="Try language-model architectures at small scale, with instruments: declare, check, "
    "trace, train, compare, and get a verdict with error bars.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"windtunnel {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and stop.", callback=_print_version,
                     is_eager=True),
    ] = False,
) -> None:  # fmt: skip
    del version


for module in (
    configs, schedules, data, models, evaluate, compare, ablate, search, probe, ladder, space,
):  # fmt: skip
    module.add_to(app)
app.add_typer(ghn.app, name="ghn")
app.add_typer(runs.app, name="runs")
app.add_typer(interop.import_app, name="import")
app.add_typer(interop.export_app, name="export")


def main() -> None:
    """Runs the command line; ends the process with 0, 1 (a failure) or 2 (the user's mistake)."""
    try:
        app()
    except WindtunnelError as error:
        for line in str(error).splitlines():
            print(f"windtunnel: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away (`| head`): nothing more to say
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as end:
        if not _by_interrupt(end):
            raise
        print("windtunnel: interrupted", file=sys.stderr)
        sys.exit(130)


def _by_interrupt(end: BaseException | None) -> bool:
    """Whether Ctrl-C is behind it: typer makes a silent exit of it, whose context it stays."""
    while end is not None and not isinstance(end, KeyboardInterrupt):
        end = end.__cause__ or end.__context__
    return end is not None
