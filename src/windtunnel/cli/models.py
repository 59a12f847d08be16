"""Verbs about one model: train, branch, generate and classify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

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

Lenient: TypeAlias = Annotated[
    bool,
    typer.Option("--lenient", help="Take the weights that fit by name and shape; report the rest."),
]

Ema: TypeAlias = Annotated[
    bool, typer.Option("--ema", help="Use the average of the weights that train.ema keeps.")
]

Device: TypeAlias = Annotated[
    str,
    typer.Option("--device", metavar="NAME", help="auto (a GPU where there is one), cpu, cuda, "
                 "cuda:N or mps."),
]  # fmt: skip


def train(
    file: ConfigFile,
    edits: Edits = None,
    out: RunDir = None,
    resume: Resume = False,
    track: Track = None,
    init: Annotated[
        str | None,
        typer.Option("--init", metavar="RUN", help="Begin with the weights of another run, and "
                     "nothing else of it; ghn:PATH: with those that a hypernetwork predicts."),
    ] = None,
    lenient: Lenient = False,
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train one run. Ctrl-C saves and stops; --resume continues."""
    from windtunnel.cli.training import train_verb

    record = train_verb(
        file, edits or [], out=out, resume=resume, runs=runs_folder(runs), track=track or [],
        init=init, lenient=lenient,
    )  # fmt: skip
    _end(record, as_json=as_json)


def branch(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's folder, name, or the start of its key.")
    ],
    edits: Edits = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SOURCE", help="Short for --set data.source=SOURCE."),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option("--step", metavar="N", min=0, help="Go on from the checkpoint of this step "
                     "[the newest]."),
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="Go on from that of the lowest validation loss.")
    ] = False,
    lenient: Lenient = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The new run's folder [one below the runs "
                     "folder]."),
    ] = None,
    track: Track = None,
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Go on from a run's checkpoint with other data or settings, as a new run."""
    from windtunnel.cli.training import branch_verb

    given = [*(edits or []), *([] if data is None else [f"data.source={data}"])]
    record = branch_verb(
        run, given, step=step, best=best, lenient=lenient, out=out, runs=runs_folder(runs),
        track=track or [],
    )  # fmt: skip
    _end(record, as_json=as_json)


def _end(record: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(record)
    if record["status"] != "finished":
        raise typer.Exit(1)


def generate(
    context: typer.Context,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's folder, name, or the start of its key.")
    ],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="One or more texts.")],
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens",
            "-n",
            min=1,
            help="Tokens to add at most [100, or as many as the model has positions for].",
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0 takes the most likely token.")
    ] = 0.8,
    greedy: Annotated[bool, typer.Option("--greedy", help="The same as --temperature 0.")] = False,
    top_k: Annotated[int | None, typer.Option("--top-k", min=1)] = None,
    top_p: Annotated[float | None, typer.Option("--top-p")] = None,
    min_p: Annotated[float | None, typer.Option("--min-p")] = None,
    repetition_penalty: Annotated[float, typer.Option("--repetition-penalty")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random draws.")] = 0,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            "--stop",
            metavar="TEXT",
            help="End where this is written, and leave it out; may be repeated.",
        ),
    ] = None,
    beams: Annotated[
        int | None,
        typer.Option(
            "--beams",
            min=1,
            help="Search for the most probable text with so many beams, in place of drawing.",
        ),
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option("--length-penalty", min=0.0, help="Beams: 0 prefers short texts [0.6]."),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit weights; says what that costs in loss.")
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print tokens as they come (one prompt).")
    ] = False,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Diffusion: steps of the sampler [100 at most]."),
    ] = None,
    ema: Ema = False,
    device: Device = "auto",
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Continue prompts with a trained run; trained on pairs, it answers them."""
    from windtunnel.cli.generating import Wish, continues_text, generate_verb
    from windtunnel.generate import SamplingConfig

    sampling = SamplingConfig.checked(
        temperature=0.0 if greedy else temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
    )
    wish = Wish(
        sampling=sampling, max_new_tokens=max_new_tokens, seed=seed, stop=tuple(stop or ()),
        beams=beams, length_penalty=length_penalty, int8=int8, stream=stream and not as_json,
        steps=steps, ema=ema, device=device, given=_given(context),
    )  # fmt: skip
    results = generate_verb(runs_folder(runs), run, prompts, wish)
    if as_json:
        print_json([{"prompt": p, "text": t} for p, t in zip(prompts, results, strict=True)])
    elif not stream:
        goes_on = continues_text(runs_folder(runs), run)
        for prompt, text in zip(prompts, results, strict=True):
            shown = f"{prompt}{text}" if goes_on else text
            typer.echo(shown + ("\n" if goes_on and len(prompts) > 1 else ""))


def _given(context: typer.Context) -> frozenset[str]:
    """The options that were written in the command."""
    where = {p.opts[0]: context.get_parameter_source(p.name or "") for p in context.command.params}
    return frozenset(o for o, source in where.items() if source and source.name == "COMMANDLINE")


def classify(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's folder, name, or the start of its key.")
    ],
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="One or more texts.")],
    ema: Ema = False,
    device: Device = "auto",
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say the label of texts, and how likely each label is, with a run trained on labels."""
    from windtunnel.cli.generating import classify_verb

    found = classify_verb(runs_folder(runs), run, texts, ema=ema, device=device)
    if as_json:
        print_json(found)
        return
    for answer in found:
        ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
        typer.echo("  ".join(f"{label} {chance:.3f}" for label, chance in ranked))


def score(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's folder, name, or the start of its key.")
    ],
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="exact_match, word_accuracy, bleu or chrf; may be repeated [all].",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Validation pairs at most.")
    ] = 200,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", min=1, help="Tokens of a text at most.")
    ] = 100,
    beams: Annotated[
        int | None, typer.Option("--beams", min=1, help="Beams; the likeliest token if left out.")
    ] = None,
    ema: Ema = False,
    device: Device = "auto",
    runs: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Score what a run trained on pairs writes for its validation prompts."""
    from windtunnel.cli.generating import score_verb

    found = score_verb(
        runs_folder(runs), run, metrics or [], samples=samples, max_new_tokens=max_new_tokens,
        beams=beams, ema=ema, device=device,
    )  # fmt: skip
    if as_json:
        print_json(found)
        return
    for name, value in found["scores"].items():
        typer.echo(f"{name:<14} {value:.3f}")
    typer.echo(f"of {len(found['texts'])} validation pairs", err=True)


def add_to(app: typer.Typer) -> None:
    """Adds these verbs to the command."""
    for verb in (train, branch, generate, classify, score):
        app.command()(verb)
