"""What a run is fed: its batches, and what it is evaluated on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from pydantic import ValidationError

from windtunnel.data.dataset import Dataset
from windtunnel.data.forms import AnswerForm, DecoderForm, Form, Pairs, SampleRows, form_of
from windtunnel.data.loader import Batches, evaluation_batches, stacked
from windtunnel.data.plan import Mix, PlannedBatches, PlannedStage, RowSource
from windtunnel.data.sample_loader import PackedBatches, SampleBatches, Samples, evaluation_samples
from windtunnel.data.samples import Marks
from windtunnel.errors import UsageError
from windtunnel.train.batch import IGNORED, TokenBatch
from windtunnel.train.config import TrainConfig
from windtunnel.train.objectives.config import NextTokenConfig
from windtunnel.train.objectives.row_cost import StepSize
from windtunnel.train.run_config import RunConfig, objective_config
from windtunnel.train.stage_config import StageConfig

ALL = ""
"""The name of the stream of all data together."""

_MEASURED = 16
"""Batches that are looked at for the shape of all."""


@dataclass(frozen=True)
class Feed:
    """The data of a run, in the form that its objective reads."""

    batches: PlannedBatches
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
    """Batches and evaluation of a run; its stages must be settled.

    Raises:
        UsageError: too little data for one batch, no sample with room for a target, or labels that
            are not as many as the head's classes.
    """
    if dataset.kind == "text":
        return _text_feed(dataset, config)
    if dataset.kind == "labels":
        _check_classes(dataset, config)
    train = config.train
    form = _form(dataset, config)
    side, held = Samples(dataset.train, form), Samples(dataset.valid, form)

    def valid() -> Iterator[Any]:
        return evaluation_samples(
            held,
            batch_size=train.largest_micro_batch,
            max_tokens=train.eval_tokens,
        )

    collate = form.packed if isinstance(form, DecoderForm) and _packs(config) else form.batch
    sources = row_sources(dataset, config)
    batches = _planned(train, sources, collate)
    streams = [cast("Any", source) for source in sources.values()]
    targets = sum(int(stream.samples.targets.sum()) for stream in streams)
    per_step = targets / sum(len(stream) for stream in streams) * train.batch_size
    return Feed(
        batches,
        Again(valid),
        tuple(note for note in (side.note("train"), held.note("valid")) if note is not None),
        side.skipped + held.skipped,
        side.cut + held.cut,
        StepSize(per_step, _shapes(batches)),
    )


def _shapes(batches: PlannedBatches) -> tuple[tuple[int, int, int], ...]:
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


def row_sources(dataset: Dataset, config: RunConfig) -> dict[str, RowSource]:
    """The streams that the stages of a run read; without stages, that of all the data.

    Raises:
        UsageError: one has too few rows.
    """
    train = config.train
    names = dict.fromkeys(name for stage in train.stages for name in stage.data or (ALL,))
    sizes = [stage.batch_size or train.batch_size for stage in train.stages if not stage.data]
    form: Any = None if dataset.kind == "text" else _form(dataset, config)
    found: dict[str, RowSource] = {}
    for name in names or (ALL,):
        part = slice(*dataset.parts[name]["train"]) if name != ALL else slice(None)
        size = max(sizes, default=train.batch_size) if name == ALL else 1
        try:
            if form is None:
                found[name] = Batches(
                    dataset.train.tokens[part],
                    seq_len=train.seq_len, batch_size=size, seed=train.seed,
                )  # fmt: skip
            else:
                samples = Samples(dataset.train, form, part)
                stream = PackedBatches if _packs(config) else SampleBatches
                found[name] = cast("Any", stream)(samples, batch_size=size, seed=train.seed)
        except UsageError as error:
            place = f"data.sources.{name}: " if name != ALL else ""
            raise UsageError(f"{place}{error}") from error
    return found


def settled(config: RunConfig, dataset: Dataset) -> RunConfig:
    """The run with the length of each stage as a number of steps or rows.

    An epoch of a source is as many rows as it has, wherever the stage begins in it.
    """
    if config.train.settled:
        return config
    sources = row_sources(dataset, config)
    stages = []
    for index, stage in enumerate(config.train.stages):
        if stage.epochs is not None:
            mix = Mix(weights_of(stage), index)
            ends = [
                mix.rows_until(name, max(1, round(stage.epochs * len(sources[name]))))
                for name in mix.names
            ]
            rows = min(ends) if stage.until == "first_exhausted" else max(ends)
            stage = stage.replace(epochs=None, until="first_exhausted", rows=rows)
        stages.append(stage)
    try:
        return config.replace(train=config.train.with_stages(stages))
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"train.{reason}; the stages come to that with this data") from error


def weights_of(stage: StageConfig) -> dict[str, int]:
    """The weights of a stage's sources; where it names none, all data is one source."""
    return stage.data or {ALL: 1}


def _planned(
    train: TrainConfig, sources: Mapping[str, RowSource], collate: Callable[[list[Any]], Any]
) -> PlannedBatches:
    stages = [
        PlannedStage(
            weights_of(stage),
            stage.batch_size or train.batch_size,
            stage.known_rows(train.batch_size) or 0,
        )
        for stage in train.stages
    ]
    whole = PlannedStage({ALL: 1}, train.batch_size, train.steps * train.batch_size)
    return PlannedBatches(sources, stages or [whole], collate=collate)


def form_for(config: RunConfig, marks: Marks) -> Form[Any]:
    """The form in which a run reads its samples."""
    objective = objective_config(config)
    everything = isinstance(objective, NextTokenConfig) and objective.loss_on == "all"
    return form_of(
        objective.type, marks, seq_len=config.train.seq_len, padding=config.data.padding,
        loss_on_all=everything,
    )  # fmt: skip


def _form(dataset: Dataset, config: RunConfig) -> Form[Any]:
    if dataset.kind == "probe":
        return AnswerForm(config.data.padding)
    return form_for(config, Marks.of(dataset.tokenizer))


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
    sources = row_sources(dataset, config)
    if not _packs(config):
        return Feed(_planned(train, sources, stacked), Again(valid))
    tokenizer = dataset.tokenizer
    if tokenizer.bos is None and tokenizer.eos is None:
        raise UsageError(
            "data.packing: documents end with eos or begin with bos; specials has none"
        )
    rows = DocumentRows(tokenizer.bos, tokenizer.eos)
    return Feed(
        _planned(train, sources, lambda found: rows.of(stacked(found))),
        Again(lambda: (rows.of(batch) for batch in valid())),
    )


def _packs(config: RunConfig) -> bool:
    return config.data.packing == "documents"


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
