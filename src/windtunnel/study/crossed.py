"""The mean of figures that several seeds have for the same items, with both kinds of chance in it.

Every seed answers every item, so the two are crossed: figure = mean + seed + item + rest. A mean is
uncertain by which seeds were trained and by which items were asked. The rule and its coverage, by
simulation, stand in ``docs/design/statistics.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from windtunnel.study.statistics import ALPHA, Floats, Interval, critical_t

_ROUNDING = 1e-12
"""A half-width below this part of the figures is rounding, not noise."""
_SMALLEST_P = 1e-12


@dataclass(frozen=True)
class MeanSquares:
    """Of the two-way analysis of variance of figures (seeds, items)."""

    of_seeds: float | None
    """None for one seed."""
    of_items: float
    of_rest: float
    seeds: int
    items: int

    @classmethod
    def of(cls, values: Floats) -> MeanSquares:
        seeds, items = values.shape
        item_means = values.mean(0)
        of_items = seeds * float(item_means.var(ddof=1))
        if seeds == 1:
            return cls(None, of_items, 0.0, seeds, items)
        seed_means = values.mean(1)
        rest = values - seed_means[:, None] - item_means + values.mean()
        of_rest = float((rest**2).sum()) / ((seeds - 1) * (items - 1))
        return cls(items * float(seed_means.var(ddof=1)), of_items, of_rest, seeds, items)

    def reach(self, alpha: float) -> float:
        """The half-width of the interval of confidence ``1 − alpha``."""
        t_items = float(critical_t(self.items - 1, alpha))
        over_items = t_items**2 * self.of_items
        if self.of_seeds is None:
            return math.sqrt(over_items / self.items)
        over_seeds = float(critical_t(self.seeds - 1, alpha)) ** 2 * self.of_seeds
        both = over_seeds + t_items**2 * max(self.of_items - self.of_rest, 0.0)
        return math.sqrt(max(both, over_items) / (self.seeds * self.items))


@dataclass(frozen=True)
class Crossed:
    """A mean over seeds and items."""

    mean: float
    seeds: int
    items: int
    squares: MeanSquares | None
    """None where nothing is known of its noise."""
    reason: str = ""
    """Why there is no interval; else it is empty."""

    @property
    def of_items_only(self) -> bool:
        """One seed tells nothing of how seeds differ: the interval is of the items alone."""
        return self.seeds == 1

    def interval(self, alpha: float = ALPHA) -> Interval:
        """Of confidence ``1 − alpha``; without bounds where nothing is known of the noise."""
        if self.squares is None:
            return Interval(self.mean, None, None)
        reach = self.squares.reach(alpha)
        return Interval(self.mean, self.mean - reach, self.mean + reach)

    def p_value(self) -> float | None:
        """The level at which the interval just leaves out zero (not below 1e-12); None without one.

        >>> crossed_mean(np.array([[1.0, 2.0, 4.0], [2.0, 3.0, 4.0]])).p_value() < 0.2
        True
        """
        from scipy.optimize import brentq

        squares, distance = self.squares, abs(self.mean)
        if squares is None:
            return None
        if distance == 0:
            return 1.0
        if squares.reach(_SMALLEST_P) <= distance:
            return _SMALLEST_P

        def beyond(log_alpha: float) -> float:
            return squares.reach(math.exp(log_alpha)) - distance

        return math.exp(brentq(beyond, math.log(_SMALLEST_P), 0.0))


def crossed_mean(values: Floats) -> Crossed:
    """The mean of ``values`` (seeds, items), and what its intervals are made from.

    With S seeds, N items and the mean squares of the two-way analysis of variance,

        h² = t(S−1)² · MS_seeds / SN  +  t(N−1)² · max(MS_items − MS_rest, 0) / SN,

    but at least t(N−1)² · MS_items / SN. The first term alone is the t-interval over the seeds'
    means, exact for other seeds on the same items; the second adds what the choice of the items
    does. So an interval is never narrower than that over seeds alone or that over items alone. With
    one seed ``h`` is that of the items alone.

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
        return Crossed(mean, seeds, items, None, "one item tells nothing of other items")
    squares = MeanSquares.of(values)
    if squares.reach(ALPHA) <= _ROUNDING * float(np.abs(values).max()):
        what = "figures" if np.ptp(values) == 0 else "means over seeds and over items"
        return Crossed(mean, seeds, items, None, f"all {what} are equal")
    return Crossed(mean, seeds, items, squares)
