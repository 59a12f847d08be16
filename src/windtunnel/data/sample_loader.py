"""Batches of samples, by random access; the loader's state is one integer."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from windtunnel.data.forms import DecoderForm, Encoded, Form, Ids, SampleRows
from windtunnel.data.order import KeyedPermutation
from windtunnel.data.packing import TokenFile
from windtunnel.errors import UsageError

T = TypeVar("T")


class Samples(Generic[T]):
    """The samples of one side that give a target in some form, in the order of the file.

    ``part`` are those to take; all, unless told.

    Raises:
        UsageError: none does.
    """

    def __init__(self, file: TokenFile, form: Form[T], part: slice = slice(None)) -> None:
        assert file.samples is not None, "a text was taken for samples"
        self.file, self.form = file, form
        starts = np.concatenate([[0], file.samples[:-1, 1]])
        self._ends, self._starts = file.samples[part], starts[part]
        truth_ends = self._ends[:, 1]
        self._p = np.asarray(self._ends[:, 0] - self._starts)
        self._q = np.asarray(truth_ends - self._ends[:, 0])
        targets = form.targets(self._p, self._q)
        self.kept: Ids = np.flatnonzero(targets > 0)
        self.targets: Ids = targets[self.kept]
        """How many each of the kept samples gives."""
        self.skipped = len(targets) - len(self.kept)
        """Samples whose prompt leaves no target."""
        whole = form.whole(self._p, self._q)
        self.cut = int((~whole[self.kept]).sum())
        """Kept samples that lose tokens."""
        if not len(self.kept):
            raise UsageError(
                f"train.seq_len: none of the {len(targets)} samples leaves a token to learn within "
                f"{form.seq_len} tokens; the shortest prompt has {self._p.min()}"
            )

    def __len__(self) -> int:
        return len(self.kept)

    def lengths(self) -> tuple[Ids, Ids]:
        """Tokens of the kept samples' prompts and truths."""
        return self._p[self.kept], self._q[self.kept]

    def encoded(self, numbers: NDArray[np.int64]) -> list[Encoded]:
        """Some of the kept samples, by their place among them."""
        found = []
        for index in self.kept[numbers].tolist():
            start, (middle, end, label) = self._starts[index], self._ends[index].tolist()
            tokens = self.file.tokens
            prompt, truth = tokens[start:middle], tokens[middle:end]
            found.append(Encoded(prompt.astype(np.int64), truth.astype(np.int64), label))
        return found

    def note(self, side: str) -> str | None:
        """What was left out or cut, in words; None where nothing was."""
        parts = []
        if self.skipped:
            parts.append(f"{self.skipped} left out, their prompts leave no token to learn")
        if self.cut:
            parts.append(f"{self.cut} cut")
        if not parts:
            return None
        total = self.skipped + len(self)
        return f"{side}: of {total} samples at {self.form.seq_len} tokens " + "; ".join(parts)


class SampleBatches(Generic[T]):
    """The endless stream of training batches of samples.

    In each epoch every sample comes once, in a keyed permutation of (seed, epoch); batches run on
    over the end of an epoch. Batch ``position`` is known without the ones before it.

    Raises:
        UsageError: fewer samples than one batch holds.
    """

    def __init__(self, samples: Samples[T], *, batch_size: int, seed: int) -> None:
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        _check_count(len(samples), batch_size, "samples")

    def at(self, position: int) -> T:
        """Batch number ``position``, from 0."""
        chosen = _chosen(len(self.samples), self.batch_size, self.seed, position)
        return self.samples.form.batch(self.samples.encoded(chosen))

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self.samples)

    def take(self, numbers: NDArray[np.int64]) -> list[Encoded]:
        """Samples by their numbers in the stream, from 0."""
        return self.samples.encoded(_ordered(len(self.samples), self.seed, numbers))


class PackedBatches:
    """As :class:`SampleBatches`, with several samples in a row of at most seq_len tokens.

    Which samples share a row is drawn once, by ``seed``: the longest first, each into the fullest
    row that has room ("best fit decreasing"). In each epoch every row comes once.

    Raises:
        UsageError: fewer rows than one batch holds.
    """

    def __init__(self, samples: Samples[SampleRows], *, batch_size: int, seed: int) -> None:
        form = samples.form
        assert isinstance(form, DecoderForm), "only rows of a decoder hold several samples"
        self._form, self.samples = form, samples
        self.batch_size, self.seed = batch_size, seed
        self.rows = pack(form.inputs(*samples.lengths()), form.seq_len, seed)
        _check_count(len(self.rows), batch_size, "rows of samples")

    def at(self, position: int) -> SampleRows:
        """Batch number ``position``, from 0."""
        chosen = _chosen(len(self.rows), self.batch_size, self.seed, position)
        return self._form.packed([self.samples.encoded(self.rows[row]) for row in chosen])

    def __len__(self) -> int:
        """Rows of an epoch."""
        return len(self.rows)

    def take(self, numbers: NDArray[np.int64]) -> list[list[Encoded]]:
        """The samples of rows by their numbers in the stream, from 0."""
        chosen = _ordered(len(self.rows), self.seed, numbers)
        return [self.samples.encoded(self.rows[row]) for row in chosen.tolist()]


def pack(lengths: Ids, room: int, seed: int) -> list[NDArray[np.int64]]:
    """Which samples share a row; their lengths add up to at most ``room``."""
    shuffled = KeyedPermutation(len(lengths), "pack", seed)(np.arange(len(lengths)))
    order = shuffled[np.argsort(-lengths[shuffled], kind="stable")]
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for index in order.tolist():
        length = int(lengths[index])
        place = bisect_left(free, (length, -1))
        if place < len(free):
            left, row = free.pop(place)
        else:
            left, row = room, len(rows)
            rows.append([])
        rows[row].append(index)
        if left > length:
            insort(free, (left - length, row))
    return [np.array(row, dtype=np.int64) for row in rows]


def evaluation_samples(
    samples: Samples[T], *, batch_size: int, max_tokens: int | None = None
) -> Iterator[T]:
    """Fixed batches in the order of the file, for evaluation.

    With ``max_tokens`` the samples are spread evenly over the file, as many as are needed for so
    many targets.
    """
    count = len(samples)
    if max_tokens is not None:
        count = min(count, int(np.ceil(max_tokens / samples.targets.mean())))
    chosen = np.arange(count, dtype=np.int64) * len(samples) // count

    def batches() -> Iterator[T]:
        for first in range(0, count, batch_size):
            yield samples.form.batch(samples.encoded(chosen[first : first + batch_size]))

    return batches()


def _check_count(count: int, batch_size: int, what: str) -> None:
    if count < batch_size:
        raise UsageError(
            f"the training side has {count} {what}, but train.batch_size is {batch_size}; make the "
            "batch smaller or give more data"
        )


def _chosen(count: int, batch_size: int, seed: int, position: int) -> Any:
    """The numbers of a batch: those of a permutation of 0 … count − 1 in each epoch."""
    assert position >= 0
    places = np.arange(position * batch_size, (position + 1) * batch_size, dtype=np.int64)
    return _ordered(count, seed, places)


def _ordered(count: int, seed: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """What stands at places of the stream in which each epoch has its own order."""
    chosen = np.empty_like(places)
    epochs = places // count
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        chosen[here] = KeyedPermutation(count, seed, epoch)(places[here] % count)
    return chosen
