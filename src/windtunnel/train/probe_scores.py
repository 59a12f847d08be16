"""How many answers of a synthetic task's test a model finds: by length, and for all to see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from windtunnel.data.dataset import Dataset
from windtunnel.data.forms import AnswerForm, SampleRows
from windtunnel.data.probe import ProbeSource
from windtunnel.data.sample_loader import Samples
from windtunnel.data.tokenizers import Tokenizer
from windtunnel.train.batch import IGNORED, moved
from windtunnel.train.evaluation import evaluation_mode
from windtunnel.train.run_config import RunConfig

_SHOWN = 3
TEST = "test_accuracy"


def probe_scores(dataset: Dataset, config: RunConfig) -> Callable[[nn.Module], dict[str, float]]:
    """What is measured on the test at each evaluation, and nothing is chosen by.

    ``test_accuracy``: the share of answers found, of sequences of the own length;
    ``test_accuracy_at_N``: of those of N tokens.
    """
    task = config.data.source
    assert isinstance(task, ProbeSource)
    assert dataset.test is not None
    assert dataset.test.samples is not None
    groups = dataset.test.samples[:, 2]
    samples = Samples(dataset.test, AnswerForm(config.data.padding))
    names = [TEST, *(f"{TEST}_at_{length}" for length in task.lengths[1:])]
    rows = config.train.largest_micro_batch

    def scores(model: nn.Module) -> dict[str, float]:
        found: dict[str, float] = {}
        for group, name in enumerate(names):
            chosen = np.flatnonzero(groups == group)
            hits = targets = 0
            for _, right, sought in _found(model, samples, chosen, rows):
                hits, targets = hits + int(right.sum()), targets + int(sought.sum())
            found[name] = hits / targets
        return found

    return scores


def probe_texts(model: nn.Module, dataset: Dataset, config: RunConfig) -> list[dict[str, str]]:
    """Some validation sequences, what the model finds in them, and what there was to find."""
    samples = Samples(dataset.valid, AnswerForm(config.data.padding))
    count = min(_SHOWN, len(samples))
    chosen = np.arange(count, dtype=np.int64) * len(samples) // count
    texts = []
    for encoded, (guess, _, sought) in zip(
        samples.encoded(chosen), _by_row(model, samples, chosen), strict=True
    ):
        texts.append(
            {
                "prompt": _text(dataset.tokenizer, encoded.prompt),
                "text": _text(dataset.tokenizer, guess[sought]),
                "truth": _text(dataset.tokenizer, encoded.truth[1::2]),
            }
        )
    return texts


def _text(tokenizer: Tokenizer, ids: Any) -> str:
    return tokenizer.decode(ids.tolist()).strip()


def _by_row(model: nn.Module, samples: Samples[SampleRows], chosen: Any) -> Iterator[Any]:
    for guess, right, sought in _found(model, samples, chosen, len(chosen)):
        yield from zip(guess, right, sought, strict=True)


def _found(
    model: nn.Module, samples: Samples[SampleRows], chosen: Any, rows: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(b, t) of each batch: the likeliest ids, where they are right, and where one is sought."""
    device = next(model.parameters()).device
    for first in range(0, len(chosen), rows):
        batch = moved(samples.form.batch(samples.encoded(chosen[first : first + rows])), device)
        with evaluation_mode(model), torch.no_grad():
            guess = model(batch.inputs, batch.real).argmax(-1).cpu()
        targets = batch.targets.cpu()
        yield guess, guess == targets, targets != IGNORED
