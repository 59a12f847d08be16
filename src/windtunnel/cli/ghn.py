"""Verbs about hypernetworks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli import ghn_evaluation
from windtunnel.cli.options import AsJson, Edits, RunsFolder, print_json, runs_folder

app = typer.Typer(
    help="Hypernetworks: train one over a space of architectures, let it write initial weights.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def train(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A hypernetwork's YAML file.")
    ],
    edits: Edits = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The run's folder [one below the runs folder]."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run, to the same bits.")
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option("--track", metavar="NAME", help="Also tell a tracker: tensorboard, wandb or "
                     "trackio; may be repeated."),
    ] = None,
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train a hypernetwork. Ctrl-C saves and stops; --resume continues."""
    from windtunnel.cli.hypernetworks import train_verb

    record = train_verb(
        file, edits or [], out=out, resume=resume, runs=runs_folder(runs), track=track or []
    )
    if as_json:
        print_json(record)
    if record["status"] != "finished":
        raise typer.Exit(1)


ghn_evaluation.add_to(app)
