"""Several looks at the same comparison: p-values and intervals that allow for looking.

A comparison that is judged again after every further seed errs more often than its level says.
:class:`Looks` gives, for a fixed plan of looks, p-values and intervals whose error rate holds over
all looks together, whenever one stops and for whatever reason. Why this boundary and what it costs:
``docs/design/statistics.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from windtunnel.errors import UsageError
from windtunnel.study.statistics import Floats, critical_t

FIRST_LOOK = 3
MAX_LOOKS_SEEDS = 100
"""Seeds at the last look, at most: beyond that the table takes seconds."""
SHAPE = 2.0
"""The nominal level of a look grows with this power of its seeds (chosen by simulation)."""

_SMALLEST = 1e-10
_STATES = 128
_NODES = 20
_BEYOND = 8.0
"""A step of the walk beyond this many standard deviations is left out (from 26 seeds on)."""


@dataclass(frozen=True)
class Looks:
    """Looks after ``first``, ``first + 1``, …, ``last`` pairs; one look only where both are equal.

    At look n the nominal level is ``x·(n/last)²``; x is such that normal differences without a true
    one cross any of the boundaries with the probability that was asked for.

    Raises:
        UsageError: ``first`` is below 2, above ``last``, or there are too many.

    >>> looks = Looks(3, 10)
    >>> round(looks.adjusted(0.01, 5), 3), round(looks.nominal(0.05, 10), 3)
    (0.072, 0.025)
    >>> Looks(5, 5).adjusted(0.01, 5)
    0.01
    """

    first: int
    last: int
    shape: float = SHAPE

    def __post_init__(self) -> None:
        if self.first < 1 or (self.first < 2 and self.last > self.first):
            raise UsageError(f"a first look needs at least 2 seeds, not {self.first}")
        if self.last < self.first:
            raise UsageError(
                f"the last look ({self.last} seeds) is before the first ({self.first})"
            )
        if self.last > MAX_LOOKS_SEEDS and self.last > self.first:
            raise UsageError(f"at most {MAX_LOOKS_SEEDS} seeds can be looked at, not {self.last}")

    @classmethod
    def at(cls, n: int) -> Looks:
        """A single look, after n seeds: nothing is to be allowed for."""
        return cls(n, n)

    def adjusted(self, p_value: float, n: int) -> float:
        """The p-value that allows for looking, from the plain one of look n.

        The probability, without a true difference, that any of the planned looks shows as much. It
        is at least uniform under every rule of stopping.
        """
        if self.first == self.last:
            return p_value
        return float(self.adjusted_all(np.asarray(p_value), n))

    def adjusted_all(self, p_values: Floats, n: int) -> Floats:
        """:meth:`adjusted` of every value."""
        if self.first == self.last:
            return p_values
        x, table = p_values / self._weight(n), self._table
        inside = np.exp(np.interp(np.log(np.clip(x, _SMALLEST, 1.0)), table.level, table.crossing))
        return np.asarray(inside * np.minimum(x / _SMALLEST, 1.0))  # in proportion below the table

    def nominal(self, alpha: float, n: int) -> float:
        """The level of look n whose intervals, over all looks together, hold with 1 − alpha.

        The inverse of :meth:`adjusted`: ``adjusted(p, n) < alpha`` where ``p < nominal(alpha, n)``.
        """
        if self.first == self.last:
            return alpha
        table = self._table
        smallest = math.exp(table.crossing[0])
        if alpha <= smallest:
            return self._weight(n) * alpha * _SMALLEST / smallest
        x = float(np.exp(np.interp(math.log(alpha), table.crossing, table.level)))
        return float(self._weight(n) * x)

    def _weight(self, n: int) -> float:
        assert self.first <= n <= self.last, f"no look at {n} seeds"
        return float((n / self.last) ** self.shape)

    @property
    def _table(self) -> _Table:
        return _table(self.first, self.last, self.shape)


class _Table(NamedTuple):
    """Logarithms of the last look's level and of the probability to cross at any look."""

    level: Floats
    crossing: Floats


@lru_cache(maxsize=16)
def _table(first: int, last: int, shape: float) -> _Table:
    few, many = np.geomspace(_SMALLEST, 1e-3, 9), np.geomspace(1e-3, 0.999, 25)
    levels = np.concatenate([few[:-1], many])
    weights = (np.arange(first, last + 1) / last) ** shape
    crossing = crossing_probability(levels[:, None] * weights, first)
    crossing = np.clip(np.maximum.accumulate(crossing), levels, 1.0)  # at least the last look's
    return _Table(np.log([*levels, 1.0]), np.log([*crossing, 1.0]))


