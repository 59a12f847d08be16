"""What a run is fed: its batches, and what it is evaluated on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from windtunnel.data.dataset import Dataset
from windtunnel.data.forms import Form, Pairs, SampleRows, form_of
from windtunnel.data.loader import Batches, evaluation_batches
from windtunnel.data.sample_loader import PackedBatches, SampleBatches, Samples, evaluation_samples
from windtunnel.data.samples import Marks
from windtunnel.errors import UsageError
from windtunnel.train.batch import IGNORED, BatchSource, TokenBatch
from windtunnel.train.config import TrainConfig
from windtunnel.train.objectives.config import NextTokenConfig
from windtunnel.train.objectives.row_cost import StepSize
from windtunnel.train.run_config import RunConfig, objective_config

_MEASURED = 16
"""Batches that are looked at for the shape of all."""


@dataclass(frozen=True)
class Feed:
    """The data of a run, in the form that its objective reads."""

    batches: BatchSource
    valid: Iterable[TokenBatch]
    """Gone through at every evaluation."""
    notes: tuple[str, ...] = ()
    """Which samples were left out or cut, in words."""
    skipped: int = 0
    """Samples of both sides that were left out."""
    cut: int = 0
    """Samples of both sides that lost tokens."""
    step: StepSize | None = None
    """What a step comes to; None where it is full rows of text."""


class Again:
    """An iterable that can be gone through as often as asked."""

    def __init__(self, begin: Callable[[], Iterator[Any]]) -> None:
        self._begin = begin

    def __iter__(self) -> Iterator[Any]:
        return self._begin()


def feed_of(dataset: Dataset, config: RunConfig) -> Feed:
    """Batches and evaluation of a run.

    Raises:
        UsageError: too little data for one batch, no sample with room for a target, or labels that
            are not as many as the head's classes.
    """
    if dataset.kind == "text":
        return _text_feed(dataset, config)
    if dataset.kind == "labels":
        _check_classes(dataset, config)
    train = config.train
    form = form_for(config, Marks.of(dataset.tokenizer))
    side, held = Samples(dataset.train, form), Samples(dataset.valid, form)

    def valid() -> Iterator[Any]:
        return evaluation_samples(
            held,
            batch_size=train.largest_micro_batch,
            max_tokens=train.eval_tokens,
        )

    packed = config.data.packing == "documents"
    stream = PackedBatches if packed else SampleBatches
    batches: Any = stream(side, batch_size=train.batch_size, seed=train.seed)
    per_step = float(side.targets.mean()) * train.batch_size
    if packed:
        per_step *= len(side) / len(batches.rows)
    return Feed(
        batches,
        Again(valid),
        tuple(note for note in (side.note("train"), held.note("valid")) if note is not None),
        side.skipped + held.skipped,
        side.cut + held.cut,
        StepSize(per_step, _shapes(batches)),
    )


def _shapes(batches: BatchSource) -> tuple[tuple[int, int, int], ...]:
    """Of the first batches: rows, their tokens, and those of a source."""
    found = []
    for position in range(_MEASURED):
        batch: Any = batches.at(position)
        if isinstance(batch, SampleRows):
            found.append((*batch.shape_of_documents, 0))
            continue
        rows, t = batch.inputs.shape
        found.append((rows, t, batch.source.shape[1] if isinstance(batch, Pairs) else 0))
    return tuple(found)


def form_for(config: RunConfig, marks: Marks) -> Form[Any]:
    """The form in which a run reads its samples."""
    objective = objective_config(config)
    everything = isinstance(objective, NextTokenConfig) and objective.loss_on == "all"
    return form_of(
        objective.type, marks, seq_len=config.train.seq_len, padding=config.data.padding,
        loss_on_all=everything,
    )  # fmt: skip


def _text_feed(dataset: Dataset, config: RunConfig) -> Feed:
    train = config.train

    def valid() -> Iterator[Any]:
        return evaluation_batches(
            dataset.valid.tokens,
            seq_len=train.seq_len,
            batch_size=train.largest_micro_batch,
            max_tokens=train.eval_tokens,
        )

    valid()  # raises where there is too little, at the call
    if config.data.packing == "documents":
        return _apart(dataset, train, valid)
    batches = Batches(
        dataset.train.tokens,
        seq_len=train.seq_len,
        batch_size=train.batch_size,
        seed=train.seed,
    )
    return Feed(batches, Again(valid))


def _apart(dataset: Dataset, train: TrainConfig, valid: Callable[[], Iterator[Any]]) -> Feed:
    """The same rows, with documents that do not see each other."""
    tokenizer = dataset.tokenizer
    if tokenizer.bos is None and tokenizer.eos is None:
        raise UsageError(
            "data.packing: documents end with eos or begin with bos; specials has none"
        )
    batches = Batches(
        dataset.train.tokens,
        seq_len=train.seq_len,
        batch_size=train.batch_size,
        seed=train.seed,
    )
    rows = DocumentRows(tokenizer.bos, tokenizer.eos)
    return Feed(
        Mapped(batches, rows.of),
        Again(lambda: (rows.of(batch) for batch in valid())),
    )


@dataclass(frozen=True)
class Mapped:
    """Batches that are changed before they are read."""

    batches: BatchSource
    change: Callable[[Any], Any]

    def at(self, position: int) -> TokenBatch:
        """Batch number ``position``, changed."""
        changed: TokenBatch = self.change(self.batches.at(position))
        return changed


@dataclass(frozen=True)
class DocumentRows:
    """Finds where documents begin in rows of a text: at ``bos``, or else after ``eos``."""

    bos: int | None
    eos: int | None

    def of(self, batch: TokenBatch) -> SampleRows:
        """The same inputs and targets, with the document of each token."""
        inputs = batch.inputs
        if self.bos is not None:
            begins = inputs == self.bos
        else:
            begins = torch.zeros_like(inputs, dtype=torch.bool)
            begins[:, 1:] = inputs[:, :-1] == self.eos
        begins[:, 0] = False  # a row begins with the document that it is cut out of
        return SampleRows(inputs, batch.targets, batch.targets != IGNORED, begins.cumsum(1))


def _check_classes(dataset: Dataset, config: RunConfig) -> None:
    classes, labels = config.arch.head.num_classes, dataset.labels
    if classes != len(labels):
        shown = ", ".join(repr(label) for label in labels[:8]) + ", …" * (len(labels) > 8)
        raise UsageError(
            f"arch.head.num_classes is {classes}, but the training side has {len(labels)} labels "
            f"({shown}); set it to {len(labels)}"
        )
