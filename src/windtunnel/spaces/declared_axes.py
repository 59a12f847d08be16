"""Axes as a space's file writes them, every mistake told with its place."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from windtunnel.config import Document, Path, format_path, parse_path, suggestion
from windtunnel.errors import ConfigError, Problem, UsageError
from windtunnel.spaces.axis import Axis
from windtunnel.spaces.block import Block
from windtunnel.spaces.entries import FREE
from windtunnel.spaces.families import Family
from windtunnel.spaces.structure import own_places

SECTIONS = ("arch", "data", "train")
_MOST_VALUES = 100_000
_TAKEN = frozenset({"params", "family", "name"})
_KEYWORDS = frozenset({"and", "or", "not", "in", "true", "false", "True", "False"})
_CONSTANTS = ("vocab_size", "max_seq_len")


@contextmanager
def told_at(document: Document, path: Path) -> Iterator[None]:
    """Mistakes that are told without a place get that of a path of the file."""
    place = document.place(path, key=True)
    try:
        yield
    except ConfigError as error:
        problems = [p if p.place else replace(p, place=place) for p in error.problems]
        raise ConfigError(problems) from None
    except UsageError as error:
        raise ConfigError([Problem(format_path(path), str(error), place)]) from None


@dataclass(frozen=True)
class Axes:
    """Reads what stands under ``axes`` of one part. ``family`` is the registered one that the part
    names, ``taken`` are names that its axes cannot have."""

    document: Document
    path: Path
    family: Family | None = None
    taken: frozenset[str] = frozenset()

    def read(self, written: Mapping[str, Any], *, of_file: bool) -> list[Axis]:
        """The axes in their order; ``of_file`` says whether members begin with a preset or a file,
        whose vocabulary may hang on its data."""
        axes = [self._axis(key, value) for key, value in written.items()]
        axes = [
            replace(axis, structural=any(structural(p, of_file=of_file) for p in axis.paths))
            if axis.paths else axis for axis in axes
        ]  # fmt: skip
        return _named_apart(axes, self.taken | _TAKEN)

    def origins(self, written: Mapping[str, Any], axes: Sequence[Axis]) -> dict[Path, str]:
        """Where the axis of each path was written."""
        places = [self.document.place((*self.path, key)) for key in written]
        return {p: at for axis, at in zip(axes, places, strict=True) for p in axis.paths}

    def wrong(self, path: Path, message: str) -> ConfigError:
        """A mistake at a path of the file."""
        place = self.document.place(path, key=True)
        return ConfigError([Problem(format_path(path), message, place)])

    def _own(self) -> tuple[str, ...]:
        return self.family.axes if self.family is not None else ()

    def _axis(self, key: str, value: Any) -> Axis:
        path = (*self.path, key)
        if key in self._own():
            return Axis(key, self._values(path, key, value))
        if isinstance(value, Mapping) and ("path" in value or "paths" in value):
            unknown = [k for k in value if k not in ("path", "paths", "values")]
            if unknown or ("path" in value) == ("paths" in value) or "values" not in value:
                raise self.wrong(path, "takes path (or paths) and values")
            texts = value["paths"] if "paths" in value else (value["path"],)
            if not isinstance(texts, tuple | list) or not texts:
                raise self.wrong((*path, "paths"), "takes a list of paths")
            paths = self._paths(path, [str(text) for text in texts])
            self._check_name(path, key, paths)
            return Axis(key, self._values((*path, "values"), key, value["values"]), paths)
        if key.split(".")[0].split("[")[0] not in SECTIONS:
            hint = (
                f", and no axis of the family{suggestion(key, self._own())}" if self._own() else ""
            )
            raise self.wrong(path, f"is no path such as arch.{key}{hint}")
        return Axis("", self._values(path, key, value), self._paths(path, [key]))

    def _check_name(self, path: Path, name: str, paths: Sequence[Path]) -> None:
        """Raises ConfigError for a name of one's own that no condition could use."""
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or name in _KEYWORDS:
            raise self.wrong(path, "is no name for an axis: letters, digits and _ only, so that "
                             "conditions can use it")  # fmt: skip
        constant = name in _CONSTANTS and tuple(paths) != (("arch", name),)
        if name in self.taken | _TAKEN or constant:
            raise self.wrong(path, f"{name} has a meaning of its own in conditions: choose another "
                             "name")  # fmt: skip

    def _paths(self, path: Path, texts: Sequence[str]) -> tuple[Path, ...]:
        with told_at(self.document, path):
            paths = tuple(parse_path(text) for text in texts)
        for one in paths:
            if one[0] not in SECTIONS or len(one) < 2:
                raise self.wrong(path, f"{format_path(one)} is no path below arch, data or train")
        return paths

    def _values(self, path: Path, name: str, value: Any) -> tuple[Any, ...]:
        if isinstance(value, Mapping) and set(value) <= {"from", "to", "step"} and "from" in value:
            values: tuple[Any, ...] = self._range(path, value)
        elif isinstance(value, tuple | list):
            values = tuple(value)
        else:
            raise self.wrong(path, "takes a list of values, or {from: 2, to: 8, step: 2}")
        if len(values) > _MOST_VALUES:
            raise self.wrong(path, f"has more than {_MOST_VALUES:,} values")
        with told_at(self.document, path):
            values = Axis(name, values).values
        if self.family is not None and name in self.family.axes:
            wrong = self.family.unfit(name, values)
            if wrong is not None:
                with told_at(self.document, (*path, wrong)):
                    self.family.check(name, values)
        return values

    def _range(self, path: Path, value: Mapping[str, Any]) -> tuple[int, ...]:
        first, last, step = value["from"], value.get("to", "none"), value.get("step", 1)
        whole = all(isinstance(v, int) and not isinstance(v, bool) for v in (first, last, step))
        if not whole or step < 1 or last < first:
            raise self.wrong(path, "a range takes whole numbers: from ≤ to, and step ≥ 1")
        if (last - first) // step >= _MOST_VALUES:
            raise self.wrong(path, f"has more than {_MOST_VALUES:,} values")
        return tuple(range(first, last + 1, step))


