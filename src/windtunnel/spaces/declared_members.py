"""Members of a space's file that are looked at when it is read, so that a wrong value is told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from windtunnel.config import Path, decode, parse_path
from windtunnel.errors import ConfigError, Problem, UsageError
from windtunnel.spaces.axis import Axis, Indices
from windtunnel.spaces.block import Block
from windtunnel.spaces.declared_axes import first_document
from windtunnel.spaces.space import Space

_TRIED = 16
"""Values of one axis that are looked at."""
_LOOKED_THROUGH = 100_000
"""Members of a selection among which they are sought."""


def check_first(space: Space) -> None:
    """Looks at the first member of each part whose run files are edited.

    Raises:
        ConfigError: its run file has a wrong key, value or size; told at the axis that set it.
    """
    for block, rows in _edited(space):
        try:
            _check(block, block.values(0 if rows is None else int(rows[0])))
        except ConfigError as error:
            raise ConfigError([_placed(each, block) for each in error.problems]) from None


def check_values(space: Space) -> None:
    """Looks at each value of each axis that edits the run file (16 of them, where it has more), in
    the first and the last member that have it. Values that are good, but do not fit together in
    these, are left for when their member is asked for: conditions may come that exclude it.

    Raises:
        ConfigError: a value is none that its place in the run file takes, told at its axis.
    """
    from windtunnel.train.run_config import RunConfig

    for block, rows in _edited(space):
        for axis in block.axes:
            for pair in _ends(block, axis, rows) if axis.paths else ():
                wrong: list[Problem] = []
                for row in pair:
                    try:
                        decode(first_document(block, block.values(row)), RunConfig)
                    except ConfigError as error:
                        wrong = [each for each in error.problems if _is_of(each, axis)]
                    else:
                        wrong = []
                    if not wrong:
                        break
                if wrong:
                    place = block.origins.get(axis.paths[0], "")
                    raise ConfigError([replace(p, place=place or p.place) for p in wrong])


def _edited(space: Space) -> Iterator[tuple[Block, Indices | None]]:
    """The parts whose run files are edited, and some of the members selected (None: all are)."""
    if not any(map(_is_edited, space.blocks)):
        return
    if len(space) == len(space.whole):
        yield from ((b, None) for b in space.blocks if b.size and _is_edited(b))
        return
    numbers, indices, start = space.block_numbers(), space.indices(), 0
    for number, block in enumerate(space.blocks):
        if _is_edited(block):
            rows = indices[numbers == number] - start
            if rows.size:
                yield block, rows[:: max(1, rows.size // _LOOKED_THROUGH)]
        start += block.size


def _is_edited(block: Block) -> bool:
    return not block.family.told or any(axis.paths for axis in block.axes)


def _ends(block: Block, axis: Axis, rows: Indices | None) -> Iterator[tuple[int, int]]:
    """The first and the last member with each value of an axis."""
    if rows is None:
        number, place = block.product.place(axis.name)
        table = block.product.digits[number].table[:, place]
        inner = int(np.prod(block.product.shape[number + 1 :], dtype=object))
    else:
        table, inner = block.product.at(rows).positions(axis.name), 1
    values, first = np.unique(table, return_index=True)
    last = len(table) - 1 - np.unique(table[::-1], return_index=True)[1]
    for one in np.linspace(0, len(values) - 1, min(len(values), _TRIED)).round().astype(int):
        start, end = int(first[one]), int(last[one])
        if rows is None:
            outer = block.size - inner * len(table)
            yield start * inner, outer + (end + 1) * inner - 1
        else:
            yield int(rows[start]), int(rows[end])


def _check(block: Block, values: Mapping[str, Any]) -> None:
    """Raises ConfigError where a member's run file has a wrong key, value or size."""
    if not block.family.told:
        block.architecture(values, "member")
        return
    from windtunnel.arch import resolve
    from windtunnel.train.run_config import RunConfig

    resolve(decode(first_document(block, values), RunConfig).arch)


def _placed(problem: Problem, block: Block) -> Problem:
    """A mistake of a preset or a base, at the place of the axis that made it: one that sets the
    place itself, or of those that set something in it the one that the message names."""
    blamed = _steps(problem)
    for path, place in block.origins.items():
        named = re.search(rf"\b{re.escape(str(path[-1]))}\b", problem.message) is not None
        if _leads(path, blamed) or (named and _leads(blamed, path)):
            return replace(problem, place=place)
    return problem


def _is_of(problem: Problem, axis: Axis) -> bool:
    """Whether a mistake is in what an axis sets."""
    return any(_leads(path, _steps(problem)) for path in axis.paths)


def _steps(problem: Problem) -> Path:
    try:
        return parse_path(problem.path)
    except UsageError:
        return (problem.path,)


def _leads(outer: Path, inner: Path) -> bool:
    """Whether a path is the beginning of another; a star or a negative number is any number."""
    return len(outer) <= len(inner) and all(
        one == other or any(step == "*" or (isinstance(step, int) and step < 0)
                            for step in (one, other))
        for one, other in zip(outer, inner, strict=False)
    )  # fmt: skip
