"""What may be said about two sets of losses: difference, interval, p-value, power.

Two-sided throughout; a difference is *arm minus base*, so below zero the arm is better. The rule
and its error rates, by simulation, stand in ``docs/design/statistics.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

ALPHA = 0.05
POWER = 0.8
ROUNDING = 16 * float(np.finfo(np.float64).eps)
"""A spread below this part of the losses is rounding, not noise."""
_QUANTILES = (np.arange(4000) + 0.5) / 4000


class Difference(NamedTuple):
    """Mean difference, its standard error and degrees of freedom; scalars or arrays."""

    delta: Any
    std_error: Any
    df: Any


def paired_difference(base: Floats, arm: Floats) -> Difference:
    """Same-seed differences over the last axis: ``d̄``, ``s_d/√n``, ``n − 1``."""
    n = base.shape[-1]
    differences = arm - base
    std_error = differences.std(-1, ddof=1) / math.sqrt(n)
    return Difference(differences.mean(-1), std_error, np.full_like(std_error, n - 1))


def welch_difference(base: Floats, arm: Floats) -> Difference:
    """Independent samples over the last axis, their variances unequal (Welch 1947).

    ``SE² = s₁²/n₁ + s₂²/n₂``, with the Welch–Satterthwaite degrees of freedom.
    """
    first = base.var(-1, ddof=1) / base.shape[-1]
    second = arm.var(-1, ddof=1) / arm.shape[-1]
    total = first + second
    shares = np.divide(first, total, out=np.full_like(total, 0.5), where=total > 0)
    df = 1 / (shares**2 / (base.shape[-1] - 1) + (1 - shares) ** 2 / (arm.shape[-1] - 1))
    return Difference(arm.mean(-1) - base.mean(-1), np.sqrt(total), df)


def two_sided_p(difference: Difference) -> Any:
    """The probability of a t at least this far from zero when the true difference is zero."""
    from scipy.special import stdtr  # a third of a second to import

    return 2 * stdtr(difference.df, -np.abs(difference.delta / difference.std_error))


def critical_t(df: Any, alpha: Any) -> Any:
    """The t that is exceeded, on either side, with probability ``alpha``."""
    from scipy.special import stdtrit

    return -stdtrit(df, np.asarray(alpha) / 2)


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; the bounds are None where there can be none."""

    mean: float | None
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, float | None]:
        return {"mean": self.mean, "low": self.low, "high": self.high}


def mean_interval(values: Sequence[float], alpha: float = ALPHA) -> Interval:
    """The mean and its t-interval ``x̄ ± t·s/√n``; no bounds below two values.

    >>> mean_interval([1.0, 2.0, 3.0]).mean
    2.0
    """
    if not values:
        return Interval(None, None, None)
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Interval(mean, None, None)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(critical_t(len(values) - 1, alpha)) * error
    return Interval(mean, mean - reach, mean + reach)


@dataclass(frozen=True)
class Comparison:
    """An arm against the base, in the unit of the losses.

    ``reason`` says why there is no interval, or that the losses are identical; else it is empty.
    """

    delta: float
    std_error: float | None
    df: float | None
    p_value: float | None
    paired: bool
    correlation: float | None
    """Of same-seed losses; None below three seeds (two points always lie on a line)."""
    pairing_gain: float | None
    """Variance of the difference without pairing over that with it: how many times as many seeds
    independent runs would need."""
    mde: float | None
    """Minimum detectable effect: the true difference that is found with 80% power, before any
    correction for several comparisons."""
    reason: str = ""
    chosen_among: int | None = None
    """Seeds, where the measured correlation chose the test: p-value and intervals allow for it."""

    def nominal(self, alpha: float) -> float:
        """The level of the test itself at which the comparison errs in at most ``alpha``."""
        from windtunnel.study.pairing import nominal_level

        return alpha if self.chosen_among is None else nominal_level(alpha, self.chosen_among)

    def interval(self, alpha: float = ALPHA) -> Interval:
        """The interval of confidence ``1 − alpha``; it leaves out zero where ``p < alpha``."""
        if self.std_error is None or self.df is None:
            return Interval(self.delta, None, None)
        level = self.nominal(alpha)
        reach = float(critical_t(self.df, level)) * self.std_error if self.std_error else 0.0
        return Interval(self.delta, self.delta - reach, self.delta + reach)

    def detectable(self, alpha: float) -> float | None:
        """The minimum detectable effect at a level; None where the difference cannot be tested."""
        if self.mde is None:
            return None
        assert self.std_error is not None
        assert self.df is not None
        return minimum_detectable(self.std_error, self.df, alpha=self.nominal(alpha))

    def p_equivalence(self, margin: float) -> float | None:
        """The level at which the interval just lies within ±``margin``; None without an interval.

        Below alpha where ``interval(alpha)`` lies inside. Where the true difference is the margin
        or more it is below alpha with probability alpha/2 at most, since only one end counts: two
        one-sided tests at half the level (Schuirmann 1987, who takes the whole).
        """
        if self.std_error is None or self.df is None:
            return None
        room = margin - abs(self.delta)
        if room <= 0:
            return 1.0
        if self.std_error == 0:
            return 0.0
        found = float(two_sided_p(Difference(room, self.std_error, self.df)))
        if self.chosen_among is None:
            return found
        from windtunnel.study.pairing import whole_level

        return whole_level(found, self.chosen_among)


