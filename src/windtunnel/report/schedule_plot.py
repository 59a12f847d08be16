"""A schedule, or any series, as one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """The values as blocks from zero (or their minimum, when below) to their maximum.

    More values than `width` are averaged in equal groups. Raises ValueError for a value that is
    not finite: a schedule has none.

    >>> sparkline([0.0, 0.5, 1.0, 0.5])
    '▁▅█▅'
    """
    if not all(math.isfinite(value) for value in values):
        raise ValueError("sparkline: every value must be finite")
    count = min(width, len(values))
    edges = [i * len(values) // count for i in range(count + 1)] if count else []
    means = [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    floor = min(low, 0.0)
    span = (high - floor) or 1.0
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[math.floor((mean - floor) / span * top + 0.5)] for mean in means)
