"""A space: an indexed set of architectures of which nothing is written down."""

from __future__ import annotations

import operator
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from math import prod
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from windtunnel.config import Path, suggestion
from windtunnel.errors import UsageError
from windtunnel.spaces.axis import Axis, Column, Indices
from windtunnel.spaces.block import Block
from windtunnel.spaces.expression import Expression
from windtunnel.spaces.member import Member
from windtunnel.spaces.selection import Run, Selection, listed, shuffled

_AT_ONCE = 4096
MOST_MEMBERS = 2**62
"""Members of a space: what an index can tell apart, after a shuffle too."""
MOST_LISTED = 100_000_000
"""Members that are looked at all at once."""


class Space(Sequence[Member]):
    """Blocks one after another, or a selection of their members in some order.

    >>> from windtunnel.spaces.grids import reasonable
    >>> space = reasonable()
    >>> len(space), space[4000].name
    (16704, 'gpt-encoder-4001-256d-16L-2h-ff4-d0.2-tTrue')
    >>> len(space.where("params < 10M and family == lstm"))
    96
    """

    def __init__(
        self, name: str, blocks: Sequence[Block], selection: Selection | None = None
    ) -> None:
        self.name = name
        self.blocks = tuple(blocks)
        starts = [0]
        for block in self.blocks:
            starts.append(starts[-1] + block.size)
        if starts[-1] > MOST_MEMBERS:
            raise UsageError(f"{name}: {starts[-1]:,} members; a space may have at most "
                             f"{MOST_MEMBERS:,}")  # fmt: skip
        self._starts = starts
        self._selection = Run(range(starts[-1])) if selection is None else selection

    def _with(self, selection: Selection) -> Space:
        return Space(self.name, self.blocks, selection)

    def _is_whole(self) -> bool:
        """Whether these are all members, in order."""
        selection = self._selection
        return isinstance(selection, Run) and selection.window == range(self._starts[-1])

    @property
    def whole(self) -> Space:
        """All members of its blocks, in order."""
        return Space(self.name, self.blocks)

    def __len__(self) -> int:
        return len(self._selection)

    @overload
    def __getitem__(self, key: int) -> Member: ...
    @overload
    def __getitem__(self, key: slice) -> Space: ...
    @overload
    def __getitem__(self, key: NDArray[Any]) -> Space: ...
    def __getitem__(self, key: int | slice | NDArray[Any]) -> Member | Space:
        """A member, or a space of the members at a slice or an array of positions."""
        if isinstance(key, slice):
            return self._with(self._selection.cut(key))
        if isinstance(key, np.ndarray) and key.ndim:
            return self._with(listed(self._selection.many(self._positions(key))))
        position = operator.index(key)
        size = len(self._selection)
        if not -size <= position < size:
            raise IndexError(f"{self.name} has {size:,} members, none at {position:,}")
        return self._member(self._selection.at(position % size))

    def _positions(self, key: NDArray[Any]) -> Indices:
        size = len(self)
        if key.dtype == bool:
            if key.shape != (size,):
                raise IndexError(f"{self.name}: a mask of {key.shape}, not ({size},)")
            return np.flatnonzero(key)
        if key.dtype.kind not in "iu" and key.size:
            raise TypeError(f"{self.name}: positions are whole numbers, not {key.dtype}")
        positions = key.astype(np.int64)
        if positions.size and not (-size <= positions.min() and positions.max() < size):
            raise IndexError(f"{self.name} has {size:,} members")
        return np.where(positions < 0, positions + size, positions)

    def _member(self, index: int) -> Member:
        number = bisect_right(self._starts, index) - 1
        return Member(index, self.blocks[number], index - self._starts[number])

    def __iter__(self) -> Iterator[Member]:
        for start in range(0, len(self), _AT_ONCE):
            positions = np.arange(start, min(start + _AT_ONCE, len(self)))
            for index in self._selection.many(positions).tolist():
                yield self._member(index)

    def __contains__(self, value: object) -> bool:
        """Whether a member, or one of that name, is there."""
        name = value.name if isinstance(value, Member) else value
        found = self._named(name) if isinstance(name, str) else None
        return found is not None and self._holds(found)

    def __repr__(self) -> str:
        return f"Space({self.name!r}, {len(self):,} members)"

    def indices(self) -> Indices:
        """The index of each member in the whole space.

        Raises:
            UsageError: there are too many to list.
        """
        self._check_listed()
        return self._selection.many(np.arange(len(self)))

    def _check_listed(self) -> None:
        if len(self) > MOST_LISTED:
            raise UsageError(f"{self.name}: {len(self):,} members; at most {MOST_LISTED:,} are "
                             "gone through at once: take a part, such as "
                             "space.shuffled(0)[:100_000]")  # fmt: skip

    # Names

    def find(self, name: str) -> Member:
        """The member of that name.

        Raises:
            UsageError: there is none; the message tells the nearest name.
        """
        found = self._named(name)
        if found is None:
            near = self._nearest(name)
            hint = f"; did you mean {near.name!r} (index {near.index:,})?" if near else ""
            raise UsageError(f"{self.name} has no member {name!r}{hint}")
        if not self._holds(found):
            raise UsageError(f"{name!r} is not among the {len(self):,} selected of {self.name}")
        return self._member(found)

    def _named(self, name: str) -> int | None:
        for block, start in zip(self.blocks, self._starts, strict=False):
            head = f"{block.naming.prefix}-"
            number = name[len(head) :].partition("-")[0] if name.startswith(head) else ""
            if number.isdecimal() and len(number) < 20:
                row = int(number) - block.naming.first
                if 0 <= row < block.size and block.name(row, block.values(row)) == name:
                    return start + row
        return None

    def _holds(self, index: int) -> bool:
        if isinstance(self._selection, Run):
            return index in self._selection.window
        return bool((self.indices() == index).any())

    def _nearest(self, name: str) -> Member | None:
        """The member of the likeliest family whose values are most like those that a name tells."""
        prefixes = {block.naming.prefix: n for n, block in enumerate(self.blocks)}
        fitting = [p for p in prefixes if name.startswith(f"{p}-")]
        if not fitting:
            folded = re.split(r"-\d", name.replace("_", "-"))[0]
            fitting = get_close_matches(folded, prefixes, n=1, cutoff=0.3)
        if not fitting:
            return None
        number = prefixes[max(fitting, key=len)]
        block = self.blocks[number]
        if not block.size:
            return None
        return self._member(self._starts[number] + block.product.nearest(block.read(name)))

    # Columns

    def names(self) -> list[str]:
        """The names of all columns."""
        names = {name: None for block in self.blocks for name in sorted(block.names)}
        return list(names)

    def column(self, name: str) -> Column:
        """The values of a name over all members; NaN (or an empty word) where a family lacks it.

        Raises:
            UsageError: no family has the name.
        """
        if name not in self.names():
            raise UsageError(f"unknown column {name!r}{suggestion(name, self.names())}")
        return self._gathered(lambda block, rows: block.column(name, rows))

    def structures(self) -> NDArray[np.uint64]:
        """The structure of each member: see :meth:`Block.structures`."""
        found = self._gathered(lambda block, rows: block.structures(rows))
        return found.astype(np.uint64, copy=False)

    def _gathered(self, of: Any) -> Column:
        """A column put together from those of the blocks."""
        self._check_listed()
        pieces: list[tuple[Indices | slice, Column | None]] = []
        if self._is_whole():
            pairs = zip(self._starts, self.blocks, strict=False)
            pieces = [(slice(s, s + b.size), _spread(of(b, None), b)) for s, b in pairs]
            return _joined(pieces, len(self))
        indices = self.indices()
        for number, block in enumerate(self.blocks):
            start, end = self._starts[number], self._starts[number + 1]
            where = np.flatnonzero((indices >= start) & (indices < end))
            if where.size:
                pieces.append((where, of(block, indices[where] - start)))
        return _joined(pieces, len(indices))

    @cached_property
    def params(self) -> NDArray[np.int64]:
        """The number of parameters of each member."""
        return self.column("params").astype(np.int64, copy=False)

    def families(self) -> dict[str, int]:
        """How many members each family has."""
        counts: dict[str, int] = {}
        sizes = [block.size for block in self.blocks]
        if not self._is_whole():
            sizes = np.bincount(self.block_numbers(), minlength=len(self.blocks)).tolist()
        for block, size in zip(self.blocks, sizes, strict=True):
            if size:
                counts[block.family.name] = counts.get(block.family.name, 0) + size
        return counts

    def block_numbers(self) -> NDArray[np.int64]:
        """Which block each member is of."""
        self._check_listed()
        if self._is_whole():
            return np.repeat(np.arange(len(self.blocks)), [block.size for block in self.blocks])
        return np.searchsorted(self._starts, self.indices(), side="right") - 1

    # Parts

    def where(self, condition: str | Expression) -> Space:
        """The members for which a condition holds, in their order. Of a selection only its own
        members are looked at.

        Raises:
            UsageError: it cannot be read, or names what no family has.
        """
        expression = Expression(condition) if isinstance(condition, str) else condition
        names = set(self.names())
        words = {word for block in self.blocks for word in block.words()}
        expression.check(dict.fromkeys(self.names()), words)
        if not len(self):
            return self
        if self._is_whole():
            held = [block.holds(expression, names) for block in self.blocks]
            kept = [np.flatnonzero(h) + s for h, s in zip(held, self._starts, strict=False)]
            return self._with(listed(np.concatenate(kept)))
        indices = self.indices()
        holds = np.zeros(len(indices), dtype=bool)
        for number, block in enumerate(self.blocks):
            start = self._starts[number]
            of = np.flatnonzero((indices >= start) & (indices < self._starts[number + 1]))
            if of.size:
                holds[of] = block.holds(expression, names, indices[of] - start)
        return self._with(listed(indices[holds]))

    def selected(self, indices: Indices) -> Space:
        """The members at some indices of the whole space, in that order."""
        return self._with(listed(indices))

    def shuffled(self, seed: int) -> Space:
        """All members, each once, in an order that the seed chooses; nothing is stored."""
        return self._with(shuffled(self._selection, seed))

    def sample(self, k: int, seed: int = 0, *, bins: int = 8) -> Space:
        """``k`` members, spread evenly over families and log parameters:
        :func:`windtunnel.spaces.sample.stratified`."""
        from windtunnel.spaces.sample import stratified

        return stratified(self, k, seed, bins=bins)

    def split(self, shares: Mapping[str, float], seed: int = 0) -> dict[str, Space]:
        """Parts that share no structure: :func:`windtunnel.spaces.split.by_structure`."""
        from windtunnel.spaces.split import by_structure

        return by_structure(self, shares, seed)

    def times(self, *axes: Axis, origins: Mapping[Path, str] | None = None) -> Space:
        """The product with further axes, innermost, each of which edits paths of the run file;
        ``origins`` tell where each path was written."""
        product = Space(self.name, [block.times(axes, origins) for block in self.blocks])
        if self._is_whole():
            return product
        copies = prod(len(axis.values) for axis in axes)
        if len(self) * copies > MOST_LISTED:
            raise UsageError(f"{self.name}: {len(self) * copies:,} members of a selection's "
                             f"product; at most {MOST_LISTED:,} can be listed")  # fmt: skip
        old, new = np.array(self._starts), np.array(product._starts)
        numbers = self.block_numbers()
        first = new[numbers] + (self.indices() - old[numbers]) * copies
        return product.selected((first[:, None] + np.arange(copies)).reshape(-1))

    def named(self, name: str, *, prefix: str | None = None) -> Space:
        """The same members; with a ``prefix`` before each of their names."""
        blocks = [block.renamed(prefix) for block in self.blocks] if prefix else self.blocks
        return Space(name, blocks, self._selection)


