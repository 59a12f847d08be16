"""A family of contrasts, each tested over its seeds at every planned look.

A contrast is one number a seed, so its test is the paired one of ``statistics.py`` and its looks
are those of ``sequential.py``, unchanged: why, and what simulation says, in ``statistics.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
    p_equivalence: P
    """That the difference reaches the margin, corrected alike; None without a margin."""
    differs: bool
    """Whether a difference is decided, and holds at this look."""
    equivalent: bool
    """Whether it was decided that the difference is less than the margin."""
    alpha: float
    """The level, over all looks, that Holm's correction left to what is said."""
    level: float
    """The same at this look."""
    level_95: float
    """This look's level where the contrast is the only one."""


def judge_family(
    contrasts: Sequence[Contrast],
    results: Results,
    looks: Looks | None,
    margin: float | None = None,
) -> list[Judged]:
    """Every contrast tested; p-values corrected for looks and for how many contrasts there are.

    A contrast that Holm's correction decides at a look stays decided: it keeps that look's p-value
    while the others go on. What is said of it comes from the last look at which it still holds:
    intervals of all looks hold together, so any of them may be chosen. Differences and
    equivalences, where there is a margin, are two families: it changes no difference.
    """
    series = [_Series(contrast, results, looks, margin) for contrast in contrasts]
    differences = _corrected([(one, one.p_value) for one in series])
    equal = _corrected([(one, one.p_equivalence) for one in series])
    return [one.judged(*found) for one, *found in zip(series, differences, equal, strict=True)]


@dataclass(frozen=True)
class _Corrected:
    """A contrast's test in its family."""

    at: Callable[[int], P]
    """The p-value by number of seeds, looks allowed for."""
    p_holm: P
    """At the look that decided it, or at its last."""
    factor: float
    """By which Holm's correction multiplies."""

    @property
    def is_decided(self) -> bool:
        return self.p_holm is not None and self.p_holm < ALPHA

    def holds(self, n: int) -> bool:
        """Whether it is decided by the first n seeds too."""
        p = self.at(n)
        return p is not None and p * self.factor < ALPHA

    def after(self, n: int) -> P:
        """The corrected p-value after n seeds."""
        p = self.at(n)
        return None if p is None else min(1.0, p * self.factor)


class _Series:
    """A contrast over its looks."""

    def __init__(
        self, contrast: Contrast, results: Results, looks: Looks | None, margin: float | None
    ) -> None:
        self._contrast, self._results, self._looks = contrast, results, looks
        self._margin = margin
        whole = [points for points in self._points() if all(self._is_whole(p) for p in points)]
        counts = [len(results[p].values) for points in whole or self._points() for p in points]
        self.latest = min(counts)
        """Seeds that all points of its blocks have; blocks that lost a run do not count."""
        self.plan = looks or Looks.at(self.latest)
        self._seen: dict[int, tuple[P, P]] = {}

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
        return self._tested(n)[0]

    def p_equivalence(self, n: int) -> P:
        """That the difference reaches the margin: after n seeds, looks allowed for."""
        return self._tested(n)[1]

    def _tested(self, n: int) -> tuple[P, P]:
        if n not in self._seen:
            sides = self.sides(n)
            found = None if sides is None else _plain(*sides)
            plain = None if found is None else found.p_value
            equal = None
            if found is not None and self._margin is not None:
                equal = found.p_equivalence(self._margin)
            self._seen[n] = self._looked(plain, n), self._looked(equal, n)
        return self._seen[n]

    def _looked(self, p: P, n: int) -> P:
        return None if p is None else self.plan.adjusted(p, n)

    def judged(self, difference: _Corrected, equal: _Corrected) -> Judged:
        """At the last look at which what is decided holds, or at the last of all."""
        deciding = equal if equal.is_decided else difference
        n = self.latest
        while deciding.is_decided and not deciding.holds(n):
            n -= 1
        sides = self.sides(n)
        alpha = ALPHA / deciding.factor
        return Judged(
            comparison=None if sides is None else compare_arms(*sides, paired=True),
            seeds=n,
            latest=self.latest,
            blocks=self.blocks(n),
            p_looks=None if self._looks is None else self.p_value(n),
            p_holm=difference.after(n),
            p_equivalence=equal.after(n),
            differs=difference.is_decided and difference.holds(n),
            equivalent=equal.is_decided,
            alpha=alpha,
            level=self.plan.nominal(alpha, n),
            level_95=self.plan.nominal(ALPHA, n),
        )


def _corrected(tests: Sequence[tuple[_Series, Callable[[int], P]]]) -> list[_Corrected]:
    """The tests of a family, at the look that decided each or at its last, after Holm's
    correction."""
    p_values: list[P] = [None] * len(tests)
    decided = [False] * len(tests)
    first = min((one.plan.first for one, _ in tests), default=0)
    last = max((one.latest for one, _ in tests), default=-1)
    for n in range(first, last + 1):
        for place, (one, p_value) in enumerate(tests):
            if not decided[place] and one.plan.first <= n <= one.latest:
                p_values[place] = p_value(n)
        decided = [p is not None and p < ALPHA for p in holm(p_values)]
    return [
        _Corrected(p_value, adjusted, factor)
        for (_, p_value), adjusted, factor in zip(
            tests, holm(p_values), holm_factors(p_values), strict=True
        )
    ]


def plain_p_value(minus: Sequence[float], plus: Sequence[float]) -> P:
    """That of ``compare_arms(minus, plus, paired=True)``, without the rest, which takes longer.

    >>> plain_p_value([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    1.0
    """
    found = _plain(minus, plus)
    return None if found is None else found.p_value


def _plain(minus: Sequence[float], plus: Sequence[float]) -> Comparison | None:
    """The test alone: no correlation, no minimum detectable effect. None where there is none."""
    x, y = np.asarray(minus, dtype=np.float64), np.asarray(plus, dtype=np.float64)
    if x.size < 2:
        return None

    def tested(delta: float, error: float, df: float, p: float) -> Comparison:
        return Comparison(delta, error, df, p, True, None, None, None)

    if bool((x == y).all()):
        return tested(0.0, 0.0, float(x.size - 1), 1.0)
    found = paired_difference(x, y)
    size = max(float(np.abs(x).max()), float(np.abs(y).max()))
    if found.std_error <= ROUNDING * size:
        return None
    p = float(two_sided_p(found))
    return tested(float(found.delta), float(found.std_error), float(found.df), p)
