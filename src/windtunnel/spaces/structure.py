"""What members with edited run files are, as numbers: a sum over the entries of the architecture.

The entries of an architecture are its values by place, every default written out, without those
that change no tensor. A structure is the sum of a number for each entry, so an axis adds what its
entries differ by, over a whole product at once, and what the part or the file is called does not
enter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.config import Document, Path, format_path
from windtunnel.errors import UsageError
from windtunnel.spaces.axis import Axis, label
from windtunnel.spaces.entries import (
    WORD,
    Entries,
    entries,
    entry_number,
    hashed,
    text_of,
    unwritten_names,
)
from windtunnel.spaces.families.family import Family, family_names, family_of, twins_of

Sums = NDArray[np.uint64]
Made = Callable[[Mapping[str, Any]], Document]
"""The run file of some values."""

MOST_JOINT = 100_000
"""Combinations of axes that set places of each other."""
MOST_TRIED = 2_000
"""Combinations of two axes that are tried for whether one makes values of the other valid."""
_SIZES = (("vocab_size",), ("max_seq_len",))
_PROBED: dict[str, tuple[Any, Any]] = {
    "d_model": (48, 96), "n_layer": (2, 3), "n_head": (2, 4), "ff_ratio": (2, 3),
    "p_drop": (0.0, 0.1), "tie_weights": (True, False),
}  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Axes that set entries of each other (mostly one alone), and for each combination of their
    values the entries that any of them changes; None where an entry is not there."""

    axes: tuple[Axis, ...]
    places: tuple[Path, ...]
    rows: tuple[tuple[str | None, ...], ...]
    odd: tuple[str, ...]
    """For each combination, its own words where it is no architecture; else empty."""

    def sums(self, weight: Callable[[Path, str], int]) -> Sums:
        """The sum of the weights of the entries of each combination, over the axes' values."""
        sums = [
            sum(weight(place, text) for place, text in zip(self.places, row, strict=True)
                if text is not None) + (hashed("no architecture", odd) if odd else 0) & WORD
            for row, odd in zip(self.rows, self.odd, strict=True)
        ]  # fmt: skip
        shape = [len(axis.values) for axis in self.axes]
        return np.array([total & WORD for total in sums], dtype=np.uint64).reshape(shape)

    def column(self, place: Path) -> NDArray[np.int64]:
        """The whole number at a place, of each combination; 0 where none is."""
        number = self.places.index(place)
        found = [int(row[number] or 0) if (row[number] or "0").isdigit() else 0
                 for row in self.rows]  # fmt: skip
        if max(found) >= 2**62:
            raise UsageError(f"{format_path(place)}: {max(found)} is too large to be told apart")
        return np.array(found, dtype=np.int64).reshape([len(axis.values) for axis in self.axes])


@dataclass(frozen=True)
class Tree:
    """The entries of a block: those of its first member, and how groups of axes change them."""

    first: Entries
    groups: tuple[Group, ...]
    _sums: dict[Any, tuple[int, list[Sums]]] = field(default_factory=dict)

    def exact(self, positions: Callable[[str], NDArray[Any]]) -> Sums:
        """A number for all entries, at some positions on the axes."""
        return self._summed(entry_number, positions)

    def total(self, positions: Callable[[str], NDArray[Any]]) -> Sums:
        """The structures at some positions on the axes. What is a member of a registered family has
        the structure that the family gives it, whatever its vocabulary and its context."""
        total = self.exact(positions)
        for template in filter(None, map(_template, reversed(family_names()))):  # the first wins
            rest = self._summed(template.other, positions)
            same = rest == template.rest
            if same.any():
                begins = np.uint64(hashed("family", min(twins_of(template.family))))
                own = self._summed(template.own, positions) + begins
                total = np.where(same, own, total)
        return total

    def _summed(
        self, weight: Callable[[Path, str], int], positions: Callable[[str], NDArray[Any]]
    ) -> Sums:
        if weight not in self._sums:
            changed = {place for group in self.groups for place in group.places}
            fixed = sum(weight(p, text) for p, text in self.first.items() if p not in changed)
            self._sums[weight] = fixed & WORD, [group.sums(weight) for group in self.groups]
        fixed, tables = self._sums[weight]
        total: Sums = np.array([fixed], dtype=np.uint64)  # an array, which wraps silently
        for group, sums in zip(self.groups, tables, strict=True):
            if (sums != sums.flat[0]).any():
                total = total + sums[tuple(positions(axis.name) for axis in group.axes)]
            else:
                total = total + sums.flat[0]
        return total

    def column(
        self, place: Path, positions: Callable[[str], NDArray[Any]]
    ) -> NDArray[np.int64] | None:
        """The whole number at a place, at some positions on the axes; None where there is none."""
        for group in self.groups:
            if place in group.places:
                at = tuple(positions(axis.name) for axis in group.axes)
                return np.asarray(group.column(place)[at], dtype=np.int64)
        text = self.first.get(place, "")
        return np.array(int(text)) if text.isdigit() else None


