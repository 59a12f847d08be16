"""Axes, and products of axes as numbers in mixed radix: nothing is listed, an index is decoded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.config import Path
from windtunnel.errors import UsageError

Indices = NDArray[np.int64]
Column = NDArray[Any]
Rule = Callable[[Mapping[str, Column]], Column]
"""Columns of some axes, by name -> which of their combinations are valid."""

MOST_MERGED = 5_000_000
"""Combinations of axes that one rule couples; each is tried."""


@dataclass(frozen=True)
class Axis:
    """A name and the values it takes, in order.

    ``paths`` are the places of a run file that are set to the value; a family's own axes have none.
    ``structural`` says whether the value decides the shape of any tensor, or what is computed with
    them; dropout does not.
    """

    name: str
    values: tuple[Any, ...]
    paths: tuple[Path, ...] = ()
    structural: bool = True

    def __post_init__(self) -> None:
        if not len(self.values):
            raise UsageError(f"axis {self.name} has no values")
        plain = tuple(v.item() if isinstance(v, np.generic) else v for v in self.values)
        object.__setattr__(self, "values", plain)
        for value in plain:
            if not _finite(value):
                raise UsageError(f"axis {self.name} has the value {value}: no finite number")
        seen: set[Any] = set()
        for value in plain:
            same = value if type(value) in (int, float) else label(value)  # 2 is 2.0
            if same in seen:
                raise UsageError(f"axis {self.name} has the value {label(value)} twice")
            seen.add(same)

    def column(self) -> Column:
        """The values as an array: numbers, truths, or words for everything else."""
        kinds = {type(value) for value in self.values}
        if kinds == {bool}:
            return np.array(self.values, dtype=bool)
        if kinds <= {int, float}:
            whole = kinds == {int} and max(map(abs, self.values)) < 2**62
            return np.array(self.values, dtype=np.int64 if whole else np.float64)
        return np.array([label(value) for value in self.values])

    def words(self) -> set[str]:
        """The texts that stand for its values in conditions, where those are no numbers."""
        column = self.column()
        return set(column.tolist()) if column.dtype.kind == "U" else set()


def _finite(value: Any) -> bool:
    """Whether all numbers in a value are finite."""
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or isfinite(value)


def label(value: Any) -> str:
    """A value as one word.

    >>> label(True), label(0.5), label("gelu"), label({"type": "rope"})
    ('true', '0.5', 'gelu', '{"type":"rope"}')
    """
    if type(value) is int:
        return str(value)
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


@dataclass(frozen=True)
class Digit:
    """One digit of an index: an axis, or neighbouring axes of which only some combinations are
    valid. ``table[row]`` holds the position of each axis's value."""

    axes: tuple[Axis, ...]
    table: NDArray[np.int32]

    @property
    def size(self) -> int:
        return len(self.table)


def digits_of(
    axes: Sequence[Axis], coupled: Sequence[str] = (), rule: Rule | None = None
) -> tuple[Digit, ...]:
    """The digits of a product, the first axis outermost.

    The axes from the first coupled one to the last become one digit: its rows are those of their
    product, in loop order, that ``rule`` keeps.
    """
    names = [axis.name for axis in axes]
    places = [names.index(name) for name in coupled]
    first, end = (min(places), max(places) + 1) if places else (0, 0)
    plain = [Digit((axis,), np.arange(len(axis.values), dtype=np.int32)[:, None]) for axis in axes]
    if rule is None or first == end:
        return tuple(plain)
    run = tuple(axes[first:end])
    sizes = tuple(len(axis.values) for axis in run)
    if prod(sizes) > MOST_MERGED:
        raise UsageError(
            f"the rule over {', '.join(coupled)} couples {prod(sizes):,} combinations; at most "
            f"{MOST_MERGED:,} can be tried"
        )
    positions = np.indices(sizes, dtype=np.int32).reshape(len(sizes), -1)
    columns = {a.name: a.column()[p] for a, p in zip(run, positions, strict=True)}
    kept = np.broadcast_to(rule(columns), positions.shape[1:])
    table = np.ascontiguousarray(positions[:, kept].T)
    return (*plain[:first], Digit(run, table), *plain[end:])


