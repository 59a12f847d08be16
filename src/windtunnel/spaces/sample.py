"""A sample that is spread over families and sizes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from windtunnel.data.order import KeyedPermutation
from windtunnel.errors import UsageError
from windtunnel.spaces.space import Space

MOST_SORTED, POOL = 20_000_000, 1_000_000
"""Members that are sorted into strata at most, and how many are drawn at random of more."""
MOST_BINS = 100_000


def stratified(space: Space, k: int, seed: int = 0, *, bins: int = 8) -> Space:
    """``k`` members, as evenly as can be over strata: each family times ``bins`` equal steps of log
    parameters between the family's least and most. In the order of their indices.

    Small strata are taken whole, and what they lack is spread over the others. Within a stratum
    each member is as likely as any other. Of more than :data:`MOST_SORTED` members a million is
    drawn at random first, and the sample from those.

    Raises:
        UsageError: fewer than ``k`` members are there, or ``bins`` is no number of steps.
    """
    if not 1 <= bins <= MOST_BINS:
        raise UsageError(f"bins must be a whole number from 1 to {MOST_BINS:,}, not {bins}")
    if len(space) > MOST_SORTED and 0 <= k <= POOL:
        lot = KeyedPermutation(len(space), "pool", seed)(np.arange(POOL))
        space = space[np.sort(lot)]
    size = len(space)
    if not 0 <= k <= size:
        raise UsageError(f"{space.name}: {k:,} of {size:,} members cannot be drawn")
    if k == 0:
        return space[:0]
    strata = _strata(space, bins)
    counts = np.bincount(strata)
    wanted = _evenly(counts, k, seed)
    few = len(counts) < 2**15  # which are sorted faster
    by_stratum = np.argsort(strata.astype(np.int16) if few else strata, kind="stable")
    taken, start = [], 0
    for number, (count, n) in enumerate(zip(counts.tolist(), wanted.tolist(), strict=True)):
        if n:
            lot = KeyedPermutation(count, "sample", seed, number)(np.arange(n))
            taken.append(by_stratum[start + lot])
        start += count
    return space[np.sort(np.concatenate(taken))]


def _strata(space: Space, bins: int) -> NDArray[np.int64]:
    """The number of each member's stratum."""
    names = [block.family.name for block in space.blocks]
    families = np.array([names.index(name) for name in names])[space.block_numbers()]
    logs = np.log(space.params.astype(np.float64))
    strata = np.zeros(len(space), dtype=np.int64)
    for number in np.unique(families):
        of = families == number
        own = logs[of]
        low, high = own.min(), own.max()
        width = (high - low) / bins or 1.0
        strata[of] = number * bins + np.minimum((own - low) / width, bins - 1).astype(np.int64)
    return strata


def _evenly(counts: NDArray[np.int64], k: int, seed: int) -> NDArray[np.int64]:
    """How many to take of each stratum: the same of all, none more than it has."""
    wanted = np.zeros_like(counts)
    while (rest := k - int(wanted.sum())) > 0:
        open_ = np.flatnonzero(wanted < counts)
        each = rest // len(open_)
        if each:
            wanted[open_] = np.minimum(counts[open_], wanted[open_] + each)
        else:  # fewer than there are strata: by lot
            lot = KeyedPermutation(len(open_), "strata", seed)(np.arange(rest))
            wanted[open_[lot]] += 1
    return wanted
