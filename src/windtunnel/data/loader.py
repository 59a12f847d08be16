"""Batches of next-token prediction, by random access; the loader's state is one integer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from windtunnel.data.order import KeyedPermutation, keyed_number
from windtunnel.errors import UsageError

NO_LOSS = -100
"""The target that takes no part in a loss: PyTorch's ``ignore_index``."""


@dataclass(frozen=True)
class Batch:
    """Sequences side by side. A position is real where its target is not `NO_LOSS`."""

    inputs: Tensor
    """b t, int64: token ids; 0 beside a short window."""
    targets: Tensor
    """b t, int64: the token after each input; −100 beside a short window."""
    epoch: float
    """Passes over the data when this batch is done."""
    tokens: int
    """Targets that count."""


class Batches:
    """The endless stream of training batches of a token file.

    Its N tokens hold N − 1 pairs (token, the next token). In each epoch the pairs, seen as a ring
    and turned by a keyed offset, are cut into ceil((N − 1) / seq_len) windows, the last one short;
    the windows come in a keyed permutation of (seed, epoch). So every pair comes exactly once in
    an epoch, window borders move from epoch to epoch, and batch ``position`` is known without
    the ones before it. The stream of windows runs on over the end of an epoch, within a
    batch too. The window across the ring's seam meets the start of the corpus after its end, as
    it meets any next document.

    Args:
        tokens: N token ids (a `TokenFile`'s ``tokens``).
        seq_len: t, the pairs of a window.
        batch_size: b, the windows of a batch.
        seed: of the order, shared by the runs that are to see the same batches.

    Raises:
        UsageError: fewer pairs than one batch holds.
    """

    def __init__(self, tokens: NDArray[Any], *, seq_len: int, batch_size: int, seed: int) -> None:
        _check_sizes(seq_len, batch_size)
        self._tokens = tokens
        self.seq_len, self.batch_size, self.seed = seq_len, batch_size, seed
        self._pairs = len(tokens) - 1
        if self._pairs < seq_len * batch_size:
            raise UsageError(
                f"the training text is shorter than one batch: {len(tokens)} tokens, but "
                f"batch_size {batch_size} × seq_len {seq_len} + 1 = {batch_size * seq_len + 1} "
                "are needed; make the batch smaller or give more text"
            )
        self.windows_per_epoch = -(-self._pairs // seq_len)

    @property
    def tokens_per_epoch(self) -> int:
        """Targets in one pass over the data: one less than there are tokens."""
        return self._pairs

    def at(self, position: int) -> Batch:
        """Batch number ``position``, from 0."""
        assert position >= 0
        rows = np.arange(position * self.batch_size, (position + 1) * self.batch_size)
        passes = (position + 1) * self.batch_size / self.windows_per_epoch
        return _gather(self._tokens, *self._windows(rows), self.seq_len, passes)

    def __len__(self) -> int:
        """Windows of an epoch."""
        return self.windows_per_epoch

    def take(self, numbers: NDArray[np.int64]) -> list[Batch]:
        """Windows by their numbers in the stream, from 0: each as a batch of one row."""
        passes = (int(numbers.max()) + 1) / self.windows_per_epoch
        found = _gather(self._tokens, *self._windows(numbers), self.seq_len, passes)
        rows = zip(torch.split(found.inputs, 1), torch.split(found.targets, 1), strict=True)
        return [Batch(x, y, passes, int((y != NO_LOSS).sum())) for x, y in rows]

    def _windows(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where windows begin, in pairs of the ring, and how many pairs they hold."""
        starts = np.empty_like(rows)
        lengths = np.empty_like(rows)
        epochs = rows // self.windows_per_epoch
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            window = self._order(epoch)(rows[chosen] % self.windows_per_epoch)
            first = window * self.seq_len
            starts[chosen] = first + self._offset(epoch)
            lengths[chosen] = np.minimum(self.seq_len, self._pairs - first)
        return starts, lengths

    def _order(self, epoch: int) -> KeyedPermutation:
        return KeyedPermutation(self.windows_per_epoch, self.seed, epoch)

    def _offset(self, epoch: int) -> int:
        return keyed_number("offset", self.seed, epoch) % self._pairs


def stacked(rows: Sequence[Batch]) -> Batch:
    """Batches, one below the other."""
    return Batch(
        torch.cat([row.inputs for row in rows]),
        torch.cat([row.targets for row in rows]),
        max(row.epoch for row in rows),
        sum(row.tokens for row in rows),
    )


def evaluation_batches(
    tokens: NDArray[Any], *, seq_len: int, batch_size: int, max_tokens: int | None = None
) -> Iterator[Batch]:
    """Fixed batches in the order of the text, for evaluation.

    Without ``max_tokens`` every token but the first is a target exactly once. With it, windows
    spread evenly over the whole file give exactly ``max_tokens`` targets (or all, when there are
    fewer). The last window may be short, and the last batch may have fewer rows.

    Raises:
        UsageError: fewer than two tokens, or a size below 1; at the call, not at the first batch.
    """
    _check_sizes(seq_len, batch_size)
    pairs = len(tokens) - 1
    if pairs < 1:
        raise UsageError(f"the text to evaluate on has {len(tokens)} tokens; 2 are needed")
    if max_tokens is not None and max_tokens < 1:
        raise UsageError(f"cannot evaluate on {max_tokens} tokens (allowed: 1 and more)")
    wanted = pairs if max_tokens is None else min(max_tokens, pairs)
    count, windows = -(-wanted // seq_len), -(-pairs // seq_len)
    # count < windows makes every chosen window but the last of the file a full one.
    starts = np.arange(count, dtype=np.int64) * windows // count * seq_len
    lengths = np.full(count, seq_len, dtype=np.int64)
    lengths[-1] = wanted - (count - 1) * seq_len

    def batches() -> Iterator[Batch]:
        for first in range(0, count, batch_size):
            rows = slice(first, first + batch_size)
            done = int(lengths[: first + batch_size].sum()) / pairs
            yield _gather(tokens, starts[rows], lengths[rows], seq_len, done)

    return batches()


def _check_sizes(seq_len: int, batch_size: int) -> None:
    for name, value in (("seq_len", seq_len), ("batch_size", batch_size)):
        if value < 1:
            raise UsageError(f"{name} {value} is not allowed: it must be 1 or more")


def _gather(
    tokens: NDArray[Any],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    seq_len: int,
    epoch: float,
) -> Batch:
    """The windows that begin at pairs ``starts`` (of the ring) and hold ``lengths`` pairs each."""
    steps = np.arange(seq_len)
    pairs = (starts[:, None] + steps) % (len(tokens) - 1)  # b t
    real = steps < lengths[:, None]
    inputs = np.where(real, tokens[pairs], 0).astype(np.int64)
    targets = np.where(real, tokens[pairs + 1].astype(np.int64), NO_LOSS)
    return Batch(
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        epoch=epoch,
        tokens=int(lengths.sum()),
    )
