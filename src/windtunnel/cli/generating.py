"""Texts and classes from a trained run, from the command line."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.arch import Model, folded_to_write
from windtunnel.cli.options import note
from windtunnel.errors import NotFiniteError, UsageError
from windtunnel.generate import (
    BeamConfig,
    SamplingConfig,
    StopStrings,
    TextStream,
    as_decoded,
    quantized,
)
from windtunnel.runs import RunStore
from windtunnel.train.launch import TrainedModel, open_trained, validation_loss
from windtunnel.train.loop import resolve_device
from windtunnel.train.run_config import objective_config
from windtunnel.train.writing import Writer

_USUAL_LENGTH = 100
_MEASURED_TOKENS = 8192
_RANGES = ("--top-k", "--top-p", "--min-p")
_CHOICES = ("--greedy", "--temperature", *_RANGES, "--repetition-penalty")
"""Options of how the next token is chosen."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user asked ``generate`` for."""

    sampling: SamplingConfig
    max_new_tokens: int | None
    seed: int
    stop: tuple[str, ...]
    beams: int | None
    length_penalty: float | None
    int8: bool
    stream: bool
    steps: int | None
    ema: bool
    device: str
    given: frozenset[str] = frozenset()
    """The options that the user wrote, such as --top-k."""

    def check(self, prompts: Sequence[str]) -> None:
        """Raises UsageError for wishes that exclude each other, or that nothing would heed."""
        if self.stream and len(prompts) != 1:
            raise UsageError(f"--stream takes one prompt, not {len(prompts)}")
        if self.beams is None and self.length_penalty is not None:
            raise UsageError("--length-penalty has no effect without --beams")
        if self.beams is not None and self.stream:
            raise UsageError("--stream and --beams: no text of a search is certain before its end")
        if self.beams is not None:
            self._refuse((*_CHOICES, "--seed"), "with --beams, which draw nothing")
        elif "--greedy" in self.given:
            self._refuse(("--temperature",), "with --greedy, which is temperature 0")
        if self.sampling.greedy:
            self._refuse((*_RANGES, "--seed"), "where the most likely token is taken")

    def check_objective(self, kind: str) -> None:
        """Raises UsageError for what a model of that objective does not heed."""
        if kind == "diffusion":
            self._refuse(_CHOICES, "on diffusion, which chooses no token after another")
        elif self.steps is not None:
            raise UsageError("--steps has no effect but on a run with the objective diffusion")

    def _refuse(self, options: Sequence[str], where: str) -> None:
        if idle := [option for option in options if option in self.given]:
            has, it = ("has", "it") if len(idle) == 1 else ("have", "them")
            raise UsageError(f"{' and '.join(idle)} {has} no effect {where}; leave {it} out")

    @property
    def search(self) -> BeamConfig | None:
        if self.beams is None:
            return None
        penalty = {} if self.length_penalty is None else {"length_penalty": self.length_penalty}
        return BeamConfig(num_beams=self.beams, **penalty)


def generate_verb(runs: Path, run: str, prompts: Sequence[str], wish: Wish) -> list[str]:
    """What the run writes for each prompt; with ``stream``, the one prompt's is printed as it
    comes."""
    wish.check(prompts)
    # The integer products are a CPU's; elsewhere the weights are made whole at each token.
    device = "cpu" if wish.int8 and wish.device == "auto" else wish.device
    trained, writer = _opened(runs, run, ema=wish.ema, device=device)
    wish.check_objective(objective_config(trained.config).type)
    encoded = _encoded(writer, prompts)
    if wish.int8:
        writer = _in_int8(trained)
    if wish.max_new_tokens is None and writer.model.max_positions is None:
        wish = replace(wish, max_new_tokens=_USUAL_LENGTH)
    stop = StopStrings(writer.tokenizer, wish.stop)
    if wish.stream:
        shown = prompts[0] if trained.config.data.kind == "text" else ""
        return [_streamed(writer, shown, encoded[0], wish, stop)]
    tokens = writer.write(
        encoded,
        max_new_tokens=wish.max_new_tokens,
        sampling=wish.sampling,
        stop=stop,
        beams=wish.search,
        seed=wish.seed,
        steps=wish.steps,
    )
    texts = [stop.cut(writer.tokenizer.decode_bytes(ids)) for ids in tokens]
    return [text.decode("utf-8", errors="replace") for text in texts]


