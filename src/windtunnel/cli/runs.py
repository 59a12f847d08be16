"""Verbs about finished and running runs: list, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from windtunnel.cli.options import AsJson, RunsFolder, note, print_json, runs_folder

app = typer.Typer(help="List and show runs.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_(runs: RunsFolder = None, as_json: AsJson = False) -> None:
    """List the runs of the store, oldest first."""
    from windtunnel.runs.store import RunStore

    summaries = RunStore(runs_folder(runs)).list()
    if as_json:
        print_json([summary.to_dict() for summary in summaries])
        return
    if not summaries:
        typer.echo(f"no runs in {runs_folder(runs)}")
        return
    rows = [
        (
            run.path.name,
            run.status,
            str(run.step),
            "–" if run.loss is None else f"{run.loss:.4f}",
            "–" if run.params is None else f"{run.params:,}",
            "–" if run.tokens is None else f"{run.tokens:,}",
        )
        for run in summaries
    ]
    header = ("run", "status", "step", "loss", "params", "tokens")
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        first = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
        rest = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        typer.echo("  ".join([*first, *rest]).rstrip())


@app.command()
def show(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's folder, name, or the start of its key.")
    ],
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show one run: status, config, evaluations, record."""
    from windtunnel.runs.store import RunStore

    shown = RunStore(runs_folder(runs)).show(run)
    if shown["damage"] is not None:
        note(f"no evaluations: {shown['damage']}")
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
    typer.echo("\n" + shown["config"].rstrip())


def _show_origin(origin: dict[str, Any] | None) -> None:
    """From which runs it comes, the nearest first, and what it has changed."""
    if origin is None:
        return
    for ancestor in origin["ancestors"]:
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
        str, typer.Argument(metavar="RUN", help="A run's folder, name, or the start of its key.")
    ],
    to: Annotated[
        list[str],
        typer.Option(
            "--to", metavar="NAME", help="tensorboard, wandb or trackio; may be repeated."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where files go [trackers/NAME in the run]."),
    ] = None,
    project: Annotated[
        str, typer.Option("--project", help="What W&B and Trackio group runs by.")
    ] = "windtunnel",
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the run has stopped.")
    ] = False,
    runs: RunsFolder = None,
) -> None:
    """Hand a run's numbers to a tracker, now or as they come."""
    from windtunnel.cli.tracking import track_verb

    track_verb(runs_folder(runs), run, to, out=out, project=project, follow=follow)
