"""The verb about synthetic tasks: probe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli.engines import EngineOption
from windtunnel.cli.options import (
    AsJson,
    DryRun,
    Edits,
    RunsFolder,
    StudyDir,
    Track,
    Workers,
    print_json,
    runs_folder,
)


def probe(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Run files of the architectures.")
    ],
    out: StudyDir,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            metavar="NAMES",
            help="Tasks, with commas between them, or a YAML file of tasks [all].",
        ),
    ] = None,
    difficulty: Annotated[
        str, typer.Option("--difficulty", help="Of the tasks: easy, medium or hard.")
    ] = "easy",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each that are scored.")] = 3,
    lrs: Annotated[
        str, typer.Option("--lrs", metavar="LIST", help="Learning rates to choose from.")
    ] = "1e-3,3e-3,1e-2",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of each task.")] = 400,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Of each task.")] = 64,
    text: Annotated[
        bool,
        typer.Option("--text/--no-text", help="Train each on its file's own text as well."),
    ] = True,
    losses: Annotated[
        Path | None,
        typer.Option(
            "--losses", metavar="DIR", help="Take the losses on text from this finished study."
        ),
    ] = None,
    edits: Edits = None,
    workers: Workers = None,
    track: Track = None,
    engine: EngineOption = "local",
    runs: RunsFolder = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Score architectures on synthetic tasks, beside their loss on text and their state."""
    from windtunnel.cli.probing import Request, print_probe, probe_verb

    request = Request(
        files=tuple(files), edits=tuple(edits or ()), tasks=tasks, difficulty=difficulty,
        seeds=seeds, lrs=lrs, steps=steps, batch_size=batch_size, text=text, losses=losses,
        out=out, runs=runs_folder(runs), workers=workers, engine=engine, dry_run=dry_run,
        track=tuple(track or ()),
    )  # fmt: skip
    result = probe_verb(request)
    if as_json:
        print_json(result)
    elif not dry_run:
        print_probe(result)
    if result.get("failures"):
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Adds the verb to the command."""
    app.command()(probe)
