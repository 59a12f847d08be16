"""The same tuning for every arm: one grid, chosen from on validation, extended where it was too
narrow. Pure: what to train next, and what was best, from the losses so far.

A rate that suits one architecture may ruin another, so arms at one rate are compared by luck. What
an arm gets here is counted and told, since effort spent on tuning is a budget too (Melis et al.
2018; Wen et al. 2025).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
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
_BUDGET = "this decides how much an arm is trained"
_MEANING = "losses at its values do not measure the same"
_NOT_TUNED: Mapping[str, str] = {
    "train.steps": _BUDGET,
    "train.batch_size": _BUDGET,
    "train.seq_len": _BUDGET,
    "train.stages": _BUDGET,
    "train.seed": "seeds are the study's own",
    "train.objective": _MEANING,
    "train.eval_tokens": _MEANING,
    "data": _MEANING,
    "arch.type": "an objective left to it changes with it, so " + _MEANING,
    "arch.name": "a name changes nothing",
    "plugins": "plugins are not searched",
    "origin": "all arms begin as they are written",
}

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
        UsageError: it is neither, or the path decides a budget or what a loss means.

    >>> parse_knob("train.lr=[1e-3, 3e-3]")
    Knob(path='train.lr', values=(0.001, 0.003))
    """
    path, equals, value = text.partition("=")
    path = path.strip()
    parse_path(path)  # raises where it is not a path
    for fixed, why in _NOT_TUNED.items():
        if f"{path}.".startswith(f"{fixed}.") or fixed.startswith(f"{path}."):
            about = "" if path.startswith(fixed) else f"{fixed} is part of it: "
            raise UsageError(f"--tune {path}: {about}{why}; it is not tuned")
    if not equals:
        return Knob(path)
    values = parse_value(value, "--tune")
    if not isinstance(values, list | tuple) or len(values) < 2:
        raise UsageError(f"--tune {text}: a list of at least 2 values is needed")
    if any(_holds_mapping(value) for value in values):
        raise UsageError(
            f"--tune {text}: values are numbers or words; of a component tune a key, such as "
            f"{path}.type=[…]"
        )
    words = {point_words([path], (value,)) for value in values}
    if len(words) < len(values) or len(set(values)) < len(values):
        raise UsageError(f"--tune {text}: a value stands there twice (to {_DIGITS} digits)")
    return Knob(path, tuple(values))


def _holds_mapping(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_holds_mapping, value))
    return isinstance(value, Mapping)


@dataclass(frozen=True)
class Tuning:
    """What every arm is given: the knobs, seeds of its own, and so many further points.

    Raises:
        UsageError: two knobs are the same path.
    """

    knobs: tuple[Knob, ...]
    seeds: tuple[int, ...] = (TUNING_SEED,)
    extensions: int = EXTENSIONS

    def __post_init__(self) -> None:
        for place, path in enumerate(self.paths):
            if path in self.paths[:place]:
                raise UsageError(f"--tune {path}: is given twice")

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(knob.path for knob in self.knobs)

    def grid(self, own: Sequence[Any]) -> tuple[Point, ...]:
        """The first points of an arm; ``own`` are its file's values, one for each knob."""
        axes = [knob.grid(value) for knob, value in zip(self.knobs, own, strict=True)]
        return tuple(itertools.product(*axes))

    def next_points(
        self,
        own: Sequence[Any],
        tried: Mapping[Point, float],
        is_valid: Callable[[Point], bool] = lambda point: True,
    ) -> tuple[Point, ...]:
        """What is to be trained next for an arm: its grid, then one point beyond each edge at which
        the best one lies, then nothing.

        Args:
            tried: the loss of each point, infinite where it has none.
            is_valid: whether a point beyond an edge can be trained at all: a dropout of 1.2 cannot.
        """
        grid = self.grid(own)
        if missing := tuple(point for point in grid if point not in tried):
            return missing
        left = self.extensions - (len(tried) - len(grid))
        further = (
            tuple(point for point in self.beyond(tried) if is_valid(point)) if left > 0 else ()
        )
        return further[: max(0, left)]

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
