"""Verbs about a config: new, check, trace, presets, schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli.options import AsJson, ConfigFile, Edits, note, print_json


def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The YAML file to write.")],
    preset: Annotated[
        str, typer.Option("--preset", help="The architecture to begin with.")
    ] = "llama",
) -> None:
    """Write a commented run file to begin with."""
    from windtunnel.cli.template import render_run_file
    from windtunnel.errors import UsageError

    text = render_run_file(preset)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UsageError(f"{file}: exists already; nothing was written") from None
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None
    note(f"wrote {file}; next: windtunnel check {file}")


def check(
    file: ConfigFile,
    edits: Edits = None,
    seq_len: Annotated[
        int | None,
        typer.Option("--seq-len", min=1, help="Tokens to count the cost at [train.seq_len]."),
    ] = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the whole config and where it came from.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a run file; print what the architecture costs. Nothing is allocated."""
    from windtunnel.cli.checking import check_run, print_check
    from windtunnel.train.run_config import load_run

    loaded = load_run(file, edits or ())
    if resolved:
        typer.echo(loaded.annotated(), nl=False)
        return
    result = check_run(loaded, seq_len)
    if as_json:
        print_json(result)
    else:
        print_check(result, loaded)


def trace(
    file: ConfigFile,
    edits: Edits = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Sequences in the batch.")] = 2,
    seq_len: Annotated[
        int | None, typer.Option("--seq-len", min=1, help="Tokens in each [at most 64].")
    ] = None,
    depth: Annotated[
        int | None, typer.Option("--depth", min=1, help="Levels of modules to show.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run one small batch; print the tree of modules with named shapes, time and memory."""
    from windtunnel.cli.tracing import print_trace, trace_run
    from windtunnel.train.run_config import load_run

    loaded = load_run(file, edits or ())
    result = trace_run(loaded, batch=batch, seq_len=seq_len, depth=depth)
    if as_json:
        print_json(result.to_json())
    else:
        print_trace(result)


def presets(as_json: AsJson = False) -> None:
    """List the known architectures, with their parameters at the default size."""
    from windtunnel.cli.catalogue import list_presets, print_presets

    rows = list_presets()
    if as_json:
        print_json(rows)
    else:
        print_presets(rows)


def schema() -> None:
    """Print the JSON schema of a run file, for completion and checks in an editor."""
    from windtunnel.train.run_config import RunConfig

    print_json(RunConfig.model_json_schema())


def add_to(app: typer.Typer) -> None:
    """Adds these verbs to the command."""
    for verb in (new, check, trace, presets, schema):
        app.command()(verb)
