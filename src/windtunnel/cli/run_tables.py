"""How differences of runs, and what could be pruned, are printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from windtunnel.cli.options import note, print_table
from windtunnel.report.units import bytes_text
from windtunnel.runs.pruning import Pruning

_WIDEST = 40


def print_difference(found: Mapping[str, Any]) -> None:
    """Two runs side by side."""
    first, second = (Path(run["path"]).name for run in found["runs"])
    for run in found["runs"]:
        note(f"{Path(run['path']).name}: {run['status']} at step {run['step']:,}")
    for title in ("config", "surroundings"):
        rows = [(path, _text(a), _text(b)) for path, a, b in found[title]]
        if rows:
            print_table((title, first, second), rows, texts=3)
        else:
            typer.echo(f"{title}: no difference")
        typer.echo()
    rows = [
        (name, *(_figure(pair[side]) for side in ("first", "second", "difference")))
        for name, pair in found["figures"].items()
    ]
    print_table(("figure", first, second, "difference"), rows, texts=1)


def print_pruning(found: Pruning, *, deleted: bool, refused: Mapping[Path, str]) -> None:
    """What goes, what stays and why."""
    rows = [
        (r.what, _place(r.path, r.run), r.why, bytes_text(r.size_bytes))
        for r in found.removals
        if r.path not in refused
    ]
    if rows:
        print_table(("what", "path", "why", "size"), rows, texts=3)
    for path, why in found.kept:
        note(f"stays: {path.name} {why}")
    for path, why in refused.items():
        note(f"not deleted: {path}: {why}")
    size = sum(r.size_bytes for r in found.removals if r.path not in refused)
    if not rows:
        typer.echo("nothing to delete")
    elif deleted:
        typer.echo(f"deleted: {bytes_text(size)}")
    else:
        typer.echo(f"would free {bytes_text(size)}; --yes deletes")


def _place(path: Path, run: Path | None) -> str:
    return path.name if run is None or path == run else f"{run.name}/{path.name}"


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "–" if value is None else text
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _figure(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"