def compare_arms(base: Sequence[float], arm: Sequence[float], *, paired: bool) -> Comparison:
    """The comparison of final losses.

    Args:
        base, arm: finite losses; when paired, of the same seeds in the same order.
        paired: whether the two runs of a seed share their random numbers. It is a fact about the
            runs, known before any loss is: it must not be chosen by looking at the losses.

    >>> compare_arms([3.0, 3.1, 3.2], [2.8, 2.9, 3.05], paired=True).paired
    True
    """
    x, y = np.asarray(base, dtype=np.float64), np.asarray(arm, dtype=np.float64)
    assert min(x.size, y.size) > 0, "no losses to compare"
    assert bool(np.isfinite([*x, *y]).all()), "losses must be finite"
    assert not paired or x.shape == y.shape, "pairs need as many losses on both sides"
    correlation, gain = _likeness(x, y) if paired else (None, None)

    def without_interval(reason: str) -> Comparison:
        delta = float(y.mean() - x.mean())
        return Comparison(delta, None, None, None, paired, correlation, gain, None, reason)

    if min(x.size, y.size) < 2:
        return without_interval("a single seed gives no interval; at least 2 are needed")
    if x.shape == y.shape and bool((x == y).all()):
        df = float(x.size - 1)
        return Comparison(0.0, 0.0, df, 1.0, paired, correlation, gain, None, "identical losses")
    difference = paired_difference(x, y) if paired else welch_difference(x, y)
    size = max(float(np.abs(x).max()), float(np.abs(y).max()))
    if difference.std_error <= ROUNDING * size:
        return without_interval("every seed differs by the same amount, so the noise is unknown")
    error, df = float(difference.std_error), float(difference.df)
    return Comparison(
        delta=float(difference.delta),
        std_error=error,
        df=df,
        p_value=float(two_sided_p(difference)),
        paired=paired,
        correlation=correlation,
        pairing_gain=gain,
        mde=minimum_detectable(error, df),
    )


def _likeness(x: Floats, y: Floats) -> tuple[float | None, float | None]:
    """Correlation of pairs, and what pairing is worth; None where they are undefined."""
    if x.size < 3:
        return None, None
    apart = float(x.var(ddof=1) + y.var(ddof=1))
    together = float((y - x).var(ddof=1))
    product = float(x.std(ddof=1) * y.std(ddof=1))
    # Deviations in the last digits of a mean are no spread.
    if product <= (ROUNDING * float(np.abs(x).max())) ** 2:
        return None, None
    correlation = (apart - together) / (2 * product)
    gain = apart / together if together > (ROUNDING * float(np.abs(x).max())) ** 2 else None
    return max(-1.0, min(1.0, correlation)), gain


def minimum_detectable(
    std_error: float, df: float, *, alpha: float = ALPHA, power: float = POWER
) -> float:
    """The true difference that a two-sided t-test finds with probability ``power``.

    Solves ``P(|Z + δ/SE| > t·√(χ²/df)) = power`` for δ, taking the standard error for the true one.

    >>> round(minimum_detectable(1.0, 1e6), 3)  # 1.960 + 0.842 for many seeds
    2.802
    """
    from scipy.optimize import brentq

    bounds = _bounds(df, alpha)

    def missing(effect: float) -> float:
        return _detected(effect, bounds) - power

    return float(brentq(missing, 0.0, float(bounds.max()) + 10.0)) * std_error


def detection_probability(effect: float, df: float, alpha: float = ALPHA) -> float:
    """How probably a two-sided t-test finds a true difference of so many standard errors.

    >>> round(detection_probability(0.0, 4), 4), round(detection_probability(2.802, 1e6), 3)
    (0.05, 0.8)
    """
    return _detected(effect, _bounds(df, alpha))


def _bounds(df: float, alpha: float) -> Floats:
    """What a difference must exceed, in true standard errors, over the chances of the measured."""
    from scipy.special import gammaincinv

    return np.asarray(critical_t(df, alpha) * np.sqrt(2 * gammaincinv(df / 2, _QUANTILES) / df))


def _detected(effect: float, bounds: Floats) -> float:
    from scipy.special import ndtr

    return float(np.mean(ndtr(effect - bounds) + ndtr(-effect - bounds)))


def holm_factors(p_values: Sequence[float | None]) -> list[float]:
    """By what Holm's step-down correction multiplies each p-value; 1 for the only comparison.

    The i-th smallest of m is multiplied by m − i + 1, and raised to the one before where that is
    larger (Holm 1979). A comparison without a p-value counts as 1: the family keeps its size.
    """
    m = len(p_values)
    known = [1.0 if p is None else p for p in p_values]
    factors = [1.0] * m
    reached = 0.0
    for rank, index in enumerate(sorted(range(m), key=known.__getitem__)):
        reached = max(reached, (m - rank) * known[index])
        factors[index] = reached / known[index] if known[index] > 0 else float(m - rank)
    return factors


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values, at most 1: the family-wise error rate stays below α.

    >>> holm([0.01, 0.04, None, 0.03])
    [0.04, 0.09, None, 0.09]
    """
    factors = holm_factors(p_values)
    return [
        None if p is None else min(1.0, p * factor)
        for p, factor in zip(p_values, factors, strict=True)
    ]