def tree_of(axes: Sequence[Axis], values: Mapping[str, Any], made: Made, folder: Any) -> Tree:
    """The entries of all members, from the values of the first.

    Raises:
        ConfigError: the first member is no architecture.
        UsageError: too many axes set places of each other.
    """
    from windtunnel.arch import expand_preset

    document = expand_preset(made(values))
    first = entries(document, folder)
    auto = document.get(("arch", "vocab_size"), "auto") == "auto"
    vocabulary = int(first.get(("vocab_size",), "0")) if auto else None
    reader = _Changes(first, values, made, folder, vocabulary)
    alone = [reader.group((axis,)) for axis in axes if axis.structural]
    ties = reader.ties(alone)
    joined: list[list[Group]] = []
    for group in alone:
        others = [
            g
            for g in joined
            if any(_touch(group, other) or _names(group, other) in ties for other in g)
        ]
        joined = [g for g in joined if not any(g is other for other in others)]
        joined.append([group, *(each for other in others for each in other)])
    order = {axis.name: number for number, axis in enumerate(axes)}
    groups = []
    for each in joined:
        own = sorted((g.axes[0] for g in each), key=lambda axis: order[axis.name])
        groups.append(each[0] if len(each) == 1 else reader.group(tuple(own)))
    return Tree(first, tuple(groups))


def _names(one: Group, other: Group) -> frozenset[str]:
    return frozenset({one.axes[0].name, other.axes[0].name})


def _touch(one: Group, other: Group) -> bool:
    """Whether one sets entries that the other does, or above or below them."""
    if set(one.places) & set(other.places):
        return True
    pairs = product(_paths(one), _paths(other))
    return any(below(a, b) or below(b, a) for a, b in pairs)


def _paths(group: Group) -> list[Path]:
    """What the axes set; of the data the tokenizer, and so what the vocabulary may be left to."""
    paths = [path for axis in group.axes for path in axis.paths]
    return [path if path[0] == "arch" else ("arch", "vocab_size") for path in paths]


def below(path: Path, other: Path) -> bool:
    """Whether a path leads to a place that the other does, or below it."""
    return len(path) >= len(other) and fits(path[: len(other)], other)


def fits(path: Path, other: Path) -> bool:
    """Whether two paths can lead to one place; a star is any number, as is a negative one."""
    return len(path) == len(other) and all(
        a == b or (_any(a) and isinstance(b, int)) or (_any(b) and isinstance(a, int))
        or (_any(a) and _any(b)) for a, b in zip(path, other, strict=True)
    )  # fmt: skip


def _any(step: Any) -> bool:
    return step == "*" or (isinstance(step, int) and step < 0)


