"""A family of architectures over a product of axes: one part of a space."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.config import Document, Path, format_path
from windtunnel.data.order import keyed_number
from windtunnel.errors import UsageError
from windtunnel.spaces.axis import Axis, Column, Digit, Indices, Product, digits_of, label
from windtunnel.spaces.expression import Expression, condition
from windtunnel.spaces.families.family import Family, twins_of

if TYPE_CHECKING:
    from windtunnel.arch import Architecture, ArchSpec

MOST_FILTERED = 50_000_000
"""Members of a block that a condition is tried on."""
MOST_COUNTED = 20_000
"""Structures without a closed form whose parameters are counted one by one."""
_LONGEST_NAME = 100
"""Characters of an architecture's name in a run file."""
_WORD = 2**64 - 1


@dataclass(frozen=True)
class Naming:
    """How the members of a block are named: a prefix, a number counted from ``first``, the values;
    fractions with so many ``decimals``, or as short as they are."""

    prefix: str
    first: int = 1
    decimals: int | None = None


@dataclass(frozen=True, eq=False)
class Block:
    """``family`` over ``axes``, the first outermost.

    Axes of the family's own names are its values; all others have paths, and edit the run file of a
    member. ``digits`` may be given where axes are coupled otherwise than by the family.
    """

    family: Family
    axes: tuple[Axis, ...]
    naming: Naming
    vocab_size: int = 50_257
    max_seq_len: int = 512
    digits: tuple[Digit, ...] | None = None
    origins: Mapping[Path, str] = field(default_factory=dict)
    """Where the axis of each path was written."""
    product: Product = field(init=False)
    _names: frozenset[str] = field(init=False)
    _counted: dict[int, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        own = {axis.name for axis in self.axes}
        missing = [name for name in self.family.axes if name not in own]
        if missing:
            raise UsageError(f"family {self.family.name} needs values of {', '.join(missing)}")
        for axis in self.axes:
            if axis.name not in self.family.axes and not axis.paths:
                raise UsageError(f"family {self.family.name} has no axis {axis.name}")
        digits = self.digits
        if digits is None:
            coupled = self.family.coupled
            digits = digits_of(self.axes, coupled, self.family.valid if coupled else None)
        object.__setattr__(self, "product", Product(digits))
        derived = self.family.derived(_Ones())
        names = frozenset({*own, *derived, *_CONSTANTS, "params", "family"})
        object.__setattr__(self, "_names", names)

    @property
    def size(self) -> int:
        """How many members it has."""
        return self.product.size

    @property
    def names(self) -> frozenset[str]:
        """The names that a condition may use."""
        return self._names

    @property
    def closed(self) -> bool:
        """Whether the family's closed form counts the parameters of every member."""
        edited = any(axis.paths and axis.structural for axis in self.axes)
        return self.family.closed and not edited

    def words(self) -> set[str]:
        """The texts among the values, and the family's name."""
        columns = [axis.column() for axis in self.axes]
        return {str(v) for c in columns if c.dtype.kind == "U" for v in c} | {self.family.name}

    def times(self, axes: Sequence[Axis]) -> Block:
        """The product with further axes, innermost."""
        more = tuple(axes)
        return Block(
            self.family, (*self.axes, *more), self.naming, self.vocab_size, self.max_seq_len,
            (*self.product.digits, *digits_of(more)),
        )  # fmt: skip

    # One member

    def constants(self) -> dict[str, Any]:
        """What all members share."""
        return {"vocab_size": self.vocab_size, "max_seq_len": self.max_seq_len}

    def values(self, row: int) -> dict[str, Any]:
        """The value of each axis."""
        return self.product.values(row)

    def params(self, values: Mapping[str, Any]) -> int:
        """The number of parameters of one member."""
        if self.closed:
            return int(self.family.params({**self.constants(), **values}))
        from windtunnel.arch import cost

        return int(cost(self.architecture(values, "member")).total.params)

    def name(self, row: int, values: Mapping[str, Any]) -> str:
        """The name of a member."""
        own = self.family.parts
        parts = [own.get(axis.name, axis.name + "={}").format(self._text(values[axis.name]))
                 for axis in self.axes]  # fmt: skip
        return "-".join([self.naming.prefix, f"{row + self.naming.first:03d}", *parts])

    def _text(self, value: Any) -> str:
        if isinstance(value, bool):
            return str(value)
        if isinstance(value, float):
            decimals = self.naming.decimals
            return f"{value:g}" if decimals is None else f"{value:.{decimals}f}"
        return label(value)

    def read(self, name: str) -> dict[str, Any]:
        """The values that a name tells, as far as they can be read."""
        found: dict[str, Any] = {}
        for axis in self.axes:
            pattern = self.family.parts.get(axis.name, axis.name + "={}")
            start, _, end = (re.escape(part) for part in pattern.partition("{}"))
            match = re.search(rf"-{start}([\w.]+?){end}(?=-|$)", name)
            if match is None:
                continue
            texts = {self._text(value): value for value in axis.values}
            text = match[1]
            if text in texts:
                found[axis.name] = texts[text]
            elif re.fullmatch(r"\d+(\.\d+)?", text):
                found[axis.name] = float(text)
        return found

    def document(self, values: Mapping[str, Any], name: str) -> Document:
        """The run file of a member; presets stand as they are where no axis edits a path."""
        document = self.family.document({**self.constants(), **values})
        edits = [(path, values[axis.name]) for axis in self.axes for path in axis.paths]
        if edits:
            from windtunnel.arch import expand_preset

            document = expand_preset(document)
        for path, value in edits:
            document = document.with_value(path, value, self.origins.get(path, "an axis"))
        return document.with_value(("arch", "name"), name[:_LONGEST_NAME], "the space")

    def arch(self, values: Mapping[str, Any], name: str) -> ArchSpec:
        """The architecture of a member."""
        from windtunnel.arch import ArchSpec, expand_preset
        from windtunnel.config import decode

        document = expand_preset(self.document(values, name))
        return decode(Document(document.tree["arch"], source=name), ArchSpec)

    def architecture(self, values: Mapping[str, Any], name: str) -> Architecture:
        """The architecture of a member in its final form; where it leaves the vocabulary to the
        tokenizer, with that of the run file.

        Raises:
            ConfigError: the values do not fit together.
        """
        from windtunnel.arch import resolve

        if self.closed:
            return resolve(self.arch(values, name))
        from windtunnel.train.run_config import counted_vocab_size, load_run_document

        config = load_run_document(self.document(values, name), base=self.family.folder).config
        return resolve(config.arch, counted_vocab_size(config))

    # All members

    def column(self, name: str, rows: Indices | None = None) -> Column | None:
        """The values of a name over some rows, or over all in a shape that broadcasts to the
        digits'; None where the family lacks it."""
        if name not in self.names:
            return None
        if name == "params" and not self.closed:
            return self._counted_params(np.arange(self.size) if rows is None else rows)
        grid = self._grid(name)
        return grid if rows is None else self.taken(grid, rows)

    def _grid(self, name: str) -> Column:
        if name == "family":
            return np.array(self.family.name)
        if name in _CONSTANTS:
            return np.array(self.constants()[name])
        if any(axis.name == name for axis in self.axes):
            return self.product.grid(name)
        everything: dict[str, Any] = {k: np.array(v) for k, v in self.constants().items()}
        everything |= {axis: self.product.grid(axis) for axis in self.family.axes}
        if name == "params":
            return np.asarray(self.family.params(everything))
        return np.asarray(self.family.derived(everything)[name])

    def taken(self, grid: Column, rows: Indices) -> Column:
        """The entries of a grid at some rows."""
        if grid.ndim == 0:
            return np.broadcast_to(grid, rows.shape)
        places = np.unravel_index(rows, self.product.shape)
        where = tuple(p if n > 1 else 0 for p, n in zip(places, grid.shape, strict=True))
        return np.asarray(grid[where])

    def holds(self, expression: Expression, names: set[str]) -> NDArray[np.bool_]:
        """Which members a condition holds for. What is not in closed form is counted for those
        alone that all other conditions leave.

        Raises:
            UsageError: the block is too large to go through.
        """
        if self.size > MOST_FILTERED:
            raise UsageError(
                f"{self.naming.prefix}: {self.size:,} members; a condition is tried on at most "
                f"{MOST_FILTERED:,}: put it under `where` of the block, or leave values out"
            )
        slow = [n for n in expression.conjuncts() if not self.closed and "params" in n.names()]
        found: Column = np.ones((), dtype=bool)
        for node in expression.conjuncts():
            if node not in slow:
                found = found & condition(node, self.column, names, expression.text)
        found = np.broadcast_to(found, self.product.shape).reshape(-1)
        if slow:
            found = found.copy()
            for node in slow:
                rows = np.flatnonzero(found)
                lookup = partial(self.column, rows=rows)
                found[rows] = condition(node, lookup, names, expression.text)
        return found

    def _counted_params(self, rows: Indices) -> Column:
        """Parameters structure by structure, each counted once."""
        structures, first, where = np.unique(
            self.structures(rows), return_index=True, return_inverse=True
        )
        new = [int(s) not in self._counted for s in structures]
        if sum(new) > MOST_COUNTED:
            raise UsageError(
                f"{self.naming.prefix}: params of {sum(new):,} structures would be counted one by "
                f"one; at most {MOST_COUNTED:,} are: narrow it down by other conditions first"
            )
        for structure, place in zip(structures[new], first[new], strict=True):
            self._counted[int(structure)] = self.params(self.values(int(rows[place])))
        counts = np.array([self._counted[int(s)] for s in structures], dtype=np.int64)
        return counts[where]

    def structures(self, rows: Indices | None = None) -> NDArray[np.uint64]:
        """A number for what each member is without what changes no tensor: equal numbers mean equal
        structures, in other spaces too, and twin families share theirs."""
        twins = min(twins_of(self.family.name))
        total = np.full((1,) * len(self.product.shape), _hashed("family", twins), dtype=np.uint64)
        for axis in self.axes:
            if not axis.structural or axis.name in self.family.free:
                continue
            what = ",".join(map(format_path, axis.paths)) or axis.name
            hashes = np.array([_hashed(what, label(v)) for v in axis.values], dtype=np.uint64)
            total = total + hashes[self.product.positions(axis.name)]
        if rows is None:
            return np.broadcast_to(total, self.product.shape).reshape(-1)
        return self.taken(total, rows)

    def num_structures(self) -> int:
        """How many of the members differ in more than what changes no tensor."""
        free = self.family.free | {a.name for a in self.axes if not a.structural}
        sizes = []
        for digit in self.product.digits:
            kept = [place for place, axis in enumerate(digit.axes) if axis.name not in free]
            sizes.append(len(np.unique(digit.table[:, kept], axis=0)) if kept else 1)
        return prod(sizes)


_CONSTANTS = ("vocab_size", "max_seq_len")


class _Ones(dict[str, Any]):
    """Any value is 1: what names a family derives."""

    def __missing__(self, key: str) -> int:
        return 1


def _hashed(*parts: str) -> int:
    return keyed_number("structure", *parts) & _WORD
