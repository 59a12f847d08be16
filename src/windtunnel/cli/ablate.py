"""The verb ablate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli.engines import EngineOption
from windtunnel.cli.options import (
    AsJson,
    DryRun,
    Edits,
    FirstSeeds,
    Margin,
    MatchOption,
    MaxSeeds,
    RunsFolder,
    StudyDir,
    TaskFiles,
    TaskMeasure,
    Track,
    Workers,
    amount,
    print_json,
    runs_folder,
)


def ablate(
    out: StudyDir,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The run file that is varied.")
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary", metavar="PATH=[VALUES]",
            help="What is varied, e.g. 'arch.layers[*].mlp.activation=[relu,silu]'; may be "
            "repeated. Several paths with commas between get the same value; "
            "'NAME: {PATH: VALUE, …}' makes several edits together.",
        ),
    ] = None,
    design: Annotated[
        str,
        typer.Option(
            "--design",
            help="one (each change alone), grid (every combination), leave-one-out (each taken "
            "back from all changes) or both (alone and taken back) [one; of a family: grid].",
        ),
    ] = "",
    grid: Annotated[bool, typer.Option("--grid", help="Short for --design grid.")] = False,
    family: Annotated[
        str | None,
        typer.Option("--family", help="Instead of FILE: the grid of gpt, transformer, rnn or "
                     "lstm."),
    ] = None,
    size: Annotated[
        str, typer.Option("--size", help="Of the family: small, default or large.")
    ] = "default",
    skip_invalid: Annotated[
        bool,
        typer.Option("--skip-invalid", help="Leave out points that are no valid run; say which."),
    ] = False,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Runs of each, seeds 0, 1, … [3].")
    ] = None,
    match: MatchOption = "tokens",
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", parser=amount, help="How much of it, for one run [the reference's own]."
        ),
    ] = None,
    tune: Annotated[
        list[str] | None,
        typer.Option("--tune", metavar="PATH[=LIST]",
                     help="Tune this for every point first, such as train.lr; may be repeated."),
    ] = None,
    margin: Margin = None,
    tasks: TaskFiles = None,
    measure: TaskMeasure = None,
    until_decided: Annotated[
        bool,
        typer.Option("--until-decided", help="Add seeds to the arms of each effect and interaction "
                     "until it is decided; looks are paid for."),
    ] = False,
    first_seeds: FirstSeeds = None,
    max_seeds: MaxSeeds = None,
    edits: Edits = None,
    workers: Workers = None,
    track: Track = None,
    engine: EngineOption = "local",
    runs: RunsFolder = None,
    dry_run: DryRun = False,
    flat_json: Annotated[
        Path | None,
        typer.Option("--flat-json", metavar="FILE",
                     help='Also write [{"params": …, "metrics": {"loss", "perplexity"}}].'),
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Vary parts of a run, alone or in a grid: effects and interactions, with intervals."""
    from windtunnel.cli.ablating import Request, ablate_verb
    from windtunnel.cli.comparing import print_verdicts
    from windtunnel.errors import UsageError

    if grid and design not in ("", "grid"):
        raise UsageError(f"--grid and --design {design} are two designs; give one")
    chosen = design or ("grid" if grid or family else "one")
    request = Request(
        file=file, family=family, size=size, vary=tuple(vary or ()), design=chosen,
        skip_invalid=skip_invalid, edits=tuple(edits or ()), seeds=seeds, match=match,
        budget=budget, out=out, runs=runs_folder(runs), workers=workers, dry_run=dry_run,
        flat_json=flat_json, engine=engine, tune=tuple(tune or ()),
        until_decided=until_decided, first_seeds=first_seeds, max_seeds=max_seeds,
        track=tuple(track or ()), margin=margin, tasks=tuple(tasks or ()), measure=measure,
    )  # fmt: skip
    result = ablate_verb(request)
    if as_json:
        print_json(result)
    elif not dry_run:
        print_verdicts(result)
    if not dry_run and any(arm["failed"] for arm in result["arms"]):
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Adds the verb to the command."""
    app.command()(ablate)