@dataclass(frozen=True)
class _Changes:
    """What axes change of the first member's entries."""

    first: Entries
    values: Mapping[str, Any]
    made: Made
    folder: Any
    vocabulary: int | None
    """The tokenizer's, where the first member leaves the vocabulary to it."""

    def group(self, axes: tuple[Axis, ...]) -> Group:
        if len(axes) == 1 and (direct := self._direct(axes[0])) is not None:
            return direct
        sizes = prod(len(axis.values) for axis in axes)
        if len(axes) > 1 and sizes > MOST_JOINT:
            names = ", ".join(axis.name for axis in axes)
            raise UsageError(f"{names} set places of each other in {sizes:,} combinations; at most "
                             f"{MOST_JOINT:,} can be told apart")  # fmt: skip
        of_run = any(path[0] == "data" for axis in axes for path in axis.paths)
        vocabulary = None if of_run else self.vocabulary
        found: list[Entries | None] = []
        odd = []
        for combination in product(*(axis.values for axis in axes)):
            own = {axis.name: value for axis, value in zip(axes, combination, strict=True)}
            try:
                document = self.made({**self.values, **own})
                found.append(entries(document, self.folder, vocabulary))
                odd.append("")
            except UsageError:  # no member, or none with the other values of the first
                found.append(None)
                odd.append(" ".join(f"{_words(a)}={label(own[a.name])}" for a in axes))
        there = [each for each in found if each is not None]
        places = sorted(
            {p for each in there for p in each.keys() | self.first.keys()
             if each.get(p) != self.first.get(p)},
            key=str,
        )  # fmt: skip
        rows = tuple(tuple((each or self.first).get(p) for p in places) for each in found)
        return Group(axes, tuple(places), rows, tuple(odd))

    def ties(self, alone: Sequence[Group]) -> frozenset[frozenset[str]]:
        """Pairs of axes of which one makes a value of the other valid that is not with the first
        member's other values, such as a number of layers that the share of layers divides."""
        found = set()
        for group in alone:
            (axis,) = group.axes
            odd = [v for v, words in zip(axis.values, group.odd, strict=True) if words]
            for other in alone if odd else ():
                pairs = list(product(odd, other.axes[0].values))
                small = len(axis.values) * len(other.axes[0].values) <= MOST_TRIED
                if (
                    other is not group
                    and small
                    and any(
                        self._valid({axis.name: one, other.axes[0].name: two}) for one, two in pairs
                    )
                ):
                    found.add(_names(group, other))
        return frozenset(found)

    def _valid(self, own: Mapping[str, Any]) -> bool:
        try:
            entries(self.made({**self.values, **own}), self.folder, self.vocabulary)
        except UsageError:
            return False
        return True

    def _direct(self, axis: Axis) -> Group | None:
        """Numbers that replace a number: nothing else can change, so nothing has to be read."""
        if not axis.paths or not all(type(v) in (int, float) for v in axis.values):
            return None
        places: list[Path] = []
        for path in axis.paths:
            if path[0] != "arch" or any(isinstance(s, int) and s < 0 for s in path):
                return None
            if path[-1] in unwritten_names():  # an entry that is not there at its default
                return None
            matching = [place for place in self.first if fits(place, path[1:])]
            if not matching or not all(_numeric(self.first[p]) for p in matching):
                return None
            places += [place for place in matching if place not in places]
        texts = [text_of(value) for value in axis.values]
        return Group((axis,), tuple(places), tuple((t,) * len(places) for t in texts),
                     ("",) * len(texts))  # fmt: skip


def _numeric(text: str) -> bool:
    return text.lstrip("-")[:1].isdigit()


def _words(axis: Axis) -> str:
    return ",".join(map(format_path, axis.paths)) or axis.name


@dataclass(frozen=True, eq=False)
class _Template:
    """How a registered family's members are written: the entry of each axis, and all others."""

    family: str
    axes: Mapping[Path, str]
    rest: int

    def other(self, place: Path, text: str) -> int:
        return 0 if place in self.axes or place in _SIZES else entry_number(place, text)

    def own(self, place: Path, text: str) -> int:
        return hashed(self.axes[place], json.loads(text) if text[0] == '"' else text) if (
            place in self.axes
        ) else 0  # fmt: skip


_TEMPLATES: dict[str, tuple[Family, _Template | None]] = {}


def _template(name: str) -> _Template | None:
    family = family_of(name)
    if name not in _TEMPLATES or _TEMPLATES[name][0] is not family:
        _TEMPLATES[name] = (family, _templated(family))
    return _TEMPLATES[name][1]


def _templated(family: Family) -> _Template | None:
    """None for a family with axes that are not those of the built-in ones, or that do not stand in
    one place each."""
    if not set(family.axes) <= _PROBED.keys():
        return None
    try:
        return _probed(family)
    except Exception:  # a family may be foreign code, and have no such members
        return None


def _probed(family: Family) -> _Template | None:
    values = {"vocab_size": 512, "max_seq_len": 256, **{a: _PROBED[a][0] for a in family.axes}}
    first = entries(family.document(values), family.folder, 512)
    axes: dict[Path, str] = {}
    for axis in family.axes:
        if axis in family.free:
            continue
        changed = entries(family.document({**values, axis: _PROBED[axis][1]}), family.folder, 512)
        places = [p for p in changed.keys() | first.keys() if changed.get(p) != first.get(p)]
        if len(places) != 1 or changed.get(places[0]) != text_of(_PROBED[axis][1]):
            return None
        axes[places[0]] = axis
    rest = sum(entry_number(p, t) for p, t in first.items() if p not in axes and p not in _SIZES)
    return _Template(family.name, axes, rest & WORD)


def own_places(family: Family) -> Mapping[Path, str]:
    """The places of a run file that a built-in family's axes set, and which axis each."""
    known = family.told and family.name in family_names()
    template = _template(family.name) if known else None
    return {("arch", *place): axis for place, axis in template.axes.items()} if template else {}
