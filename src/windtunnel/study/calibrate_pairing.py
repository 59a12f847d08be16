"""Levels at which pairing by the measured correlation is honest: the table of ``pairing.py``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from windtunnel.study.calibrate import PAIRED_POWER, Case, draw_losses, verdict_rate
from windtunnel.study.pairing import ALPHAS, SEEDS, least_correlation, nominal_level
from windtunnel.study.statistics import (
    ALPHA,
    Floats,
    critical_t,
    paired_difference,
    welch_difference,
)

WORST = tuple(
    (r, ratio)
    for r in (0.0, 0.1, 0.3, 0.6, 0.9)
    for ratio in (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 17.0, 30.0)
)
"""Correlations and spreads among which the worst case is sought."""


_WORST_KEPT = 8
"""Cases that the level is sought among: the worst at half of it."""


class MeasuredCase:
    """Simulated studies of n seeds at one correlation and ratio of spreads, each with the test that
    its measured correlation chooses."""

    def __init__(
        self, trials: int, n: int, r: float, ratio: float, generator: np.random.Generator
    ) -> None:
        base, arm = draw_losses(trials, n, r, ratio, generator)
        pairs, apart = paired_difference(base, arm), welch_difference(base, arm)
        product = base.std(-1, ddof=1) * arm.std(-1, ddof=1)
        measured = (apart.std_error**2 - pairs.std_error**2) * n / (2 * product)
        self.paired = measured >= least_correlation(n)
        self.std_error: Floats = np.where(self.paired, pairs.std_error, apart.std_error)
        self.df: Floats = np.where(self.paired, pairs.df, apart.df)
        self.spread = float(np.sqrt((1 + ratio**2 - 2 * r * ratio) / n))

    def rate(self, level: float, effect: float = 0.0) -> float:
        """The chance of a verdict at a nominal level, when the true difference is ``effect``."""
        grid = 1 / np.linspace(1 / self.df.max(), 1.0, 4000)  # t is smooth in 1 / df
        bounds = np.interp(1 / self.df, 1 / grid, critical_t(grid, level)) * self.std_error
        return verdict_rate(bounds, self.spread, effect)


def honest_levels(
    n: int, alphas: Sequence[float], trials: int, generator: np.random.Generator
) -> list[float]:
    """The nominal levels whose worst rate of false verdicts is ``alphas``."""
    cases = [MeasuredCase(trials, n, r, ratio, generator) for r, ratio in WORST]
    return [_level(cases, alpha) for alpha in alphas]


def _level(cases: Sequence[MeasuredCase], alpha: float) -> float:
    low, high = np.log(alpha / 50), np.log(alpha)
    cases = sorted(cases, key=lambda case: -case.rate(alpha / 2))[:_WORST_KEPT]
    for _ in range(14):
        middle = (low + high) / 2
        if max(case.rate(float(np.exp(middle))) for case in cases) > alpha:
            high = middle
        else:
            low = middle
    return float(np.exp(low))


def table(trials: int, seed: int) -> list[str]:
    """The lines of ``LEVELS``, to three digits (rounded down)."""
    generator = np.random.default_rng(seed)
    lines = []
    for n in SEEDS:
        found = [_floor(level) for level in honest_levels(n, ALPHAS, trials, generator)]
        lines.append(f"    {n}: ({', '.join(f'{level:.3g}' for level in found)}),")
    return lines


def power_table(trials: int, seed: int) -> list[str]:
    """What the rule sees where the paired test sees 60%, and how often it errs, as Markdown."""
    generator = np.random.default_rng(seed)
    lines = ["| n | r | paired | measured | false verdicts of measured |", "|---" * 5 + "|"]
    for n in (3, 4, 5, 10):
        for r in (0.0, 0.3, 0.5, 0.7, 0.9):
            pairs = Case(trials, n, r, 1.0, generator)
            chosen = MeasuredCase(trials, n, r, 1.0, generator)
            level, effect = nominal_level(ALPHA, n), pairs.effect_at(PAIRED_POWER)
            seen, wrong = chosen.rate(level, effect), chosen.rate(level)
            lines.append(
                f"| {n} | {r:g} | {100 * PAIRED_POWER:.0f}% | {100 * seen:.0f}% | "
                f"{100 * wrong:.1f}% |"
            )
    return lines


def negative_table(trials: int, seed: int) -> list[str]:
    """How often the rule errs where runs of one seed disagree: the worst of several spreads."""
    generator = np.random.default_rng(seed)
    correlations = (-0.1, -0.2, -0.3, -0.5)
    lines = ["| n | " + " | ".join(f"r = {r:g}" for r in correlations) + " |", "|---" * 5 + "|"]
    for n in (3, 5, 10, 20):
        level = nominal_level(ALPHA, n)
        worst = [
            max(MeasuredCase(trials, n, r, q, generator).rate(level) for q in (1.0, 1.5, 2.0, 5.0))
            for r in correlations
        ]
        lines.append(f"| {n} | " + " | ".join(f"{100 * rate:.1f}%" for rate in worst) + " |")
    return lines


def _floor(value: float) -> float:
    digits = 10.0 ** (np.floor(np.log10(value)) - 2)
    return float(np.floor(value / digits) * digits)
