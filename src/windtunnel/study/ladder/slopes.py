"""How differences change with scale: regressions of paired differences, seeds as the replicates.

Differences d of an arm to the first one, (…, s sizes, b budgets, k seeds), are taken for

    d = a + β·log₁₀ N + γ·log₁₀ D + (seed) + (trunk) + noise

A seed may shift all sizes alike, and the budgets of one trunk (one size and seed) share its luck in
any way. So β is fitted to the means of trunks, with each seed's own constant, and γ is the mean of
the trunks' own slopes. Where sizes scatter about the line by more than seeds explain (an F-test at
1%), that scatter alone is the noise: the interval of β is then that of the sizes' means. Rates, by
simulation: ``docs/design/statistics.md``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from windtunnel.study.ladder.cells import FEWEST_SIZES
from windtunnel.study.statistics import Difference, Floats, paired_difference

BENT = 0.01
"""At 5% one straight ladder in twenty would lose nearly all it says (with three sizes one degree of
freedom is left), for one to three points of coverage off the line."""


class SizeSlope(NamedTuple):
    """Scalars, or arrays over the leading axes of the differences."""

    slope: Difference
    straight_p: Any
    """The probability of sizes that lie so far from the line by the noise of seeds alone."""


def lead(differences: Floats) -> Difference:
    """The mean over all cells, tested over seeds: exact however cells vary together."""
    means = differences.mean((-3, -2))
    return paired_difference(np.zeros_like(means), means)


def size_slope(sizes: Floats, differences: Floats) -> SizeSlope:
    """β: the change for ten times the parameters, budgets by their names held equal.

    Args:
        sizes: parameters, (s,); at least three.
        differences: (…, s, b, k) of at least two seeds.
    """
    from scipy.special import fdtrc  # a third of a second to import

    s, _, k = differences.shape[-3:]
    assert s >= FEWEST_SIZES
    assert k > 1
    x = np.log10(sizes) - np.log10(sizes).mean()
    spread = float((x**2).sum())
    trunks = differences.mean(-2)
    own = trunks - trunks.mean(-2, keepdims=True)  # each seed's constant taken off
    means = own.mean(-1)
    slope = np.asarray((means * x).sum(-1) / spread)
    about = k * ((means - slope[..., None] * x) ** 2).sum(-1)
    noise = ((own - means[..., None]) ** 2).sum((-2, -1))
    df_about, df_noise = s - 2, (s - 1) * (k - 1)
    floor = np.finfo(np.float64).tiny
    ratio = (about / df_about) / np.maximum(noise / df_noise, floor)
    straight = fdtrc(df_about, df_noise, ratio)
    bent = straight < BENT
    df = np.where(bent, df_about, df_about + df_noise)
    variance = np.where(bent, about / df_about, (about + noise) / (df_about + df_noise))
    return SizeSlope(Difference(slope, np.sqrt(variance / (k * spread)), df), straight)


def token_slope(tokens: Floats, differences: Floats) -> Difference:
    """γ: the change for ten times the training tokens at one size.

    Args:
        tokens: (s, b); at least two budgets.
        differences: (…, s, b, k).
    """
    z = np.log10(tokens) - np.log10(tokens).mean(1, keepdims=True)
    slopes = (z[..., None] * differences).sum(-2) / (z**2).sum(1)[:, None]
    trunks = slopes.reshape(*slopes.shape[:-2], -1)
    return paired_difference(np.zeros_like(trunks), trunks)
