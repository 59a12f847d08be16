"""What arms are made equal in: steps for a budget, the width for a number of parameters. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from windtunnel.config import suggestion
from windtunnel.errors import StudyError, UsageError

Match: TypeAlias = Literal["tokens", "flops", "params", "seconds"]
MATCHES: tuple[Match, ...] = get_args(Match)
TOLERANCE = 0.01
"""How far parameters may be apart and still count as matched."""
_GAP = 512
"""Valid widths lie closer together than this (heads, times two for rotations, divide them)."""
_WIDEST = 1 << 20


def parse_match(text: str) -> Match:
    """The budget of that name; UsageError for another."""
    for match in MATCHES:
        if text == match:
            return match
    raise UsageError(f"--match: unknown {text!r}{suggestion(text, MATCHES)}")


def steps_for(amount: float, per_step: float) -> int:
    """The whole steps that come closest to ``amount`` at ``per_step`` each; at least one.

    >>> steps_for(200_000, 64 * 32)
    98
    """
    assert min(amount, per_step) > 0, "a budget and a step are above zero"
    return max(1, math.floor(amount / per_step + 0.5))


def steps_reaching(amount: float, per_step: float) -> int:
    """The fewest steps that reach ``amount`` at ``per_step`` each; at least one.

    >>> steps_reaching(9_000, 64 * 128)
    2
    """
    assert min(amount, per_step) > 0, "a budget and a step are above zero"
    # A quotient such as 3.0000000000000004 is rounding, not a started fourth step.
    return max(1, math.ceil(amount / per_step - 1e-9))


def steps_within(seconds: float, steps_per_second: float) -> int:
    """The steps that fit into ``seconds``; at least one.

    >>> steps_within(13 / 0.7, 0.7)
    13
    """
    # A product such as 12.999999999999998 is rounding, not a step that does not fit.
    return max(1, math.floor(seconds * steps_per_second * (1 + 1e-12)))


@dataclass(frozen=True)
class WidthMatch:
    """The width whose parameters come closest, and how close: 0.02 is two per cent too many."""

    width: int
    params: int
    error: float

    @property
    def fits(self) -> bool:
        return abs(self.error) <= TOLERANCE


def solve_width(
    params: Callable[[int], int | None],
    target: float,
    *,
    start: int,
    low: int = 1,
    high: int = _WIDEST,
) -> WidthMatch:
    """The valid width in ``low … high`` whose parameters come closest to ``target``.

    Args:
        params: parameters at a width, not falling as it grows; None where the width is not valid.
        start: a width that is not far from a valid one.

    Raises:
        StudyError: no width near ``start`` is valid.

    >>> solve_width(lambda w: w * w if w % 4 == 0 else None, 10_000, start=8)
    WidthMatch(width=100, params=10000, error=0.0)
    """
    search = _Search(params, low, high)
    near = search.at_most(start) or search.at_least(start)
    if near is None:
        raise StudyError(f"no width near {start} is valid for this architecture")
    below = search.at_least(low) or near
    above = search.at_most(high) or near
    while (middle := search.between(below, above)) is not None:
        below, above = (middle, above) if search.count(middle) <= target else (below, middle)
    counts = {width: search.count(width) for width in (below, above)}
    best = min(counts, key=lambda width: abs(counts[width] / target - 1))
    return WidthMatch(best, counts[best], counts[best] / target - 1)


class _Search:
    """Valid widths around a place; every width is asked for once."""

    def __init__(self, params: Callable[[int], int | None], low: int, high: int) -> None:
        self._params = params
        self._known: dict[int, int | None] = {}
        self.low, self.high = low, high

    def _at(self, width: int) -> int | None:
        if width not in self._known:
            self._known[width] = self._params(width)
        return self._known[width]

    def count(self, width: int) -> int:
        found = self._at(width)
        assert found is not None, "a valid width"
        return found

    def at_most(self, width: int) -> int | None:
        width = min(width, self.high)
        down = range(width, max(self.low, width - _GAP) - 1, -1)
        return next((w for w in down if self._at(w) is not None), None)

    def at_least(self, width: int) -> int | None:
        width = max(width, self.low)
        up = range(width, min(self.high, width + _GAP) + 1)
        return next((w for w in up if self._at(w) is not None), None)

    def between(self, below: int, above: int) -> int | None:
        """A valid width strictly between two, near their middle."""
        middle = (below + above) // 2
        for candidate in (self.at_most(middle), self.at_least(middle)):
            if candidate is not None and below < candidate < above:
                return candidate
        return None


def mismatches(
    arm: Mapping[str, float | None], first: Mapping[str, float | None]
) -> dict[str, float | None]:
    """How far each budget is from the first arm's: 0.03 is three per cent above; None: unknown.

    >>> mismatches({"tokens": 103.0, "seconds": None}, {"tokens": 100.0, "seconds": 2.0})["tokens"]
    0.03
    """
    found: dict[str, float | None] = {}
    for name in first:
        mine, theirs = arm.get(name), first[name]
        known = mine is not None and theirs is not None and theirs > 0
        found[name] = round(mine / theirs - 1, 12) if known else None  # type: ignore[operator]
    return found
