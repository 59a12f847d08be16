"""Verbs about finished and running runs: list, show, diff, tag, prune, rebuild, track."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from windtunnel.cli.options import (
    AsJson,
    RunsFolder,
    note,
    print_json,
    print_table,
    runs_folder,
)

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder, name, or the start of its key.")
]
app = typer.Typer(
    help="List, show, compare, tag and clear up runs.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_(
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="NAME", help="Runs with this tag; may be repeated."),
    ] = None,
    statuses: Annotated[
        list[str] | None,
        typer.Option("--status", metavar="STATUS", help="Runs of this status; may be repeated."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="CONDITION", help="e.g. 'loss<3.2', name~gpt, "
                     "train.lr=3e-4; may be repeated, and all must hold."),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option("--sort", metavar="COLUMN", help="loss, or -loss for high to low [created]."),
    ] = None,
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """List the runs of the store, oldest first."""
    from windtunnel.runs.selection import selected
    from windtunnel.runs.store import RunStore

    there = RunStore(runs_folder(runs)).list()
    summaries = selected(
        there, tags=tags or (), statuses=statuses or (), where=where or (), sort=sort
    )
    if as_json:
        print_json([summary.to_dict() for summary in summaries])
        return
    if not summaries:
        of = f"of the {len(there)} runs in {runs_folder(runs)}, none is asked for"
        typer.echo(of if there else f"no runs in {runs_folder(runs)}")
        return
    rows = [
        (
            run.path.name,
            run.status,
            " ".join(run.tags),
            str(run.step),
            "–" if run.loss is None else f"{run.loss:.4f}",
            "–" if run.params is None else f"{run.params:,}",
            "–" if run.tokens is None else f"{run.tokens:,}",
        )
        for run in summaries
    ]
    print_table(("run", "status", "tags", "step", "loss", "params", "tokens"), rows, texts=3)


@app.command()
def show(
    run: Run,
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show one run: status, config, evaluations, record."""
    from windtunnel.runs.store import RunStore

    shown = RunStore(runs_folder(runs)).show(run)
    if shown["damage"] is not None:
        note(shown["damage"])
    if as_json:
        print_json(shown)
        return
    for name, value in shown["summary"].items():
        typer.echo(f"{name:<14} {value}")
    _show_origin(shown["origin"])
    for values in shown["evaluations"]:
        cells = [
            f"{label} {values[name]:.4f}"
            for name, label in (("loss", "loss"), ("bits_per_byte", "bits/byte"))
            if values[name] is not None
        ]
        typer.echo("  ".join([f"  step {values['step']:>7}", *cells]))
    _show_stages(shown["evaluations"])
    if shown["config"] is not None:
        typer.echo("\n" + shown["config"].rstrip())


def _show_origin(origin: dict[str, Any] | None) -> None:
    """From which runs it comes, the nearest first, and what it has changed."""
    if origin is None:
        return
    for ancestor in origin["ancestors"]:
        if "file" in ancestor:
            key = ancestor["key"][:10]
            typer.echo(f"{'origin':<14} {ancestor['name']} {key}, weights of {ancestor['file']}")
            continue
        what = "" if ancestor["carry"] == "all" else ", its weights alone"
        typer.echo(
            f"{'origin':<14} {ancestor['name']} {ancestor['key'][:10]} at step "
            f"{ancestor['step']}{what}"
        )
    for edit in origin["edits"]:
        typer.echo(f"{'changed':<14} {edit}")


def _show_stages(evaluations: list[dict[str, Any]]) -> None:
    """How each stage of a plan went, as far as the last evaluation knows."""
    for stage in evaluations[-1].get("stages", []) if evaluations else []:
        losses = [
            f"{label} {stage[name]:.4f}"
            for name, label in (("train_loss", "train"), ("valid_loss", "valid"))
            if stage[name] is not None
        ]
        steps = f"{stage['steps']:,} steps, {stage['tokens']:,} tokens"
        typer.echo(f"{'stage':<14} {stage['name']}: " + "  ".join([steps, *losses]))


@app.command()
def track(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run's folder, name or key; or the folder of a study."
        ),
    ],
    to: Annotated[
        list[str],
        typer.Option(
            "--to", metavar="NAME", help="tensorboard, wandb or trackio; may be repeated."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where files go [trackers in its folder]."),
    ] = None,
    project: Annotated[
        str, typer.Option("--project", help="What W&B and Trackio group runs by.")
    ] = "windtunnel",
    follow: Annotated[bool, typer.Option("--follow", help="Go on until it has stopped.")] = False,
    runs: RunsFolder = None,
) -> None:
    """Hand the numbers of a run, or of all runs of a study, to a tracker, now or as they come."""
    from windtunnel.cli.tracking import track_verb

    track_verb(runs_folder(runs), run, to, out=out, project=project, follow=follow)


@app.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, name or key.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="Another.")],
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show where two runs differ: config, machine and code, and the final figures side by side."""
    from windtunnel.cli.run_tables import print_difference
    from windtunnel.runs.difference import run_difference
    from windtunnel.runs.store import RunStore

    store = RunStore(runs_folder(runs))
    found = run_difference(store.select(first), store.select(second))
    if as_json:
        print_json(found)
    else:
        print_difference(found)


@app.command()
def tag(
    run: Run,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Tags to give it.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take these tags from it.")] = False,
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Give a run names of your own, or take them from it. The record stays as it is."""
    from windtunnel.runs.store import RunStore
    from windtunnel.runs.tags import change_tags

    folder = RunStore(runs_folder(runs)).select(run)
    tags = change_tags(folder.path, add=() if remove else names, remove=names if remove else ())
    if as_json:
        print_json({"path": str(folder.path), "tags": list(tags)})
    else:
        typer.echo(f"{folder.path.name}: {', '.join(tags) or 'no tags'}")


@app.command()
def prune(
    what: Annotated[
        list[str] | None,
        typer.Option("--what", metavar="KIND", help="failed, interrupted, checkpoints, orphans or "
                     "unused; may be repeated [all but unused]."),
    ] = None,
    min_age: Annotated[
        float,
        typer.Option("--min-age", metavar="HOURS", min=0, help="Leave what was written since."),
    ] = 1.0,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only show.")] = False,
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show what the store could do without; with --yes, delete it."""
    from windtunnel.cli.run_tables import print_pruning
    from windtunnel.runs import pruning
    from windtunnel.runs.store import RunStore

    store = RunStore(runs_folder(runs))
    found = pruning.find_prunable(store, what or pruning.USUAL, min_age_seconds=3600 * min_age)
    refused = pruning.prune(store, found) if yes else {}
    if as_json:
        print_json(found.to_dict(deleted=yes, refused=refused))
    else:
        print_pruning(found, deleted=yes, refused=refused)
    if refused:
        raise typer.Exit(1)


@app.command()
def rebuild(runs: RunsFolder = None, as_json: AsJson = False) -> None:
    """Make the store's index anew from the runs' folders."""
    from windtunnel.runs.store import RunStore

    store = RunStore(runs_folder(runs))
    store.rebuild_index()
    count = len(store.list())
    if as_json:
        print_json({"runs": count})
    else:
        typer.echo(f"{count} runs in {runs_folder(runs)}")
