"""Verbs about a config: new, check, trace, presets, schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from windtunnel.cli.options import AsJson, ConfigFile, Edits, note, print_json


def new(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The YAML file to write; or the word `mixer`."),
    ],
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="After `mixer`: its name; writes NAME.py."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="The architecture to begin with [llama].")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="START", help="What a new mixer begins from: average (a "
                     "state of its own) or attention (a gated variant) [average]."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder of a new mixer's file [.].")
    ] = None,
) -> None:  # fmt: skip
    """Write a commented run file to begin with; or, with `new mixer NAME`, a mixer of your own."""
    from windtunnel.errors import UsageError

    if str(file) == "mixer":
        if name is None:
            raise UsageError("a mixer needs a name: windtunnel new mixer NAME")
        if preset is not None:
            raise UsageError("--preset is for run files, not for a mixer")
        _new_mixer(name, start, out or Path())
        return
    if name is not None:
        raise UsageError(f"unexpected {name!r}: a name is for `windtunnel new mixer NAME`")
    if start is not None:
        raise UsageError("--from is for a mixer; --preset NAME is what a run file begins with")
    if out is not None:
        raise UsageError("--out is for a mixer; a run file is written where FILE says")
    from windtunnel.cli.template import render_run_file

    _write(file, render_run_file(preset or "llama", file.name))
    note(f"wrote {file}; next: windtunnel check {file}")


def _new_mixer(name: str, start: str | None, folder: Path) -> None:
    from windtunnel.cli.own_mixer import USUAL, render_mixer

    file = folder / f"{name}.py"
    _write(file, render_mixer(name, USUAL if start is None else start))
    note(f"wrote {file}; next: windtunnel check --contracts {file}")


def _write(file: Path, text: str) -> None:
    """Writes a new file; raises UsageError where that is impossible."""
    from windtunnel.errors import UsageError

    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UsageError(f"{file}: exists already; nothing was written") from None
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None


def check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A run's YAML file (see `windtunnel new`)."),
    ] = None,
    edits: Edits = None,
    seq_len: Annotated[
        int | None,
        typer.Option("--seq-len", min=1, help="Tokens to count the cost at [train.seq_len]."),
    ] = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the whole config and where it came from.")
    ] = False,
    contracts: Annotated[
        Path | None,
        typer.Option("--contracts", metavar="FILE.py", help="Run every contract on the components "
                     "of this Python file; FILE may then be left out."),
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Check a run file; print what the architecture costs. Nothing is allocated."""
    from windtunnel.errors import UsageError

    if file is None:
        if contracts is None:
            raise UsageError("missing FILE: a run's YAML file (or --contracts and a Python file)")
        if edits or seq_len is not None or resolved:
            raise UsageError("missing FILE: --set, --seq-len and --resolved are about a run's file")
    elif contracts is not None and resolved:
        raise UsageError("--resolved prints the config alone; leave out --contracts")
    tree, hold = _contracts(contracts, as_json) if contracts is not None else ({}, True)
    if file is not None:
        tree = _costs(file, edits or (), seq_len, resolved, as_json) | tree
    if as_json and not resolved:
        print_json(tree)
    if not hold:
        raise typer.Exit(1)


def _contracts(file: Path, as_json: bool) -> tuple[dict[str, Any], bool]:
    """What the contracts found, printed unless ``as_json``, and whether all of them hold."""
    from windtunnel.cli.contracts import all_hold, check_contracts, contracts_json, print_contracts
    from windtunnel.config.nearest import hint_beside
    from windtunnel.errors import UsageError

    if file.is_dir():
        raise UsageError(f"--contracts {file}: is a folder; a Python file of components is needed")
    if not file.exists():
        raise UsageError(f"--contracts {file}: no such file{hint_beside(file, suffixes=('.py',))}")
    reports = check_contracts(file)
    if not as_json:
        print_contracts(reports)
    return {"contracts": contracts_json(reports)}, all_hold(reports)


def _costs(
    file: Path, edits: Sequence[str], seq_len: int | None, resolved: bool, as_json: bool
) -> dict[str, Any]:
    """What a run file costs, printed unless ``as_json``; or its config, when ``resolved``."""
    from windtunnel.cli.checking import check_run, print_check, with_known_stages
    from windtunnel.train.run_config import load_run

    loaded = load_run(file, edits)
    if resolved:
        typer.echo(loaded.annotated(), nl=False)
        return {}
    loaded = with_known_stages(loaded)
    result = check_run(loaded, seq_len)
    if not as_json:
        print_check(result, loaded)
    return result


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


def presets(
    containing: Annotated[
        str,
        typer.Argument(metavar="[FILTER]", help="Part of a name, a family or a line: mistral."),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the known architectures, with their parameters."""
    from windtunnel.cli.catalogue import list_presets, print_presets

    rows = list_presets(containing)
    if as_json:
        print_json(rows)
    else:
        print_presets(rows)


def schema() -> None:
    """Print the JSON schema of a run file, for completion and checks in an editor."""
    from windtunnel.train.run_schema import run_schema

    print_json(run_schema())


def add_to(app: typer.Typer) -> None:
    """Adds these verbs to the command."""
    for verb in (new, check, trace, presets, schema):
        app.command()(verb)