def _spread(column: Column | None, block: Block) -> Column | None:
    """A grid over all members of a block; a column over its rows stays as it is."""
    if column is None or column.shape == (block.size,) != block.product.shape:
        return column
    return np.broadcast_to(column, block.product.shape).reshape(-1)


def _joined(pieces: Sequence[tuple[Indices | slice, Column | None]], size: int) -> Column:
    """One column of the blocks'; integers stay whole where all blocks have the name."""
    columns = [column for _, column in pieces if column is not None]
    if not columns:
        return np.full(size, np.nan)
    texts = [column for column in columns if column.dtype.kind == "U"]
    kind = np.result_type(*(texts or columns))
    lacking = len(columns) < len(pieces)
    if lacking and kind.kind in "iub":
        kind = np.dtype(np.float64)
    out = np.zeros(size, dtype=kind)
    if lacking and kind.kind == "f":
        out[:] = np.nan
    for where, column in pieces:
        if column is not None:
            out[where] = column
    return out


def union(name: str, *spaces: Space) -> Space:
    """All members of several spaces, one after another; of what they share each once, which stands
    where it is first.

    Raises:
        UsageError: two of the spaces would have different members of one name, or none is given.
    """
    if not spaces:
        raise UsageError(f"union {name}: needs a space at least")
    blocks = list(dict.fromkeys(block for space in spaces for block in space.blocks))
    prefixes = [block.naming.prefix for block in blocks]
    twice = sorted({prefix for prefix in prefixes if prefixes.count(prefix) > 1})
    if twice:
        raise UsageError(f"two parts name their members {twice[0]}-…; rename one")
    if sum(len(space) for space in spaces) == sum(block.size for block in blocks) and all(
        len(space) == len(space.whole) for space in spaces
    ):
        return Space(name, blocks)
    whole = Space(name, blocks)
    if all(space.blocks == spaces[0].blocks for space in spaces):
        together = np.unique(np.concatenate([space.indices() for space in spaces]))
        return whole.selected(together)
    found = np.concatenate([_moved(space, whole) for space in spaces])
    _, first = np.unique(found, return_index=True)
    return whole.selected(found[np.sort(first)])


def _moved(space: Space, whole: Space) -> Indices:
    """The indices that the members of a space have in another, which has all its blocks."""
    numbers = [whole.blocks.index(block) for block in space.blocks]
    starts = np.cumsum([0, *(block.size for block in whole.blocks)])[numbers]
    own = np.cumsum([0, *(block.size for block in space.blocks)])[:-1]
    moved = space.indices() + (starts - own)[space.block_numbers()]
    return np.asarray(moved, dtype=np.int64)
