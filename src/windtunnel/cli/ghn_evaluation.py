"""Verbs that measure what a hypernetwork is worth."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli.options import AsJson, Edits, RunsFolder, note, print_json, runs_folder

PAUSE = 10.0
"""Seconds between two lines of progress."""


def singles(
    network: Annotated[
        str,
        typer.Argument(
            metavar="GHN", help="A hypernetwork's finished run: its folder, name or key."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder.")],
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", min=0, help="Computing time in all [the hypernetwork's own]."),
    ] = None,
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train single models with a hypernetwork's computing time: the rival that it must beat."""
    from windtunnel.cli.hypernetworks import print_singles, singles_verb

    took = singles_verb(network, out, runs=runs_folder(runs), seconds=seconds)
    if as_json:
        print_json(took)
    else:
        print_singles(took, out)


def evaluate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file of an evaluation.")],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Where results are kept; the same folder goes "
                     "on where it stopped."),
    ],
    edits: Edits = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes, of one thread each.")
    ] = 1,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Compare predicted parameters with tuned initialisations and rivals, on held-out sizes."""
    from windtunnel.hyper.evaluation.run import evaluate_ghn, load_evaluation
    from windtunnel.report.hypernetwork import evaluation_view

    told = time.monotonic()

    def tell(part: str, done: int, total: int) -> None:
        nonlocal told
        if done == total or time.monotonic() - told >= PAUSE:
            told = time.monotonic()
            note(f"part {part}: {done} of {total} trainings, {total - done} to go")

    summary = evaluate_ghn(load_evaluation(file, edits or []), out, workers=workers, tell=tell)
    if as_json:
        print_json(summary)
        return
    from rich.console import Console

    Console().print(evaluation_view(summary))


def add_to(app: typer.Typer) -> None:
    """Adds these verbs to those about hypernetworks."""
    app.command()(singles)
    app.command()(evaluate)