def structural(path: Path, *, of_file: bool) -> bool:
    """Whether a value at that place can decide what a model computes in use."""
    data = ("tokenizer", "source") if of_file else ("tokenizer",)
    decides = path[0] == "arch" or (path[0] == "data" and path[1] in data)
    return decides and path[-1] not in FREE


def first_document(block: Block, values: Mapping[str, Any]) -> Document:
    """The run file of some member, its preset written out."""
    from windtunnel.arch import expand_preset

    return expand_preset(block.document(values, "member"))


def set_twice(block: Block, tree: Any) -> tuple[Path, str, str] | None:
    """A path that two axes of a block set, so that the first of them has no effect, and the names
    of both; ``tree`` is that of a run file, whose lists say what stars stand for."""
    sets: list[tuple[str, list[Path]]] = [
        (axis, [place]) for place, axis in own_places(block.family).items()
    ]
    for axis in block.axes:
        if not axis.paths:
            continue
        own = [place for path in axis.paths for place in _expanded(tree, path)]
        for name, earlier in sets:
            if earlier and all(any(place[: len(o)] == o for o in own) for place in earlier):
                return earlier[0], name, axis.name
        sets.append((axis.name, own))
    return None


def _expanded(node: Any, path: Path) -> list[Path]:
    """The places of a path, where stars and negative numbers stand for entries of a list."""
    if not path:
        return [()]
    step, rest = path[0], path[1:]
    steps: Sequence[Any] = [step]
    if isinstance(node, list | tuple) and (step == "*" or isinstance(step, int)):
        steps = range(len(node)) if step == "*" else [step % max(1, len(node))]
    found: list[Path] = []
    for one in steps:
        try:
            below = node[one]
        except (KeyError, IndexError, TypeError):
            below = None
        found += [(one, *end) for end in _expanded(below, rest)]
    return found


def _named_apart(axes: Sequence[Axis], taken: Collection[str]) -> list[Axis]:
    """Axes without a name get the shortest end of their path that no other has."""
    named = []
    for place, axis in enumerate(axes):
        if axis.name:
            named.append(axis)
            continue
        others = [p for i, a in enumerate(axes) if i != place for p in a.paths]
        end = _shortest_end(axis.paths[0], others, {a.name for a in axes} | set(taken))
        named.append(replace(axis, name=format_path(end)))
    return named


def _shortest_end(path: Path, others: Sequence[Path], taken: Collection[str]) -> Path:
    for start in range(len(path) - 1, -1, -1):
        end = path[start:]
        begins_well = isinstance(end[0], str) and end[0] != "*"
        alone = all(other[-len(end) :] != end for other in others)
        if begins_well and alone and format_path(end) not in taken:
            return end
    return path
