"""The verb about learning rates: schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli.options import AsJson, Edits, note, print_json


def schedule(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Run files; each is a line of the plot.")
    ],
    edits: Edits = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.html", help="Write a plot to this page."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the learning rate of every update, as text or as a plot. Nothing is trained."""
    from windtunnel.cli.checking import with_known_stages
    from windtunnel.errors import UsageError
    from windtunnel.report.page import write_page
    from windtunnel.report.schedule_plot import Schedule, render_schedules
    from windtunnel.train.run_config import load_run
    from windtunnel.train.schedule import lr_at, preview

    if out is not None and out.suffix != ".html":
        raise UsageError(f"--out: {out} must end in .html; the page can save itself as an image")
    curves: dict[str, Schedule] = {}
    for file in files:
        train = with_known_stages(load_run(file, edits or ())).config.train
        text = preview(train)
        rates = [lr_at(train, step) for step in range(train.steps)]
        name = file.stem if file.stem not in curves else str(file)
        curves[name] = Schedule(rates, text.splitlines()[-1])
        if not as_json:
            typer.echo(text if len(files) == 1 else f"{name}\n{text}")
    if as_json:
        print_json({name: {"lr": list(curve.rates)} for name, curve in curves.items()})
    if out is not None:
        write_page(out, render_schedules(curves))
        note(f"wrote {out}")


def add_to(app: typer.Typer) -> None:
    """Adds this verb to the command."""
    app.command()(schedule)