def _in_int8(trained: TrainedModel) -> Writer:
    """The model with 8-bit weights; says what its loss was and what it is."""
    before = validation_loss(trained, _MEASURED_TOKENS)
    if not math.isfinite(before):
        raise NotFiniteError(
            "the validation loss is not finite, with 8-bit weights or without: its training has "
            "diverged; train again with a lower train.lr, or branch from an earlier checkpoint"
        )
    small = replace(trained, model=quantized(trained.model))
    with as_decoded(small.model):
        after = validation_loss(small, _MEASURED_TOKENS)
    if not math.isfinite(after):
        raise NotFiniteError(
            f"with 8-bit weights the validation loss is not finite, in place of {before:.4f} "
            "nats/token; leave --int8 out"
        )
    note(
        f"8-bit weights: validation loss {after:.4f} nats/token in place of {before:.4f} "
        f"({after - before:+.4f}), on at most {_MEASURED_TOKENS:,} tokens"
    )
    return Writer(small.model, small.tokenizer, small.config)


def continues_text(runs: Path, run: str) -> bool:
    """Whether what a run writes goes on from its prompt; else it answers it."""
    from windtunnel.train.run_config import load_run

    return load_run(RunStore(runs).select(run).config_path).config.data.kind == "text"


def classify_verb(
    runs: Path, run: str, texts: Sequence[str], *, ema: bool = False, device: str = "cpu"
) -> list[dict[str, Any]]:
    """The label of each text, and the probability of every label."""
    trained, writer = _opened(runs, run, ema=ema, device=device)
    found = []
    for text, row in zip(texts, writer.classify(_encoded(writer, texts)), strict=True):
        likely = trained.labels[int(np.argmax(row))]
        chances = dict(zip(trained.labels, row, strict=True))
        found.append({"text": text, "label": likely, "probabilities": chances})
    return found


def score_verb(
    runs: Path,
    run: str,
    metrics: Sequence[str],
    *,
    samples: int,
    max_new_tokens: int,
    beams: int | None,
    ema: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """The scores, and each text with its truth."""
    from windtunnel.data.dataset import prepare
    from windtunnel.generate.scores import SCORES
    from windtunnel.train.scoring import score_texts

    trained, _ = _opened(runs, run, ema=ema, device=device)
    found = score_texts(
        trained.model,
        prepare(trained.config.data),
        trained.config,
        metrics or list(SCORES),
        samples=samples,
        max_new_tokens=max_new_tokens,
        beams=None if beams is None else BeamConfig(num_beams=beams),
    )
    texts = [
        {"prompt": prompt, "text": text, "truth": truth}
        for prompt, text, truth in zip(found.prompts, found.written, found.truths, strict=True)
    ]
    return {"scores": found.scores, "texts": texts}


def _opened(runs: Path, run: str, *, ema: bool, device: str) -> tuple[TrainedModel, Writer]:
    place = str(resolve_device(device, "--device"))
    trained = open_trained(RunStore(runs).select(run), device=place, warn=note, ema=ema)
    if isinstance(trained.model, Model):
        trained = replace(trained, model=folded_to_write(trained.model))
    return trained, Writer(trained.model, trained.tokenizer, trained.config)


def _encoded(writer: Writer, prompts: Sequence[str]) -> list[list[int]]:
    encoded = writer.encode(prompts)
    tokenizer = writer.tokenizer
    unknown = sum(tokenizer.count_unknown(np.array(ids, dtype=np.int64)) for ids in encoded)
    if unknown:
        note(f"{unknown} characters of the prompts are unknown to the tokenizer and read as such")
    return encoded


def _streamed(writer: Writer, shown: str, encoded: list[int], wish: Wish, stop: StopStrings) -> str:
    sys.stdout.write(shown)
    text, pieces = TextStream(writer.tokenizer, stop), list[str]()

    def say(piece: str) -> None:
        pieces.append(piece)
        sys.stdout.write(piece)
        sys.stdout.flush()

    for token in writer.stream(
        encoded, max_new_tokens=wish.max_new_tokens, sampling=wish.sampling, stop=stop,
        seed=wish.seed,
    ):  # fmt: skip
        say(text.add(token))
    say(text.close())
    sys.stdout.write("\n")
    return "".join(pieces)
