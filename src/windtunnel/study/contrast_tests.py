"""A family of contrasts, each tested over its seeds at every planned look.

A contrast is one number a seed, so its test is the paired one of ``statistics.py`` and its looks
are those of ``sequential.py``, unchanged: why, and what simulation says, in ``statistics.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from windtunnel.study.contrasts import Block, Contrast
from windtunnel.study.design import Point
from windtunnel.study.sequential import Looks
from windtunnel.study.statistics import (
    ALPHA,
    ROUNDING,
    Comparison,
    compare_arms,
    holm,
    holm_factors,
    paired_difference,
    two_sided_p,
)

P: TypeAlias = float | None


@dataclass(frozen=True, kw_only=True)
class PointResult:
    """What a point's runs came to."""

    values: tuple[float | None, ...]
    """By seed, from the first on; None for a run without a result."""
    diverged: int = 0
    failed: int = 0
    params: float = 0.0
    flops_per_token: float = 0.0


Results: TypeAlias = Mapping[Point, PointResult]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the tests of a family say of one of its contrasts."""

    comparison: Comparison | None
    """At the look that it is judged at; None where no block has all of its results."""
    seeds: int
    """Behind it."""
    latest: int
    """That all points of the contrast have."""
    blocks: tuple[Block, ...]
    """Behind it: those without a run that lacks a result."""
    p_looks: P
    """After allowing for looks; None where there is one."""
    p_holm: P
    """After that and Holm's correction."""
    alpha: float
    """The level, over all looks, that Holm's correction left."""
    level: float
    """The same at this look."""
    level_95: float
    """This look's level where the contrast is the only one."""


def judge_family(
    contrasts: Sequence[Contrast], results: Results, looks: Looks | None
) -> list[Judged]:
    """Every contrast tested; p-values corrected for looks and for how many contrasts there are.

    A contrast that Holm's correction decides at a look stays decided: it keeps that look's p-value
    while the others go on. What is said of it comes from the last look at which it still holds:
    intervals of all looks hold together, so any of them may be chosen.
    """
    series = [_Series(contrast, results, looks) for contrast in contrasts]
    p_values = _at_decision(series)
    factors = holm_factors(p_values)
    return [
        one.judged(adjusted, factor)
        for one, adjusted, factor in zip(series, holm(p_values), factors, strict=True)
    ]


class _Series:
    """A contrast over its looks."""

    def __init__(self, contrast: Contrast, results: Results, looks: Looks | None) -> None:
        self._contrast, self._results, self._looks = contrast, results, looks
        whole = [points for points in self._points() if all(self._is_whole(p) for p in points)]
        counts = [len(results[p].values) for points in whole or self._points() for p in points]
        self.latest = min(counts)
        """Seeds that all points of its blocks have; blocks that lost a run do not count."""
        self.plan = looks or Looks.at(self.latest)
        self._seen: dict[int, P] = {}

    def _points(self) -> list[tuple[Point, ...]]:
        return [(*plus, *minus) for plus, minus in self._contrast.blocks]

    def _is_whole(self, point: Point, n: int | None = None) -> bool:
        values = self._results[point].values[:n]
        return None not in values and len(values) >= (n or 0)

    def blocks(self, n: int) -> tuple[Block, ...]:
        """Those of which every run of the first n seeds has a result."""
        return tuple(
            block
            for block, points in zip(self._contrast.blocks, self._points(), strict=True)
            if all(self._is_whole(point, n) for point in points)
        )

    def sides(self, n: int) -> tuple[list[float], list[float]] | None:
        """What is taken away and what is added, for each of the first n seeds: sums over a block's
        points, averaged over the blocks."""
        blocks = self.blocks(n)
        if not blocks:
            return None
        minus, plus = [points for _, points in blocks], [points for points, _ in blocks]
        return self._by_seed(minus, n), self._by_seed(plus, n)

    def _by_seed(self, sides: Sequence[tuple[Point, ...]], n: int) -> list[float]:
        rows = [self._results[point].values[:n] for points in sides for point in points]
        return [
            math.fsum(v for v in seed if v is not None) / len(sides)
            for seed in zip(*rows, strict=True)
        ]

    def p_value(self, n: int) -> P:
        """After n seeds, looks allowed for."""
        if n not in self._seen:
            sides = self.sides(n)
            plain = None if sides is None else plain_p_value(*sides)
            self._seen[n] = None if plain is None else self.plan.adjusted(plain, n)
        return self._seen[n]

    def judged(self, p_holm: P, factor: float) -> Judged:
        """At the last look at which what is decided holds, or at the last of all."""
        decided = p_holm is not None and p_holm < ALPHA
        n = self.latest
        while decided and not self._holds(n, factor):
            n -= 1
        sides, p = self.sides(n), self.p_value(n)
        alpha = ALPHA / factor
        return Judged(
            comparison=None if sides is None else compare_arms(*sides, paired=True),
            seeds=n,
            latest=self.latest,
            blocks=self.blocks(n),
            p_looks=None if self._looks is None else p,
            p_holm=None if p is None else min(1.0, p * factor),
            alpha=alpha,
            level=self.plan.nominal(alpha, n),
            level_95=self.plan.nominal(ALPHA, n),
        )

    def _holds(self, n: int, factor: float) -> bool:
        p = self.p_value(n)
        return p is not None and p * factor < ALPHA


def _at_decision(series: Sequence[_Series]) -> list[P]:
    """The p-value of each contrast at the look that decided it; of the others, at their last."""
    p_values: list[P] = [None] * len(series)
    decided = [False] * len(series)
    first = min((one.plan.first for one in series), default=0)
    last = max((one.latest for one in series), default=-1)
    for n in range(first, last + 1):
        for place, one in enumerate(series):
            if not decided[place] and one.plan.first <= n <= one.latest:
                p_values[place] = one.p_value(n)
        decided = [p is not None and p < ALPHA for p in holm(p_values)]
    return p_values


def plain_p_value(minus: Sequence[float], plus: Sequence[float]) -> P:
    """That of ``compare_arms(minus, plus, paired=True)``, without the rest, which takes longer.

    >>> plain_p_value([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    1.0
    """
    x, y = np.asarray(minus, dtype=np.float64), np.asarray(plus, dtype=np.float64)
    if x.size < 2:
        return None
    if bool((x == y).all()):
        return 1.0
    difference = paired_difference(x, y)
    size = max(float(np.abs(x).max()), float(np.abs(y).max()))
    if difference.std_error <= ROUNDING * size:
        return None
    return float(two_sided_p(difference))
