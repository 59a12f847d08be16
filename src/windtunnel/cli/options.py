"""Options that several verbs share, and how results are printed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

ConfigFile: TypeAlias = Annotated[
    Path, typer.Argument(metavar="FILE", help="A run's YAML file (see `windtunnel new`).")
]
Edits: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a value, e.g. train.lr=3e-4 or "
                 "'arch.layers[*].mlp.activation=silu'; may be repeated."),
]  # fmt: skip
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
RunsFolder: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--runs", metavar="DIR", envvar="WINDTUNNEL_RUNS", help="Where runs are kept [./runs]."
    ),
]
RunDir: TypeAlias = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="The run's folder [one below the runs folder]."),
]
Resume: TypeAlias = Annotated[
    bool, typer.Option("--resume", help="Continue an interrupted run, to the same bits.")
]
Track: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--track", metavar="NAME", help="Also tell a tracker: tensorboard, wandb or "
                 "trackio; may be repeated."),
]  # fmt: skip
StudyDir: TypeAlias = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="The study's folder; the same command goes on.")
]
RunFiles: TypeAlias = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Run files; the first is the reference.")
]
Seeds: TypeAlias = Annotated[
    int, typer.Option("--seeds", min=1, help="Runs of each, seeds 0, 1, …")
]
MatchOption: TypeAlias = Annotated[
    str, typer.Option("--match", help="What all get the same of: tokens, flops, params or seconds.")
]
Workers: TypeAlias = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes [as cores and memory allow].")
]
FirstSeeds: TypeAlias = Annotated[
    int | None, typer.Option("--first-seeds", help="Seeds before the first look [3].")
]
MaxSeeds: TypeAlias = Annotated[
    int | None, typer.Option("--max-seeds", help="Seeds at the last look [10].")
]
Margin: TypeAlias = Annotated[
    float | None,
    typer.Option("--margin", help="A smaller difference does not matter: makes equivalent a "
                 "verdict."),
]  # fmt: skip
TaskFiles: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option("--task", metavar="FILE", help="Then ask the runs items with known answers, "
                 ".jsonl, as `evaluate` does; may be repeated."),
]  # fmt: skip
TaskMeasure: TypeAlias = Annotated[
    str | None,
    typer.Option("--measure", metavar="NAME", help="What verdicts on tasks are about "
                 "[right_probability of choices, accuracy of pairs, bits_per_byte of clozes]."),
]  # fmt: skip
DryRun: TypeAlias = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]


def amount(text: str) -> float:
    """How much is asked for, with a unit or without one: 10k, 1.5M, 2e6.

    Raises:
        UsageError: it is no number, or not above zero.
    """
    from windtunnel.study.ladder.amounts import parse_number

    return parse_number(text.replace("_", ""), "--budget")


def runs_folder(given: Path | None) -> Path:
    """The folder of the run store."""
    return given or Path(os.environ.get("WINDTUNNEL_RUNS") or "runs")


def print_json(value: Any) -> None:
    """One JSON document on standard output; infinity and NaN never appear."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> None:
    """A table on standard output; the first ``texts`` columns to the left, figures to the right.
    A column that is empty in every row is left out."""
    shown = [i for i in range(len(header)) if any(row[i] for row in rows)]
    lines = [[row[i] for i in shown] for row in (header, *rows)]
    left = [i < texts for i in shown]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        ]
        typer.echo("  ".join(cells).rstrip())


def note(text: str) -> None:
    """A line for people, on standard error."""
    typer.echo(text, err=True)
