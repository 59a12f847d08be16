"""The same tuning for every arm: one grid, chosen from on validation, extended where it was too
narrow. Pure: what to train next, and what was best, from the losses so far.

A rate that suits one architecture may ruin another, so arms at one rate are compared by luck. What
an arm gets here is counted and told, since effort spent on tuning is a budget too (Melis et al.
2018; Wen et al. 2025).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from windtunnel.config import parse_path, parse_value
from windtunnel.errors import UsageError

TUNING_SEED = 1_000_000
"""Far from the seeds of the comparison: the loss that chose a rate must not judge it."""
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the file's own value, where a knob has no values."""
EXTENSIONS = 3
_DIGITS = 6
_FIXED = ("train.steps", "train.batch_size", "train.seq_len", "train.seed", "train.stages")

Point = tuple[Any, ...]
"""A value for each knob."""


@dataclass(frozen=True)
class Knob:
    """What is tuned: a dotted path, and its values; None: factors of the arm's own value."""

    path: str
    values: tuple[Any, ...] | None = None

    def grid(self, own: Any) -> tuple[Any, ...]:
        """The values to be tried by an arm whose file says ``own``.

        Raises:
            UsageError: the file's value is not a number above zero, and no values were given.
        """
        if self.values is not None:
            return self.values
        if not _is_number(own) or own <= 0:
            raise UsageError(
                f"--tune {self.path}: its value is {own!r}, not a number above 0, so a grid cannot "
                f"be made around it; give values: {self.path}=[…]"
            )
        return tuple(rounded(own * factor) for factor in FACTORS)


def parse_knob(text: str) -> Knob:
    """``train.lr`` or ``train.lr=[1e-3, 3e-3]``.

    Raises:
        UsageError: it is neither, or the path decides a budget.

    >>> parse_knob("train.lr=[1e-3, 3e-3]")
    Knob(path='train.lr', values=(0.001, 0.003))
    """
    path, equals, value = text.partition("=")
    path = path.strip()
    parse_path(path)  # raises where it is not a path
    if any(path == fixed or path.startswith(f"{fixed}.") for fixed in _FIXED):
        raise UsageError(f"--tune {path}: this decides how much an arm is trained; it is not tuned")
    if not equals:
        return Knob(path)
    values = parse_value(value, "--tune")
    if not isinstance(values, list | tuple) or len(values) < 2:
        raise UsageError(f"--tune {text}: a list of at least 2 values is needed")
    if len({repr(value) for value in values}) < len(values):
        raise UsageError(f"--tune {text}: a value stands there twice")
    return Knob(path, tuple(values))


@dataclass(frozen=True)
class Tuning:
    """What every arm is given: the knobs, seeds of its own, and so many further points."""

    knobs: tuple[Knob, ...]
    seeds: tuple[int, ...] = (TUNING_SEED,)
    extensions: int = EXTENSIONS

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(knob.path for knob in self.knobs)

    def grid(self, own: Sequence[Any]) -> tuple[Point, ...]:
        """The first points of an arm; ``own`` are its file's values, one for each knob."""
        axes = [knob.grid(value) for knob, value in zip(self.knobs, own, strict=True)]
        return tuple(itertools.product(*axes))

    def next_points(self, own: Sequence[Any], tried: Mapping[Point, float]) -> tuple[Point, ...]:
        """What is to be trained next for an arm: its grid, then one point beyond each edge at which
        the best one lies, then nothing.

        Args:
            tried: the loss of each point, infinite where it has none.
        """
        grid = self.grid(own)
        if missing := tuple(point for point in grid if point not in tried):
            return missing
        left = self.extensions - (len(tried) - len(grid))
        return self.beyond(tried)[: max(0, left)]

    def beyond(self, tried: Mapping[Point, float]) -> tuple[Point, ...]:
        """The untried neighbours of the best point, past the ends of what was tried: where there
        are any, the optimum lies at an edge."""
        top = best_point(tried)
        if top is None:
            return ()
        found = []
        for place in range(len(self.knobs)):
            further = _past_the_end([point[place] for point in tried], top[place])
            point = (*top[:place], further, *top[place + 1 :])
            if further is not None and point not in tried:
                found.append(point)
        return tuple(found)


def best_point(tried: Mapping[Point, float]) -> Point | None:
    """The point of the lowest loss, the first of equal ones; None where none has a loss."""
    known = {point: loss for point, loss in tried.items() if math.isfinite(loss)}
    return min(known, key=known.__getitem__) if known else None


def _past_the_end(values: Sequence[Any], top: Any) -> Any | None:
    """The next value of a geometric row beyond ``top``; None where it is not at an end, or the row
    has none: words, a single value, or zero as the smallest."""
    if not all(_is_number(value) and value >= 0 for value in values):
        return None
    row = sorted(set(values))
    if len(row) < 2 or top not in (row[0], row[-1]) or top == 0:
        return None
    near = row[1] if top == row[0] else row[-2]
    if near <= 0:
        return None
    further = rounded(top * top / near)
    return round(further) if all(isinstance(value, int) for value in values) else further


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def rounded(value: float) -> float:
    """A value of a grid, without the last digits that a product leaves.

    >>> rounded(0.1 + 0.2)
    0.3
    """
    return float(f"{value:.{_DIGITS}g}")


def point_words(paths: Sequence[str], point: Point) -> str:
    """``lr 0.003, weight_decay 0.1``.

    >>> point_words(["train.lr", "train.weight_decay"], (0.003, 0.1))
    'lr 0.003, weight_decay 0.1'
    """
    names = [path.rpartition(".")[2] for path in paths]
    return ", ".join(
        f"{name} {value:g}" if _is_number(value) else f"{name} {value}"
        for name, value in zip(names, point, strict=True)
    )
