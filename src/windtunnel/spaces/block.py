"""A family of architectures over a product of axes: one part of a space."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.config import Document, Path
from windtunnel.errors import UsageError
from windtunnel.spaces.axis import Axis, Column, Digit, Indices, Product, Rows, digits_of, label
from windtunnel.spaces.entries import hashed
from windtunnel.spaces.expression import Expression, condition
from windtunnel.spaces.families.family import Family, twins_of
from windtunnel.spaces.structure import Tree, tree_of

if TYPE_CHECKING:
    from windtunnel.arch import Architecture, ArchSpec

MOST_FILTERED = 50_000_000
"""Members of a block that a condition is tried on."""
MOST_COUNTED = 20_000
"""Structures without a closed form whose parameters are counted one by one."""
_LONGEST_NAME = 100
"""Characters of an architecture's name in a run file."""
_GRIDS = 20
"""How many times more members than are asked for are still faster gone through all at once."""
MOST_PARAMS = 2**62
"""What counts of parameters stay below."""


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
        for what, size in self.constants().items():
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise UsageError(f"{what} must be a whole number, at least 1, not {size!r}")
        own = {axis.name for axis in self.axes}
        missing = [name for name in self.family.axes if name not in own]
        if missing:
            raise UsageError(f"family {self.family.name} needs values of {', '.join(missing)}")
        for axis in self.axes:
            if axis.name in self.family.axes:
                self.family.check(axis.name, axis.values)
            elif not axis.paths:
                raise UsageError(f"family {self.family.name} has no axis {axis.name}")
        digits = self.digits
        if digits is None:
            coupled = self.family.coupled
            digits = digits_of(self.axes, coupled, self.family.valid if coupled else None)
        object.__setattr__(self, "product", Product(digits))
        derived = derived_names(self.family)
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
        return {word for axis in self.axes for word in axis.words()} | {self.family.name}

    def times(self, axes: Sequence[Axis], origins: Mapping[Path, str] | None = None) -> Block:
        """The product with further axes, innermost; ``origins`` tell where each was written."""
        more = tuple(axes)
        return replace(
            self,
            axes=(*self.axes, *more),
            digits=(*self.product.digits, *digits_of(more)),
            origins={**self.origins, **(origins or {})},
        )

    def renamed(self, prefix: str) -> Block:
        """The same members, whose names begin with another word."""
        naming = replace(self.naming, prefix=f"{prefix}-{self.naming.prefix}")
        return replace(self, naming=naming, digits=self.product.digits)

    def __eq__(self, other: object) -> bool:
        """Whether both have the same members under the same names."""
        if self is other or not isinstance(other, Block):
            return self is other
        return self._told() == other._told() and all(
            np.array_equal(one.table, another.table)
            for one, another in zip(self.product.digits, other.product.digits, strict=True)
        )

    def __hash__(self) -> int:
        return hash((self.naming, self.size))

    def _told(self) -> tuple[Any, ...]:
        axes = [(a.name, tuple(map(label, a.values)), a.paths, a.structural) for a in self.axes]
        sizes = self.vocab_size, self.max_seq_len, self.product.shape
        return self.family.identity(), axes, self.naming, sizes

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
        parts = []
        for axis in self.axes:
            text = self._text(axis, values[axis.name])
            parts.append(own.get(axis.name, axis.name + "={}").replace("{}", text))
        return "-".join([self.naming.prefix, f"{row + self.naming.first:03d}", *parts])

    def _text(self, axis: Axis, value: Any) -> str:
        if isinstance(value, bool):
            return str(value)
        if isinstance(value, float):
            decimals = None if axis.paths else self.naming.decimals
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
            texts = {self._text(axis, value): value for value in axis.values}
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
        if rows is None:
            return self._column(name, self.product)
        found = self._column(name, self.product.at(rows))
        return np.broadcast_to(found, rows.shape)

    def _column(self, name: str, of: Product | Rows) -> Column:
        if name == "family":
            return np.array(self.family.name)
        if any(axis.name == name for axis in self.axes):
            return of.grid(name)
        if name in _CONSTANTS:
            edited = self._edited_size(name, of)
            return np.array(self.constants()[name]) if edited is None else edited
        everything: dict[str, Any] = {k: np.array(v) for k, v in self.constants().items()}
        everything |= {axis: of.grid(axis) for axis in self.family.axes}
        if name == "params":
            self._check_sizes()
            return np.asarray(self.family.params(everything))
        return np.asarray(self.family.derived(everything)[name])

    def _edited_size(self, name: str, of: Product | Rows) -> Column | None:
        """A size as the members' run files have it, where those tell it."""
        if not (self._own_tree and self.size):
            return None
        return self._tree.column((name,), of.positions)

    def _check_sizes(self) -> None:
        """Raises UsageError where the largest values give more parameters than can be counted."""
        largest = {a.name: max(a.values) for a in self.axes if a.name in self.family.axes
                   and all(isinstance(v, int | float) for v in a.values)}  # fmt: skip
        for tied in (False, True):
            values = {k: tied if isinstance(v, bool) else v for k, v in largest.items()}
            if len(values) < len(self.family.axes):
                return
            if abs(self.family.params({**self.constants(), **values})) >= MOST_PARAMS:
                raise UsageError(f"{self.naming.prefix}: its largest members have 2^62 parameters "
                                 "or more, which cannot be counted")  # fmt: skip

    def holds(
        self, expression: Expression, names: set[str], rows: Indices | None = None
    ) -> NDArray[np.bool_]:
        """Which members a condition holds for, of all or of some rows. What is not in closed form
        is counted for those alone that all other conditions leave.

        Raises:
            UsageError: these are too many to go through.
        """
        size = self.size if rows is None else len(rows)
        if size > MOST_FILTERED:
            raise UsageError(
                f"{self.naming.prefix}: {size:,} members; a condition is tried on at most "
                f"{MOST_FILTERED:,}: put it under `where` of the block, or leave values out"
            )
        nodes = expression.conjuncts()
        slow = [n for n in nodes if not self.closed and "params" in n.names()]
        whole = rows is None or (self.size <= _GRIDS * size and self.size <= MOST_FILTERED)
        found: Column = np.ones((), dtype=bool)
        for node in nodes:
            if node not in slow:
                lookup = partial(self.column, rows=None if whole else rows)
                found = found & condition(node, lookup, names, expression.text)
        shape = self.product.shape if whole or rows is None else rows.shape
        found = np.broadcast_to(found, shape).reshape(-1)
        found = found[rows] if whole and rows is not None else found
        if slow:
            found = found.copy()
            for node in slow:
                left = np.flatnonzero(found)
                lookup = partial(self.column, rows=left if rows is None else rows[left])
                found[left] = condition(node, lookup, names, expression.text)
        return found

    def _counted_params(self, rows: Indices) -> Column:
        """Parameters structure by structure, each counted once."""
        if not rows.size:
            return np.zeros(0, dtype=np.int64)
        if len(rows) > MOST_FILTERED:
            raise UsageError(f"{self.naming.prefix}: params of {len(rows):,} members would be "
                             "counted one by one; select some first")  # fmt: skip
        exact = self._tree.exact(self.product.at(rows).positions) if self._own_tree else None
        alike = self.structures(rows) if exact is None else np.broadcast_to(exact, rows.shape)
        structures, first, where = np.unique(alike, return_index=True, return_inverse=True)
        new = [int(s) not in self._counted for s in structures]
        if sum(new) > MOST_COUNTED:
            raise UsageError(
                f"{self.naming.prefix}: params of {sum(new):,} structures would be counted one by "
                f"one; at most {MOST_COUNTED:,} are: narrow it down by other conditions first"
            )
        for structure, place in zip(structures[new], first[new], strict=True):
            self._counted[int(structure)] = self.params(self.values(int(rows[place])))
        counts = [self._counted[int(s)] for s in structures]
        if max(counts) >= 2**62:
            raise UsageError(f"{self.naming.prefix}: a member has 2^62 parameters or more")
        return np.array(counts, dtype=np.int64)[where]

    def structures(self, rows: Indices | None = None) -> NDArray[np.uint64]:
        """A number for what each member is without what changes no tensor, and without what it is
        called: equal numbers mean equal structures, in other spaces too, and twin families share
        theirs. See :mod:`windtunnel.spaces.structure`."""
        if not self.size or (rows is not None and not rows.size):
            return np.zeros(0, dtype=np.uint64)
        of = self.product if rows is None else self.product.at(rows)
        total = self._tree.total(of.positions) if self._own_tree else self._of_family(of)
        shape = self.product.shape if rows is None else rows.shape
        return np.broadcast_to(total, shape).reshape(-1)

    def _of_family(self, of: Product | Rows) -> NDArray[np.uint64]:
        """The structures of a family's own axes."""
        total = np.array([hashed("family", min(twins_of(self.family.name)))], dtype=np.uint64)
        for axis in self.axes:
            if axis.structural and axis.name not in self.family.free:
                hashes = [hashed(axis.name, label(value)) for value in axis.values]
                total = total + np.array(hashes, dtype=np.uint64)[of.positions(axis.name)]
        return total

    @property
    def _own_tree(self) -> bool:
        """Whether members are told by their run files, and not by a family's axes."""
        return not self.family.told or any(axis.paths and axis.structural for axis in self.axes)

    @cached_property
    def _tree(self) -> Tree:
        return tree_of(
            self.axes, self.values(0), partial(self.document, name="member"), self.family.folder
        )

    def num_structures(self) -> int:
        """How many of the members differ in more than what changes no tensor."""
        if self._own_tree:
            return len(np.unique(self.structures()))
        free = self.family.free | {a.name for a in self.axes if not a.structural}
        sizes = []
        for digit in self.product.digits:
            kept = [place for place, axis in enumerate(digit.axes) if axis.name not in free]
            sizes.append(len(np.unique(digit.table[:, kept], axis=0)) if kept else 1)
        return prod(sizes)


_CONSTANTS = ("vocab_size", "max_seq_len")


def derived_names(family: Family) -> tuple[str, ...]:
    """The names of the columns that a family derives."""
    return tuple(family.derived(_Ones()))


class _Ones(dict[str, Any]):
    """Any value is 1: what names a family derives."""

    def __missing__(self, key: str) -> int:
        return 1
