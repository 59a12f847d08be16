"""The verb about tasks: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli.models import Device, Ema
from windtunnel.cli.options import AsJson, RunsFolder, TaskMeasure, note, print_json, runs_folder


def evaluate(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Runs (folder, name, or the start of the key), or folders of studies.",
        ),
    ],
    tasks: Annotated[
        list[Path],
        typer.Option(
            "--task", metavar="FILE", help="Items with known answers, .jsonl; may be repeated."
        ),
    ],
    measure: TaskMeasure = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="The first items of each task only.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Texts that are read at once.")
    ] = 16,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Write every answer, a line of JSON each, to a new file."
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Of one study: keep what is told in its folder and report."),
    ] = False,
    ema: Ema = False,
    device: Device = "auto",
    store: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Ask trained runs tasks with known answers, and compare what they know, with intervals."""
    from windtunnel.cli.evaluating import Request, evaluate_verb, print_answers
    from windtunnel.cli.reporting import report_study

    request = Request(
        runs=tuple(runs), tasks=tuple(tasks), store=runs_folder(store), device=device, ema=ema,
        limit=limit, batch_size=batch_size, out=out, measure=measure, keep=keep,
    )  # fmt: skip
    found = evaluate_verb(request)
    if keep:
        _, page = report_study(Path(runs[0]))
        note(f"report: {page}")
    if as_json:
        print_json(found)
    else:
        print_answers(found)
    if not all(arm["runs"] for arm in found["arms"]):
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Adds the verb to the command."""
    app.command()(evaluate)
