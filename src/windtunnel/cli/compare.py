"""Verbs about studies: compare, report."""

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
    note,
    print_json,
    runs_folder,
)


def compare(
    out: StudyDir,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help="Run files; the first is the reference."),
    ] = None,
    presets: Annotated[
        str,
        typer.Option(
            "--preset-set",
            metavar="NAMES",
            help="Instead of files: presets of one size, "
            "such as gpt,transformer,rnn,lstm, with one recipe.",
        ),
    ] = "",
    size: Annotated[
        str, typer.Option("--size", help="Of the presets: small, default or large.")
    ] = "default",
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Runs of each, seeds 0, 1, … [3].")
    ] = None,
    match: MatchOption = "tokens",
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", parser=amount, help="How much of it, for one run [the first file's own]."
        ),
    ] = None,
    tune: Annotated[
        list[str] | None,
        typer.Option(
            "--tune",
            metavar="PATH[=LIST]",
            help="Tune this for every arm first, such as train.lr or train.lr=[1e-3,3e-3]; "
            "may be repeated.",
        ),
    ] = None,
    margin: Margin = None,
    pairing: Annotated[
        str,
        typer.Option(
            "--pairing",
            help="design: runs of one seed are pairs; measured: where their losses correlate "
            "enough, at a level that allows for having looked.",
        ),
    ] = "design",
    until_decided: Annotated[
        bool,
        typer.Option(
            "--until-decided", help="Add seeds to each arm until it is decided; looks are paid for."
        ),
    ] = False,
    first_seeds: FirstSeeds = None,
    max_seeds: MaxSeeds = None,
    tasks: TaskFiles = None,
    measure: TaskMeasure = None,
    edits: Edits = None,
    workers: Workers = None,
    track: Track = None,
    engine: EngineOption = "local",
    runs: RunsFolder = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train architectures on equal terms, and say which is better, with intervals."""
    from windtunnel.cli.comparing import Request, compare_verb, print_verdicts

    request = Request(
        files=tuple(files or ()), edits=tuple(edits or ()), seeds=seeds, match=match, budget=budget,
        out=out, runs=runs_folder(runs), workers=workers, engine=engine, dry_run=dry_run,
        track=tuple(track or ()), tasks=tuple(tasks or ()), measure=measure,
        tune=tuple(tune or ()), margin=margin, pairing=pairing,
        until_decided=until_decided,
        first_seeds=first_seeds, max_seeds=max_seeds,
        preset_set=tuple(name.strip() for name in presets.split(",") if name.strip()), size=size,
    )  # fmt: skip
    result = compare_verb(request)
    if as_json:
        print_json(result)
    elif not dry_run:
        print_verdicts(result)
    if not dry_run and any(arm["failed"] for arm in result["arms"]):
        raise typer.Exit(1)


def report(
    study: Annotated[Path, typer.Argument(metavar="DIR", help="A study's folder.")],
    as_json: AsJson = False,
) -> None:
    """Write a finished study's report anew, and print its verdicts."""
    from windtunnel.cli.comparing import print_verdicts
    from windtunnel.cli.probing import print_probe, report_probe
    from windtunnel.cli.reporting import check_study, report_study

    check_study(study)
    if (probed := report_probe(study)) is not None:
        print_json(probed) if as_json else print_probe(probed)
        return
    result, path = report_study(study)
    if as_json:
        print_json(result)
    else:
        print_verdicts(result)
        note(f"report: {path}")


def add_to(app: typer.Typer) -> None:
    """Adds these verbs to the command."""
    for verb in (compare, report):
        app.command()(verb)
