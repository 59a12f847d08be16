"""What a run writes for its validation samples, against what should have been written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from windtunnel.data.dataset import Dataset
from windtunnel.data.sample_loader import Samples
from windtunnel.data.samples import Marks
from windtunnel.errors import UsageError
from windtunnel.generate import BeamConfig, SamplingConfig
from windtunnel.generate.scores import score
from windtunnel.train.feed import form_for
from windtunnel.train.probe_scores import probe_scores
from windtunnel.train.run_config import RunConfig
from windtunnel.train.writing import Writer

_BATCH = 16


@dataclass(frozen=True)
class Scored:
    """Scores, and the texts that they are of."""

    scores: dict[str, float]
    prompts: list[str]
    written: list[str]
    truths: list[str]


def score_texts(
    model: nn.Module,
    dataset: Dataset,
    config: RunConfig,
    names: Sequence[str],
    *,
    samples: int,
    max_new_tokens: int,
    beams: BeamConfig | None = None,
) -> Scored:
    """Scores of the likeliest texts for validation samples, evenly spread over them.

    Of the samples, those whose prompt leaves the model no position to write to are left out.

    Raises:
        UsageError: the data are no pairs, no sample leaves room; or see :func:`score`.
    """
    if dataset.kind != "pairs":
        raise UsageError(
            f"{config.arch.name} is trained on {dataset.kind}: only pairs have a truth to score a "
            "text by"
        )
    writer, decode = Writer(model, dataset.tokenizer, config), dataset.tokenizer.decode
    held = Samples(dataset.valid, form_for(config, Marks.of(dataset.tokenizer)))
    count = min(samples, len(held))
    chosen = held.encoded(np.arange(count) * len(held) // count)
    limit = getattr(model, "max_positions", None) or math.inf
    chosen = [one for one in chosen if len(one.prompt) + 2 <= limit]
    if not chosen:
        raise UsageError(f"no prompt leaves room for a text within {limit} positions")
    prompts, greedy = [one.prompt.tolist() for one in chosen], SamplingConfig(temperature=0.0)
    new = int(min(max_new_tokens, limit - max(map(len, prompts)) - 1))
    written: list[str] = []
    for start in range(0, len(prompts), _BATCH):
        ids = writer.write(
            prompts[start : start + _BATCH], max_new_tokens=new, sampling=greedy, beams=beams
        )
        written += [decode(row) for row in ids]
    truths = [decode(one.truth.tolist()) for one in chosen]
    return Scored(score(names, written, truths), [decode(p) for p in prompts], written, truths)


def scores_of(
    dataset: Dataset, config: RunConfig
) -> Callable[[nn.Module], dict[str, float]] | None:
    """What the recipe's ``scores`` ask for at each evaluation, and what a synthetic task's test
    says; None where they ask for nothing."""
    train = config.train
    if dataset.kind == "probe":
        return probe_scores(dataset, config)
    if not train.scores:
        return None

    def scores(model: nn.Module) -> dict[str, float]:
        return score_texts(
            model, dataset, config, train.scores, samples=train.score_samples,
            max_new_tokens=train.seq_len,
        ).scores  # fmt: skip

    return scores
