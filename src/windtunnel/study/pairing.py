"""Pairing that is decided by the measured correlation, at a level that pays for having looked.

Runs of one seed are paired by design elsewhere. Here the measured correlation of the losses decides
between the paired test and Welch's, and the level is lowered until the *whole* rule, choice
included, errs in at most α of comparisons: for normal noise, true correlations of 0 and above and
any spreads. ``docs/design/statistics.md`` says what that wins and what it costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from windtunnel.study.statistics import (
    ALPHA,
    Comparison,
    compare_arms,
    critical_t,
    minimum_detectable,
)

Pairing = Literal["design", "measured"]
"""Whether runs of one seed are pairs because they share it, or where their losses show it."""
ALPHAS = (0.05, 0.025, 0.01, 0.005, 0.0025, 0.001)
"""Levels that the table has columns for."""
SEEDS = (3, 4, 5, 6, 8, 10, 15, 20)
"""Numbers of seeds that it has rows for."""
LEVELS: dict[int, tuple[float, ...]] = {
    3: (0.0326, 0.014, 0.00441, 0.00173, 0.000655, 0.00017),
    4: (0.0343, 0.0155, 0.00507, 0.00215, 0.000933, 0.000243),
    5: (0.0356, 0.0165, 0.00582, 0.00255, 0.00108, 0.000345),
    6: (0.0364, 0.017, 0.00622, 0.00285, 0.00127, 0.000411),
    8: (0.0374, 0.0178, 0.0067, 0.00311, 0.00143, 0.000514),
    10: (0.0382, 0.0182, 0.00694, 0.00332, 0.00159, 0.000586),
    15: (0.0399, 0.019, 0.00726, 0.00352, 0.00171, 0.000658),
    20: (0.041, 0.0197, 0.00751, 0.00364, 0.00177, 0.000685),
}
"""The nominal level at which the rule errs in at most so many comparisons: a row for each of
``SEEDS``, a column for each of ``ALPHAS``. From ``python -m windtunnel.study.calibrate levels``."""


def least_correlation(n: int) -> float:
    """The measured correlation from which pairs give the narrower interval where spreads are equal:
    t with n − 1 degrees of freedom times √(1 − r) is then at most t with 2(n − 1).

    >>> round(least_correlation(3), 2), round(least_correlation(10), 2)
    (0.58, 0.14)
    """
    return 1 - float(critical_t(2 * (n - 1), ALPHA) / critical_t(n - 1, ALPHA)) ** 2


def nominal_level(alpha: float, n: int) -> float:
    """The level of the chosen test at which the whole rule errs in at most ``alpha``.

    Logarithms are interpolated between columns of the table; above the first the ratio stays. Below
    the last the level falls with the square of ``alpha``, as the worst case of Welch's test does.
    Between rows the smaller level of the two holds. Below three seeds nothing is chosen, so the
    level is ``alpha`` itself.
    """
    return alpha if n < SEEDS[0] or alpha <= 0 else _mapped(alpha, _LOGS, _row(n), _STEEP)


def whole_level(nominal: float, n: int) -> float:
    """The other way round: how often the rule errs at a nominal level, at most; for p-values."""
    if n < SEEDS[0] or nominal <= 0:
        return nominal
    return min(1.0, _mapped(nominal, _row(n), _LOGS, 1 / _STEEP))


_LOGS = [math.log(alpha) for alpha in ALPHAS]
_STEEP = 2.0


def _row(n: int) -> list[float]:
    """Logarithms of the table's levels for a number of seeds."""
    low = [math.log(level) for level in LEVELS[max(s for s in SEEDS if s <= n)]]
    if n in SEEDS or n > SEEDS[-1]:
        return low
    high = LEVELS[min(s for s in SEEDS if s > n)]
    return [min(a, math.log(b)) for a, b in zip(low, high, strict=True)]


def _mapped(value: float, given: Sequence[float], wanted: Sequence[float], steep: float) -> float:
    """From one scale of falling logarithms to the other; ``steep`` is the slope below both."""
    at = math.log(value)
    if at >= given[0]:
        return math.exp(wanted[0] + at - given[0])
    if at <= given[-1]:
        return math.exp(wanted[-1] + steep * (at - given[-1]))
    return math.exp(float(np.interp(at, given[::-1], wanted[::-1])))


def compare_as_measured(base: Sequence[float], arm: Sequence[float]) -> Comparison:
    """The comparison of final losses of the same seeds: in pairs where they correlate by at least
    :func:`least_correlation` (or by nobody knows how much), as independent samples otherwise.

    Its p-value and intervals allow for the choice.

    >>> compare_as_measured([3.0, 3.1, 3.2], [2.8, 2.9, 3.05]).paired
    True
    >>> compare_as_measured([3.0, 3.1, 3.2], [2.9, 3.0, 2.8]).paired
    False
    """
    pairs = compare_arms(base, arm, paired=True)
    n, r = len(base), pairs.correlation
    if n < SEEDS[0] or pairs.p_value is None or pairs.std_error == 0:
        return pairs
    chosen = pairs
    if r is not None and r < least_correlation(n):
        apart = compare_arms(base, arm, paired=False)
        if apart.p_value is None:  # its error is rounding
            return pairs
        chosen = replace(apart, correlation=r, pairing_gain=pairs.pairing_gain)
    assert chosen.p_value is not None
    assert chosen.std_error is not None
    assert chosen.df is not None
    return replace(
        chosen,
        p_value=whole_level(chosen.p_value, n),
        mde=minimum_detectable(chosen.std_error, chosen.df, alpha=nominal_level(ALPHA, n)),
        chosen_among=n,
    )
