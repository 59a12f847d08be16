"""The verb ``ladder``."""

from __future__ import annotations

from typing import Annotated

import typer

from windtunnel.cli.engines import EngineOption
from windtunnel.cli.options import (
    AsJson,
    DryRun,
    Edits,
    RunFiles,
    RunsFolder,
    Seeds,
    StudyDir,
    Track,
    Workers,
    print_json,
    runs_folder,
)


def ladder(
    files: RunFiles,
    sizes: Annotated[
        str, typer.Option("--sizes", metavar="N,N,...", help="Parameters: 0.2M,0.5M,1M,2M.")
    ],
    out: StudyDir,
    budgets: Annotated[
        str,
        typer.Option(
            "--budgets", metavar="B,B,...",
            help="Tokens as multiples of parameters (20x), as numbers (4M), or FLOPs (1e13flops).",
        ),
    ] = "5x,10x,20x",
    rule: Annotated[
        str, typer.Option("--rule", help="How sizes are reached: width, depth or aspect.")
    ] = "width",
    count: Annotated[
        str, typer.Option("--count", help="What a size counts: total or non-embedding parameters.")
    ] = "total",
    lr_rule: Annotated[
        str,
        typer.Option(
            "--lr-rule", help="auto, constant, inverse-width, inverse-sqrt-width or mup.",
        ),
    ] = "auto",
    seeds: Seeds = 3,
    at: Annotated[
        str,
        typer.Option("--at", help="The budget asked about: FLOPs (1e18), or 10x the largest."),
    ] = "10x",
    backtest: Annotated[
        bool | None,
        typer.Option(
            "--backtest/--no-backtest",
            help="Predict the largest size from the smaller ones [with 4 sizes or more].",
        ),
    ] = None,
    edits: Edits = None,
    workers: Workers = None,
    track: Track = None,
    engine: EngineOption = "local",
    runs: RunsFolder = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train architectures at several sizes and budgets, and say what larger ones would do."""
    from windtunnel.cli.laddering import Request, ladder_verb, print_ladder

    request = Request(
        files=tuple(files), edits=tuple(edits or ()), sizes=sizes, budgets=budgets, rule=rule,
        count=count, lr_rule=lr_rule, seeds=seeds, at=at, backtest=backtest, out=out,
        runs=runs_folder(runs), workers=workers, engine=engine, dry_run=dry_run,
        track=tuple(track or ()),
    )  # fmt: skip
    result = ladder_verb(request)
    if as_json:
        print_json(result)
    elif not dry_run:
        print_ladder(result)
    if not dry_run and result["failures"]:
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Adds the verb to the command."""
    app.command()(ladder)
