"""What a run writes for its validation samples, against what should have been written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from windtunnel.data.dataset import prepare
from windtunnel.data.sample_loader import Samples
from windtunnel.data.samples import Marks
from windtunnel.errors import UsageError
from windtunnel.generate import BeamConfig, SamplingConfig
from windtunnel.generate.scores import score
from windtunnel.train.feed import form_for
from windtunnel.train.launch import TrainedModel
from windtunnel.train.writing import Writer

_BATCH = 16


@dataclass(frozen=True)
class Scored:
    """Scores, and the texts that they are of."""

    scores: dict[str, float]
    prompts: list[str]
    written: list[str]
    truths: list[str]


def score_run(
    trained: TrainedModel,
    names: Sequence[str],
    *,
    samples: int,
    max_new_tokens: int,
    beams: BeamConfig | None = None,
) -> Scored:
    """Scores of the likeliest texts for the first validation samples, evenly spread.

    Raises:
        UsageError: the run was not trained on pairs; or see :func:`score`.
    """
    dataset = prepare(trained.config.data)
    if dataset.kind != "pairs":
        raise UsageError(
            f"{trained.config.arch.name} was trained on {dataset.kind}: only pairs have a truth to "
            "score a text by"
        )
    decode, writer = (
        dataset.tokenizer.decode,
        Writer(trained.model, trained.tokenizer, trained.config),
    )
    held = Samples(dataset.valid, form_for(trained.config, Marks.of(dataset.tokenizer)))
    count = min(samples, len(held))
    chosen = held.encoded(np.arange(count) * len(held) // count)
    prompts, greedy = [one.prompt.tolist() for one in chosen], SamplingConfig(temperature=0.0)
    written: list[str] = []
    for start in range(0, count, _BATCH):
        ids = writer.write(
            prompts[start : start + _BATCH], max_new_tokens=max_new_tokens, sampling=greedy,
            beams=beams,
        )  # fmt: skip
        written += [decode(row) for row in ids]
    truths = [decode(one.truth.tolist()) for one in chosen]
    return Scored(score(names, written, truths), [decode(p) for p in prompts], written, truths)
