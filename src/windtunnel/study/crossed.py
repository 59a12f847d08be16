"""The mean of figures that several seeds have for the same items, with both kinds of chance in it.

Every seed answers every item, so the two are crossed: figure = mean + seed + item + rest. A mean is
uncertain by which seeds were trained and by which items were asked. The rule and its coverage, by
simulation, stand in ``docs/design/statistics.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from windtunnel.study.statistics import ALPHA, Floats, critical_t

_ROUNDING = 1e-12
"""A half-width below this part of the figures is rounding, not noise."""


@dataclass(frozen=True)
class Crossed:
    """A mean over seeds and items; the bounds are None where nothing is known of its noise."""

    mean: float
    low: float | None
    high: float | None
    seeds: int
    items: int
    reason: str = ""
    """Why there is no interval; else it is empty."""

    @property
    def of_items_only(self) -> bool:
        """One seed tells nothing of how seeds differ: the interval is of the items alone."""
        return self.seeds == 1

    def to_dict(self) -> dict[str, float | int | bool | str | None]:
        return {
            "mean": self.mean, "low": self.low, "high": self.high, "seeds": self.seeds,
            "items": self.items, "of_items_only": self.of_items_only, "reason": self.reason,
        }  # fmt: skip


def crossed_mean(values: Floats, alpha: float = ALPHA) -> Crossed:
    """The mean of ``values`` (seeds, items) and its interval of confidence ``1 − alpha``.

    With S seeds, N items and the mean squares of the two-way analysis of variance,

        h² = t(S−1)² · MS_seeds / SN  +  t(N−1)² · max(MS_items − MS_rest, 0) / SN

    The first term alone is the t-interval over the seeds' means, exact for other seeds on the same
    items; the second adds what the choice of the items does. With one seed ``h`` is that of the
    items alone.

    Raises:
        ValueError: there is no figure, or one that is not finite.

    >>> crossed_mean(np.array([[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]])).mean
    0.625
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError("figures are finite numbers of one or more seeds for one or more items")
    seeds, items = values.shape
    mean = math.fsum(values.ravel()) / values.size
    if items == 1:
        return Crossed(mean, None, None, seeds, items, "one item tells nothing of other items")
    reach = math.sqrt(_squared_reach(values, alpha))
    if reach <= _ROUNDING * float(np.abs(values).max()):
        return Crossed(mean, None, None, seeds, items, "all figures are equal")
    return Crossed(mean, mean - reach, mean + reach, seeds, items)


def _squared_reach(values: Floats, alpha: float) -> float:
    seeds, items = values.shape
    of_items = values.mean(0)
    t_items = float(critical_t(items - 1, alpha))
    if seeds == 1:
        alone: float = t_items**2 * float(of_items.var(ddof=1)) / items
        return alone
    of_seeds = values.mean(1)
    rest = values - of_seeds[:, None] - of_items + values.mean()
    ms_seeds = items * float(of_seeds.var(ddof=1))
    ms_items = seeds * float(of_items.var(ddof=1))
    ms_rest = float((rest**2).sum()) / ((seeds - 1) * (items - 1))
    t_seeds = float(critical_t(seeds - 1, alpha))
    both: float = t_seeds**2 * ms_seeds + t_items**2 * max(ms_items - ms_rest, 0.0)
    return both / values.size
