"""Verbs of the performance predictor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli.options import AsJson, RunsFolder, print_json, runs_folder

app = typer.Typer(
    help="Predict what architectures train to, from measured results and a hypernetwork's encoder.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def fit(
    network: Annotated[
        str,
        typer.Argument(
            metavar="GHN", help="A hypernetwork: a run's folder, name or key, or a release."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new file of JSON.")],
    results: Annotated[
        Path | None,
        typer.Option("--results", metavar="FILE", help="Lines of JSON with arch and loss, or the "
                     "folder of an evaluation."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option("--from", metavar="STORE", help="In their place: the finished runs of a "
                     "folder of runs."),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option("--space", metavar="SPACE", help="The space of lines that give an index "
                     "alone."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", metavar="KEY", help="With --from: which of the store's recipes."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of folds and resamples.")] = 0,
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Fit a predictor of trained losses, and say by cross-validation what it is worth."""
    from windtunnel.cli.predicting import Fit, fit_verb, print_fit

    told = fit_verb(
        Fit(network, out, results, store, space, recipe, seed, runs_folder(runs))
    )  # fmt: skip
    if as_json:
        print_json(told)
    else:
        print_fit(told, out)


@app.command()
def rank(
    file: Annotated[Path, typer.Argument(metavar="PREDICTOR", help="The file that fit wrote.")],
    sources: Annotated[
        list[str], typer.Argument(metavar="SPACE|FILE...", help="Spaces, run files, or both.")
    ],
    network: Annotated[
        str, typer.Option("--ghn", metavar="GHN", help="The hypernetwork that it was fitted with.")
    ],
    top: Annotated[int, typer.Option("--top", min=1, help="How many are shown.")] = 20,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="EXPR", help="Those of a space for which this holds, e.g. "
                     "'params < 30M'; may be repeated."),
    ] = None,
    sample: Annotated[
        int,
        typer.Option("--sample", min=1, help="Structures of a space that are looked at, at most, "
                     "spread over families and sizes."),
    ] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the sample.")] = 0,
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Rank architectures by the loss that they are predicted to train to, the best first."""
    from windtunnel.cli.predicting import Ranking, print_ranking, rank_verb

    told = rank_verb(
        Ranking(file, tuple(sources), network, top, tuple(where or ()), sample, seed,
                runs_folder(runs))
    )  # fmt: skip
    if as_json:
        print_json(told)
    else:
        print_ranking(told)


def add_to(parent: typer.Typer) -> None:
    """Adds these verbs to those about hypernetworks."""
    parent.add_typer(app, name="predictor")