def crossing_probability(levels: Floats, first: int) -> Floats:
    """How probably a t-test is significant at any look, when there is no true difference.

    Exact up to integration (relative error below 1% for a crossing above 1e-4, and upwards: too
    large a probability rather than too small a one), for normal differences of any spread. With
    ``T = Σd/√Σd²`` after n differences, the next T' is ``(T + r)/√(1 + r²)``, where ``r√n`` has a
    t distribution of n degrees of freedom, whatever came before: the spread cancels, T is a Markov
    chain, and the probability follows by backward induction over one dimension (after Armitage,
    McPherson & Rowe 1969, who did it for a known spread). With ``r = tan φ`` and ``T = tan ψ`` the
    step is a rotation, ``T' = √(1 + T²)·sin(φ + ψ)``.

    Args:
        levels: (cases, looks), two-sided nominal levels below 1 after first, first + 1, … seeds.
        first: seeds at the first look.
    """
    from scipy.special import betaln

    seeds = np.arange(first, first + levels.shape[1])
    # |T| ≤ √n always, so T = √n·sin θ; a t-test is significant where |θ| > edge.
    edge = np.arctan(critical_t(seeds - 1.0, levels) / np.sqrt(seeds - 1.0))
    places = np.linspace(0.0, 1.0, _STATES + 1)
    later = np.zeros((levels.shape[0], _STATES + 1))  # the last look: nothing comes after
    for i in range(len(seeds) - 2, -1, -1):
        later = _one_look_earlier(int(seeds[i]), edge[:, i : i + 1] * places, edge[:, i + 1], later)
    angles = edge[:, :1] * places
    density = np.exp((first - 2) * np.log(np.cos(angles)) - betaln(0.5, (first - 1) / 2))
    return np.asarray(levels[:, 0] + 2 * np.trapezoid(later * density, angles, axis=1))


def _one_look_earlier(n: int, angles: Floats, next_edge: Floats, later: Floats) -> Floats:
    """The probability to cross after look n by the state there, from that after look n + 1.

    Args:
        angles: (cases, states), ``θ`` of the states at look n.
        next_edge: (cases,), the boundary's ``θ`` at look n + 1.
        later: (cases, states), the probabilities at look n + 1 for ``θ`` from 0 to that edge.
    """
    from scipy.special import betaln, stdtr

    state = math.sqrt(n) * np.sin(angles)
    turn, reach = np.arctan(state), np.sqrt(1 + state**2)
    bound = math.sqrt(n + 1) * np.sin(next_edge)[:, None]
    inside = np.arcsin(np.minimum(bound / reach, 1.0))

    def above(step: Floats) -> Floats:
        return np.asarray(stdtr(n, -math.sqrt(n) * np.tan(step)))

    end = turn + math.pi / 2  # of the angle φ + ψ; it begins at ψ − π/2
    crossing = above(inside - turn) - above(np.minimum(math.pi - inside, end) - turn)
    below = np.clip(inside + turn, -math.pi / 2, math.pi / 2)
    crossing += np.where(inside + turn < math.pi / 2, above(below), 0.0)
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    far = _BEYOND / math.sqrt(n) if n > 25 else math.pi / 2
    # Between the boundaries, and once more where a huge step brings so much spread that t is small.
    for low, high in ((np.maximum(end - math.pi, -inside), inside), (math.pi - inside, end)):
        low, high = np.maximum(low, turn - far), np.minimum(high, turn + far)
        width = np.maximum(high - low, 0.0)
        if not width.any():
            continue
        angle = low[..., None] + width[..., None] * (nodes + 1) / 2
        step = np.log(np.maximum(np.cos(angle - turn[..., None]), 1e-300))
        density = np.exp((n - 1) * step - betaln(0.5, n / 2))
        arrives = np.minimum(np.abs(reach[..., None] * np.sin(angle)) / math.sqrt(n + 1), 1.0)
        place = np.arcsin(arrives) / next_edge[:, None, None]
        crossing += width / 2 * ((density * _read(later, place)) @ weights)
    return crossing


def _read(values: Floats, places: Floats) -> Floats:
    """Values on an even grid from 0 to 1, linearly between its points; one row for each case."""
    last = values.shape[1] - 1
    position = np.clip(places * last, 0.0, last)
    left = np.minimum(position.astype(np.int64), last - 1)
    part = position - left
    rows = np.arange(values.shape[0])[:, None, None]
    return np.asarray(values[rows, left] * (1 - part) + values[rows, left + 1] * part)
