"""The verb ``ladder``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli.engines import EngineOption
from windtunnel.cli.options import AsJson, Edits, RunsFolder, print_json, runs_folder


def ladder(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Run files; the first is the reference.")
    ],
    sizes: Annotated[
        str, typer.Option("--sizes", metavar="N,N,...", help="Parameters: 0.2M,0.5M,1M,2M.")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="The study's folder; the same command goes on."),
    ],
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
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each, seeds 0, 1, …")] = 3,
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
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes [as cores and memory allow].")
    ] = None,
    engine: EngineOption = "local",
    runs: RunsFolder = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train architectures at several sizes and budgets, and say what larger ones would do."""
    from windtunnel.cli.laddering import Request, ladder_verb, print_ladder

    request = Request(
        files=tuple(files), edits=tuple(edits or ()), sizes=sizes, budgets=budgets, rule=rule,
        count=count, lr_rule=lr_rule, seeds=seeds, at=at, backtest=backtest, out=out,
        runs=runs_folder(runs), workers=workers, engine=engine, dry_run=dry_run,
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