class Product:
    """A product of digits, the last one innermost: index ↔ values, and columns over all of it."""

    def __init__(self, digits: Sequence[Digit]) -> None:
        self.digits = tuple(digits)
        self.shape = tuple(digit.size for digit in self.digits)
        self.size = prod(self.shape)
        self.axes = tuple(axis for digit in self.digits for axis in digit.axes)
        self._sizes = self.shape[::-1]
        self._places = {
            axis.name: (number, place)
            for number, digit in enumerate(self.digits)
            for place, axis in enumerate(digit.axes)
        }
        if len(self._places) < len(self.axes):
            raise UsageError(f"two axes have one name: {', '.join(a.name for a in self.axes)}")

    def values(self, index: int) -> dict[str, Any]:
        """The value of each axis at an index; division with remainder, innermost digit first."""
        rows = []
        for size in self._sizes:
            index, row = divmod(index, size)
            rows.append(row)
        found: dict[str, Any] = {}
        for digit, row in zip(self.digits, reversed(rows), strict=True):
            if len(digit.axes) == 1:
                axis = digit.axes[0]
                found[axis.name] = axis.values[digit.table.item(row)]
            else:
                for axis, place in zip(digit.axes, digit.table[row].tolist(), strict=True):
                    found[axis.name] = axis.values[place]
        return found

    def grid(self, name: str) -> Column:
        """The values of an axis, in a shape that broadcasts to :attr:`shape`."""
        number, place = self._places[name]
        return self.digits[number].axes[place].column()[self.positions(name)]

    def at(self, rows: Indices) -> Rows:
        """The axes at some rows."""
        return Rows(self, self._places_of(rows))

    def _places_of(self, rows: Indices) -> tuple[Indices, ...] | None:
        if not rows.size:
            return None
        return np.unravel_index(rows, self.shape) if self.shape else ()

    def place(self, name: str) -> tuple[int, int]:
        """Which digit an axis is of, and which of its axes."""
        return self._places[name]

    def positions(self, name: str) -> NDArray[np.int32]:
        """The place of each value on its axis, in a shape that broadcasts to :attr:`shape`."""
        number, place = self._places[name]
        shape = [1] * len(self.shape)
        shape[number] = self.shape[number]
        return self.digits[number].table[:, place].reshape(shape)

    def nearest(self, wanted: Mapping[str, Any]) -> int:
        """The index whose values are most like those wanted; numbers are compared by their ratio,
        what is not wanted counts nothing."""
        index = 0
        for digit in self.digits:
            distance = np.zeros(digit.size)
            for place, axis in enumerate(digit.axes):
                if axis.name in wanted:
                    each = np.array([_distance(v, wanted[axis.name]) for v in axis.values])
                    distance += each[digit.table[:, place]]
            index = index * digit.size + int(distance.argmin())
        return index


@dataclass(frozen=True)
class Rows:
    """Some rows of a product; what is asked for is worked out for those alone."""

    product: Product
    places: tuple[Indices, ...] | None
    """The row of each digit; None where there are no rows."""

    def grid(self, name: str) -> Column:
        """The values of an axis."""
        number, place = self.product.place(name)
        return self.product.digits[number].axes[place].column()[self.positions(name)]

    def positions(self, name: str) -> NDArray[np.int32]:
        """The place of each value on its axis."""
        number, place = self.product.place(name)
        if self.places is None:
            return np.zeros(0, dtype=np.int32)
        return self.product.digits[number].table[:, place][self.places[number]]


def _distance(value: Any, wanted: Any) -> float:
    if value == wanted:
        return 0.0
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (value, wanted))
    if not numbers or value < 0 or wanted < 0:
        return 3.0
    return float(abs(np.log((value + 1e-3) / (wanted + 1e-3))))
