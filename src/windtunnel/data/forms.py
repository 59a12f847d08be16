"""How samples become batches: which tokens are read, which are to be found, what is cut.

A form says, for prompts of p and truths of q tokens, how many targets a sample gives in rows of at
most ``seq_len`` tokens; 0 where its prompt leaves none, and such a sample is left out. A truth that
is too long loses its last tokens, never its end mark.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from windtunnel.data.config import PadSide
from windtunnel.data.loader import NO_LOSS
from windtunnel.data.samples import Marks
from windtunnel.errors import UsageError

Ids = NDArray[np.int64]


class Encoded(NamedTuple):
    """A sample as ids."""

    prompt: Ids
    truth: Ids
    label: int = -1


@dataclass(frozen=True)
class SampleRows:
    """Prompts and truths in one row each, for a decoder."""

    inputs: Tensor
    """(b, t) int64; 0 at pads"""
    targets: Tensor
    """(b, t) int64: the token after each input where it counts, else −100"""
    real: Tensor
    """(b, t) bool, False at pads"""
    documents: Tensor | None = None
    """(b, t) int64: which sample of its row a token belongs to; None where a row holds one"""

    @property
    def shape_of_documents(self) -> tuple[int, int]:
        """How many rows of what length do as much: as they are, or of documents as long as the mean
        of those that share rows."""
        b, t = self.inputs.shape
        if self.documents is None:
            return b, t
        count = int((self.documents.masked_fill(~self.real, -1).amax(1) + 1).sum())
        return count, -(-b * t // count)


@dataclass(frozen=True)
class Pairs:
    """Sources and what is to be written for each, such as translations."""

    source: Tensor
    """(b, s) int64"""
    source_real: Tensor
    """(b, s) bool, False at pads"""
    inputs: Tensor
    """(b, t) int64: the target, one to the right, after a token that begins it"""
    targets: Tensor
    """(b, t) int64, −100 at pads"""


@dataclass(frozen=True)
class Labelled:
    """Sequences with their classes."""

    inputs: Tensor
    """(b, t) int64, or (b, t, d) vectors"""
    real: Tensor
    """(b, t) bool, False at pads"""
    targets: Tensor
    """(b,) int64: the number of the class"""


@dataclass(frozen=True)
class Whole:
    """Sources and targets in one row each, to be read from both sides."""

    inputs: Tensor
    """(b, t) int64: source and target"""
    targets: Tensor
    """(b, t) int64: the token itself where it belongs to the target, else −100"""
    real: Tensor
    """(b, t) bool, False at pads"""
    fill: Tensor | None = None
    """(b, t) bool: end marks behind the first of a target, which accuracy does not count"""


T = TypeVar("T")


class Form(ABC, Generic[T]):
    """How samples become a batch of type ``T``."""

    def __init__(self, marks: Marks, seq_len: int, padding: PadSide = "right") -> None:
        self.marks, self.seq_len, self.padding = marks, seq_len, padding

    @abstractmethod
    def targets(self, p: Ids, q: Ids) -> Ids:
        """How many targets samples give; 0 where there is no room for any."""

    @abstractmethod
    def whole(self, p: Ids, q: Ids) -> NDArray[np.bool_]:
        """Which samples fit without a cut."""

    @abstractmethod
    def batch(self, samples: Sequence[Encoded]) -> T:
        """The samples side by side, each cut to fit; all of them give a target."""

    def pad(self, rows: Sequence[Ids], fill: int = 0) -> Tensor:
        """Ragged rows as one (b, t)."""
        t = max(len(row) for row in rows)
        found = np.full((len(rows), t), fill, dtype=np.int64)
        for number, row in enumerate(rows):
            start = t - len(row) if self.padding == "left" else 0
            found[number, start : start + len(row)] = row
        return torch.from_numpy(found)

    def real(self, rows: Sequence[Ids]) -> Tensor:
        """(b, t) bool: False at the pads of :meth:`pad`."""
        return self.pad([np.ones(len(row), dtype=np.int64) for row in rows]).bool()

    def ended(self, ids: Ids, room: int) -> Ids:
        """The ids, cut to ``room`` with the end mark."""
        return np.append(ids[: room - 1], self.marks.end).astype(np.int64)


class DecoderForm(Form[SampleRows]):
    """``[begin] prompt truth [end]``: each token from those before it.

    The loss is on the truth and its end mark, or with ``loss_on_all`` on the prompt too.
    """

    def __init__(
        self,
        marks: Marks,
        seq_len: int,
        padding: PadSide = "right",
        *,
        loss_on_all: bool = False,
    ) -> None:
        super().__init__(marks, seq_len, padding)
        self.loss_on_all = loss_on_all

    def inputs(self, p: Ids, q: Ids) -> Ids:
        """How many inputs samples have: all tokens but the last."""
        inputs: Ids = np.minimum(p + q + 1, self.seq_len)
        return inputs

    def targets(self, p: Ids, q: Ids) -> Ids:
        inputs = self.inputs(p, q)
        room = inputs >= np.minimum(p + 2, p + q + 1)
        return np.where(room, inputs - (0 if self.loss_on_all else p), 0)

    def whole(self, p: Ids, q: Ids) -> NDArray[np.bool_]:
        fits: NDArray[np.bool_] = p + q + 1 <= self.seq_len
        return fits

    def row(self, sample: Encoded) -> tuple[Ids, Ids]:
        """Inputs and targets of one sample."""
        p = len(sample.prompt)
        truth = self.ended(sample.truth, self.seq_len - p)
        ids = np.concatenate([[self.marks.begin], sample.prompt, truth]).astype(np.int64)
        targets = ids[1:].copy()
        if not self.loss_on_all:
            targets[:p] = NO_LOSS
        return ids[:-1], targets

    def batch(self, samples: Sequence[Encoded]) -> SampleRows:
        rows = [self.row(sample) for sample in samples]
        inputs = [row for row, _ in rows]
        return SampleRows(
            self.pad(inputs), self.pad([row for _, row in rows], NO_LOSS), self.real(inputs)
        )

    def packed(self, rows: Sequence[Sequence[Encoded]]) -> SampleRows:
        """Several samples in each row, one after the other."""
        inputs, targets, documents = [], [], []
        for samples in rows:
            parts = [self.row(sample) for sample in samples]
            inputs.append(np.concatenate([part for part, _ in parts]))
            targets.append(np.concatenate([part for _, part in parts]))
            sizes = [len(part) for part, _ in parts]
            documents.append(np.repeat(np.arange(len(parts)), sizes))
        return SampleRows(
            self.pad(inputs), self.pad(targets, NO_LOSS), self.real(inputs), self.pad(documents)
        )


class PairForm(Form[Pairs]):
    """An encoder reads ``prompt [end]``, a decoder writes ``truth [end]`` after ``[begin]``."""

    def targets(self, p: Ids, q: Ids) -> Ids:
        room = self.seq_len >= 2
        return np.minimum(q + 1, self.seq_len) * room

    def whole(self, p: Ids, q: Ids) -> NDArray[np.bool_]:
        return (p + 1 <= self.seq_len) & (q + 1 <= self.seq_len)

    def batch(self, samples: Sequence[Encoded]) -> Pairs:
        sources = [self.ended(sample.prompt, self.seq_len) for sample in samples]
        targets = [self.ended(sample.truth, self.seq_len) for sample in samples]
        inputs = [np.concatenate([[self.marks.begin], row[:-1]]) for row in targets]
        return Pairs(
            self.pad(sources), self.real(sources), self.pad(inputs), self.pad(targets, NO_LOSS)
        )


class LabelForm(Form[Labelled]):
    """``[begin] text [end]`` has one class. A text that is too long loses its last tokens."""

    def targets(self, p: Ids, q: Ids) -> Ids:
        return np.full_like(p, self.seq_len >= 3)

    def whole(self, p: Ids, q: Ids) -> NDArray[np.bool_]:
        return p + 2 <= self.seq_len

    def batch(self, samples: Sequence[Encoded]) -> Labelled:
        begin = [self.marks.begin]
        rows = [
            np.concatenate([begin, self.ended(sample.prompt, self.seq_len - 1)])
            for sample in samples
        ]
        labels = torch.tensor([sample.label for sample in samples])
        return Labelled(self.pad(rows), self.real(rows), labels)


class WholeForm(Form[Whole]):
    """``[begin] prompt [end] truth [end] [end] …`` to the whole length: all after the prompt's end
    mark is the target, since how long it is must be found too (DiffuSeq, arXiv 2210.08933)."""

    def targets(self, p: Ids, q: Ids) -> Ids:
        left = self.seq_len - p - 2
        return np.where(left >= 2, left, 0)

    def whole(self, p: Ids, q: Ids) -> NDArray[np.bool_]:
        return p + q + 3 <= self.seq_len

    def batch(self, samples: Sequence[Encoded]) -> Whole:
        end = self.marks.end
        rows = np.full((len(samples), self.seq_len), end, dtype=np.int64)
        targets = rows.copy()
        fill = np.zeros(rows.shape, dtype=np.bool_)
        for number, sample in enumerate(samples):
            start = len(sample.prompt) + 2
            truth = self.ended(sample.truth, self.seq_len - start)
            rows[number, : start - 1] = np.append(self.marks.begin, sample.prompt)
            rows[number, start : start + len(truth)] = truth
            targets[number] = rows[number]
            targets[number, :start] = NO_LOSS
            fill[number, start + len(truth) :] = True
        inputs = torch.from_numpy(rows)
        real = torch.ones_like(inputs, dtype=torch.bool)
        return Whole(inputs, torch.from_numpy(targets), real, torch.from_numpy(fill))


class AnswerForm(Form[SampleRows]):
    """Sequences of a synthetic task; at some places, what is to be found there.

    ``prompt`` is the sequence, ``truth`` its answers: place and id of each, one after the other.
    Nothing is put around a sequence, and nothing is cut.
    """

    def __init__(self, padding: PadSide = "right") -> None:
        super().__init__(Marks(-1, -1), 0, padding)

    def targets(self, p: Ids, q: Ids) -> Ids:
        return q // 2

    def whole(self, p: Ids, q: Ids) -> NDArray[np.bool_]:
        return np.ones(len(p), dtype=np.bool_)

    def batch(self, samples: Sequence[Encoded]) -> SampleRows:
        inputs, targets = [], []
        for sample in samples:
            row = np.full(len(sample.prompt), NO_LOSS, dtype=np.int64)
            row[sample.truth[::2]] = sample.truth[1::2]
            inputs.append(sample.prompt)
            targets.append(row)
        return SampleRows(self.pad(inputs), self.pad(targets, NO_LOSS), self.real(inputs))


def form_of(
    name: str, marks: Marks, *, seq_len: int, padding: PadSide = "right", loss_on_all: bool = False
) -> Form[Any]:
    """The form in which an objective of that name reads samples.

    Raises:
        UsageError: that objective reads no samples.
    """
    if name == "next_token":
        return DecoderForm(marks, seq_len, padding, loss_on_all=loss_on_all)
    forms: dict[str, type[Form[Any]]] = {
        "seq2seq": PairForm,
        "classification": LabelForm,
        "diffusion": WholeForm,
    }
    if name not in forms:
        raise UsageError(f"{name} is not trained on samples")
    return forms[name](marks, seq_len, padding)
