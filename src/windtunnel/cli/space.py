"""The verb about spaces of architectures."""

from __future__ import annotations

from typing import Annotated

import typer

from windtunnel.cli.options import AsJson


def space(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SPACE", help="`reasonable`, `full`, or the YAML file of a space of your own."
        ),
    ],
    count: Annotated[bool, typer.Option("--count", help="Print how many there are.")] = False,
    index: Annotated[
        int | None,
        typer.Option("--index", metavar="I", help="Show one member, counted from 0 (negative: from "
                     "the end) among those that --where leaves."),
    ] = None,
    find: Annotated[
        str | None, typer.Option("--find", metavar="NAME", help="Show the member of that name.")
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option("--sample", metavar="K", min=1, help="List K members, spread evenly over "
                     "families and log parameters."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="EXPR", help="Only members for which this holds, e.g. "
                     "'params < 30M and family in [lstm, gru]'; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the sample.")] = 0,
    vocab_size: Annotated[
        int | None,
        typer.Option("--vocab-size", min=1, help="The vocabulary that parameters are counted with "
                     "[50257]."),
    ] = None,
    max_seq_len: Annotated[
        int | None, typer.Option("--max-seq-len", min=1, help="Learned positions, in tokens [512].")
    ] = None,
    as_yaml: Annotated[
        bool,
        typer.Option("--yaml", help="With --index or --find: print the run file that `check` and "
                     "`train` take."),
    ] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Look into a space of architectures: how many, which, how large; nothing is built."""
    from windtunnel.cli.spacing import Wish, space_verb

    wish = Wish(
        count=count, index=index, find=find, sample=sample, where=tuple(where or ()), seed=seed,
        as_yaml=as_yaml, as_json=as_json,
    )  # fmt: skip
    space_verb(source, wish, vocab_size=vocab_size, max_seq_len=max_seq_len)


def add_to(app: typer.Typer) -> None:
    """Adds this verb to the command."""
    app.command()(space)
