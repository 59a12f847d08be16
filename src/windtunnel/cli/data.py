"""The verb about data: prepare a run's corpus and tokenizer, and say what they are."""

from __future__ import annotations

import typer

from windtunnel.cli.options import AsJson, ConfigFile, Edits, print_json


def data(file: ConfigFile, edits: Edits = None, as_json: AsJson = False) -> None:
    """Prepare the data of a run file, and report tokens, split and compression."""
    from windtunnel.cli.corpora import print_dataset, report_dataset
    from windtunnel.train.run_config import load_run

    report = report_dataset(load_run(file, edits or ()).config.data)
    if as_json:
        print_json(report)
    else:
        print_dataset(report)


def add_to(app: typer.Typer) -> None:
    """Adds this verb to the command."""
    app.command()(data)
