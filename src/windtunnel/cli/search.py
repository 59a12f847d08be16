"""The verb search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli.engines import EngineOption
from windtunnel.cli.options import (
    AsJson,
    ConfigFile,
    Edits,
    RunsFolder,
    Track,
    Workers,
    print_json,
    runs_folder,
)


def search(
    file: ConfigFile,
    space: Annotated[
        Path, typer.Option("--space", metavar="FILE", help="What to search, and how (YAML).")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="The search's folder; the same command goes on."),
    ],
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="In place of the file's `trials`.")
    ] = None,
    edits: Edits = None,
    memory: Annotated[
        int | None,
        typer.Option("--memory", metavar="BYTES", min=1, help="What a run's process may take, at "
                     "most; it is kept to it [what is free, by prediction alone]."),
    ] = None,
    prior: Annotated[
        Path | None,
        typer.Option("--prior", metavar="FILE", help="A predictor (`ghn predictor fit`): the "
                     "architectures of the space that it ranks best are tried first."),
    ] = None,
    prior_ghn: Annotated[
        str | None,
        typer.Option("--prior-ghn", metavar="GHN", help="The hypernetwork that it was fitted "
                     "with."),
    ] = None,
    prior_trials: Annotated[
        int, typer.Option("--prior-trials", min=1, help="How many are tried first.")
    ] = 6,
    prior_sample: Annotated[
        int, typer.Option("--prior-sample", min=1, help="Points of the space that are ranked.")
    ] = 256,
    workers: Workers = None,
    track: Track = None,
    engine: EngineOption = "local",
    runs: RunsFolder = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and the first trials, and stop.")
    ] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Search a space of settings for the best ones, and confirm them on fresh seeds."""
    from windtunnel.cli.searching import PriorRequest, Request, print_search, search_verb

    request = Request(
        file=file, space=space, edits=tuple(edits or ()), trials=trials, memory=memory, out=out,
        runs=runs_folder(runs), workers=workers, engine=engine, dry_run=dry_run,
        track=tuple(track or ()),
        prior=PriorRequest(prior, prior_ghn, prior_trials, prior_sample),
    )  # fmt: skip
    result = search_verb(request)
    if as_json:
        print_json(result)
    elif not dry_run:
        print_search(result)
    if not dry_run and not result["search"]["best"]:
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Adds this verb to the command."""
    app.command()(search)
