"""The graph of an architecture as tensors: kinds and features of operations, distances of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from windtunnel.hyper.anatomy import KINDS, Anatomy

FEATURES = 16
"""Numbers that describe an operation beside its kind."""

FAR = 64
"""Distances from here on count as this one."""

BUCKETS = 14
"""Distances are told apart as 0, 1, 2, 3, 4 and then by doublings of half steps; the last bucket is
of pairs without a path."""


@dataclass(frozen=True)
class Graph:
    """What the encoder reads."""

    kinds: Tensor
    """(n,): numbers of kinds."""
    features: Tensor
    """(n, FEATURES)"""
    ahead: Tensor
    """(n, n), uint8: the bucket of the shortest path from row to column. The way back is its
    transpose."""


@lru_cache(maxsize=512)
def graph_of(anatomy: Anatomy) -> Graph:
    """The graph of an anatomy, in closed form; cached by structure."""
    kinds = np.array([KINDS.index(op.kind) for op in anatomy.ops])
    return Graph(
        torch.from_numpy(kinds),
        torch.from_numpy(_features(anatomy)),
        torch.from_numpy(np.take(_BUCKET_OF, distances(anatomy))),
    )


def distances(anatomy: Anatomy) -> NDArray[np.int16]:
    """(n, n): steps of the shortest path from one operation to another, at most ``FAR``;
    ``FAR + 1`` where there is none.

    Segments follow each other, and a residual makes crossing one a single step. So a path from u to
    a later segment is: out of u's segment, across those between, into v's. With C the summed
    crossings that is (C + way in)(v) − (C − way out)(u): a difference of two vectors. Small
    integers keep the square of them fast.
    """
    segments = anatomy.segments
    crossing = np.array([1 if s.skipped else s.length for s in segments])
    before = np.concatenate([[0], np.cumsum(crossing)])
    length = np.array([s.length for s in segments])
    skipped = np.array([s.skipped for s in segments])
    at = np.array([op.segment for op in anatomy.ops])
    place = np.array([op.place for op in anatomy.ops])
    way_in = np.where(skipped[at] & (place == length[at]), 1, place)
    way_out = length[at] - place
    arrival = (before[at] + way_in).astype(np.int16)
    departure = (before[at + 1] - way_out).astype(np.int16)
    found: NDArray[np.int16] = arrival[None, :] - departure[:, None]
    np.minimum(found, FAR, out=found)
    rows = np.arange(len(at))
    first = np.searchsorted(at, at)
    found[rows[None, :] < first[:, None]] = FAR + 1
    _inside(found, first, np.searchsorted(at, at, side="right"), place)
    return found


def _inside(
    found: NDArray[np.int16], first: NDArray[np.int64], end: NDArray[np.int64],
    place: NDArray[np.int64],
) -> None:  # fmt: skip
    """Fills in the pairs of one segment, whose operations are ``first`` to ``end``."""
    rows = np.arange(len(place))
    for step in range(int((end - first).max())):
        u = rows[first + step < end]
        v = first[u] + step
        steps = place[v] - place[u]
        found[u, v] = np.where(steps > 0, steps, np.where(u == v, 0, FAR + 1))


def _bucket_table() -> NDArray[np.uint8]:
    steps = np.arange(FAR + 2)
    near = np.minimum(steps, 4)
    further = 4 + np.floor(2 * np.log2(np.maximum(steps, 4) / 4))
    table = np.where(steps <= 4, near, further).astype(np.uint8)
    table[FAR + 1] = BUCKETS - 1
    assert table[FAR] < BUCKETS - 1
    return table


_BUCKET_OF = _bucket_table()


def _features(anatomy: Anatomy) -> NDArray[np.float32]:
    """Depth and sizes, each of about unit size; those of the whole stand in every row."""
    n = len(anatomy.ops)
    out = np.zeros((n, FEATURES), dtype=np.float32)
    layers, d = anatomy.n_layer, anatomy.d_model
    numbers: list[Any] = [op.layer if op.layer is not None else -1 for op in anatomy.ops]
    layer = np.array(numbers)
    inside = layer >= 0
    depth = np.where(inside, (layer + 0.5) / layers, np.where(np.arange(n) < n / 2, 0.0, 1.0))
    sizes = np.array([op.sizes for op in anatomy.ops], dtype=np.float64)
    skipped = np.array([anatomy.segments[op.segment].skipped for op in anatomy.ops])
    out[:, 0] = inside
    out[:, 1] = 2 * depth - 1
    out[:, 2] = np.log2(np.where(inside, layer + 1, 1)) / 2
    out[:, 3] = np.log2(np.where(inside, layers - layer, 1)) / 2
    out[:, 4] = np.log2(layers) / 2
    out[:, 5] = (np.log2(d) - 6) / 2
    out[:, 6] = (np.log2(np.maximum(sizes[:, 0], 1)) - 6) / 2
    out[:, 7] = (np.log2(np.maximum(sizes[:, 1], 1)) - 6) / 2
    out[:, 8] = np.log2(anatomy.n_head) / 2
    out[:, 9] = (np.log2(d / anatomy.n_head) - 4) / 2
    out[:, 10] = np.log2(anatomy.d_ff / d) / 2 if anatomy.d_ff else -2
    out[:, 11] = 1 if anatomy.tied else -1
    out[:, 12] = np.where(skipped, 1, -1)
    out[:, 13] = 1 if anatomy.causal else -1
    out[:, 14] = (np.log2(max(anatomy.vocab_size, 1)) - 10) / 4
    out[:, 15] = (np.log2(anatomy.max_seq_len) - 8) / 4
    return out
