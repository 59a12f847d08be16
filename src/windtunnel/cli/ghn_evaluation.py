"""Verbs that measure what a hypernetwork is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli.options import AsJson, Edits, note, print_json


def singles(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a hypernetwork's finished run.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder.")],
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", min=0, help="Computing time in all [the hypernetwork's own]."),
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train single models with a hypernetwork's computing time: the rival that it must beat."""
    from windtunnel.hyper.rival import train_rival

    took = train_rival(
        run, out, seconds=seconds,
        tell=lambda key, step, loss: note(f"{key}: step {step}, loss {loss:.3f}"),
    )  # fmt: skip
    if as_json:
        print_json(took)


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

    def tell(done: int, total: int) -> None:
        if done == total or done % 20 == 0:
            note(f"{done} of {total} trainings of this part")

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
