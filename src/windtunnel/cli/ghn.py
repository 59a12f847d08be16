"""Verbs about hypernetworks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli import ghn_evaluation, ghn_predictor
from windtunnel.cli.options import (
    AsJson,
    ConfigFile,
    Edits,
    Resume,
    RunDir,
    RunsFolder,
    Track,
    print_json,
    runs_folder,
)

app = typer.Typer(
    help="Hypernetworks: train one over a space of architectures, let it write initial weights.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def train(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A hypernetwork's YAML file.")
    ],
    edits: Edits = None,
    out: RunDir = None,
    resume: Resume = False,
    track: Track = None,
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train a hypernetwork. Ctrl-C saves and stops; --resume continues."""
    from windtunnel.cli.hypernetworks import train_verb

    record = train_verb(
        file, edits or [], out=out, resume=resume, runs=runs_folder(runs), track=track or []
    )
    if as_json:
        print_json(record)
    if record["status"] != "finished":
        raise typer.Exit(1)


Network = Annotated[
    str,
    typer.Argument(
        metavar="GHN", help="A hypernetwork: a run's folder, name or key, or a release."
    ),
]


@app.command()
def predict(
    network: Network,
    file: ConfigFile,
    edits: Edits = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the weights, as safetensors."),
    ] = None,
    evaluate: Annotated[
        bool,
        typer.Option("--evaluate", help="Also the run's validation loss before its first step."),
    ] = False,
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Predict the initial weights of a run's architecture: how many, what is left, how good."""
    from windtunnel.cli.hypernetworks import predict_verb, print_prediction

    told = predict_verb(
        network, file, edits or [], out=out, runs=runs_folder(runs), evaluate=evaluate
    )
    if as_json:
        print_json(told)
    else:
        print_prediction(told)


@app.command()
def release(
    network: Network,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder.")],
    precision: Annotated[
        str,
        typer.Option(
            "--precision", help="Of the stored weights: int8, float16, bfloat16, float32."
        ),
    ] = "float16",
    name: Annotated[
        str | None, typer.Option("--name", help="What it is called [the run's name].")
    ] = None,
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Write a trained hypernetwork as a small folder with a card: what, from what, at what cost."""
    from windtunnel.cli.hypernetworks import release_verb

    facts = release_verb(network, out, runs=runs_folder(runs), precision=precision, name=name)
    if as_json:
        print_json(facts)
    else:
        typer.echo(f"{out}: {facts['params']:,} parameters, {facts['weights_bytes']:,} bytes")


@app.command()
def schema() -> None:
    """Print the JSON schema of a hypernetwork's file, for completion and checks in an editor."""
    from windtunnel.hyper.config import ghn_schema

    print_json(ghn_schema())


ghn_evaluation.add_to(app)
ghn_predictor.add_to(app)
