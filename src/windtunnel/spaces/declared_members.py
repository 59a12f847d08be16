"""Members of a space's file that are looked at when it is read, so that a wrong value is told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from windtunnel.config import decode, format_path
from windtunnel.errors import ConfigError, Problem
from windtunnel.spaces.axis import Axis, Indices
from windtunnel.spaces.block import Block
from windtunnel.spaces.declared_axes import first_document
from windtunnel.spaces.space import Space

_TRIED = 16
"""Values of one axis, of which a member each is looked at."""


def check_members(space: Space) -> None:
    """Looks at the first member of each part whose run files are edited, and at the first with each
    value of an axis (16 of them, where it has more).

    Raises:
        ConfigError: the run file of one has a wrong key, value or size; a place in a preset becomes
            that of the axis.
    """
    for block, rows in _edited(space):
        for row in dict.fromkeys(_firsts(block, rows)):
            values = block.values(row)
            try:
                _check(block, values)
            except ConfigError as error:
                problems = [_placed(problem, block) for problem in error.problems]
                raise ConfigError(problems) from None


def _edited(space: Space) -> Iterator[tuple[Block, Indices | None]]:
    """The parts whose run files are edited, and which of their members are selected (None: all)."""
    if not any(map(_is_edited, space.blocks)):
        return
    if len(space) == len(space.whole):
        yield from ((b, None) for b in space.blocks if b.size and _is_edited(b))
        return
    numbers, indices, start = space.block_numbers(), space.indices(), 0
    for number, block in enumerate(space.blocks):
        rows = indices[numbers == number] - start
        if rows.size and _is_edited(block):
            yield block, rows
        start += block.size


def _is_edited(block: Block) -> bool:
    return not block.family.told or any(axis.paths for axis in block.axes)


def _firsts(block: Block, rows: Indices | None) -> Iterator[int]:
    """The first member, and the first with each value of each axis that edits the run file."""
    yield 0 if rows is None else int(rows[0])
    for axis in block.axes:
        if axis.paths:
            found = _first_of_all(block, axis) if rows is None else _first_of(block, axis, rows)
            spread = np.linspace(0, len(found) - 1, min(len(found), _TRIED)).round()
            yield from found[spread.astype(np.int64)].tolist()


def _first_of_all(block: Block, axis: Axis) -> Indices:
    number, place = block.product.place(axis.name)
    _, first = np.unique(block.product.digits[number].table[:, place], return_index=True)
    inner = int(np.prod(block.product.shape[number + 1 :], dtype=np.int64))
    return np.asarray(first * inner, dtype=np.int64)


def _first_of(block: Block, axis: Axis, rows: Indices) -> Indices:
    _, first = np.unique(block.product.at(rows).positions(axis.name), return_index=True)
    return rows[first]


def _check(block: Block, values: Mapping[str, Any]) -> None:
    """Raises ConfigError where a member's run file has a wrong key, value or size."""
    if not block.family.told:
        block.architecture(values, "member")
        return
    from windtunnel.arch import resolve
    from windtunnel.train.run_config import RunConfig

    resolve(decode(first_document(block, values), RunConfig).arch)


def _placed(problem: Problem, block: Block) -> Problem:
    """What a preset is blamed for, at the place of the axis that sets it or something in it."""
    if problem.place and not problem.place.startswith("preset"):
        return problem
    blamed = _of_any_layer(problem.path)
    for path, place in block.origins.items():
        own = _of_any_layer(format_path(path))
        if _within(own, blamed) or _within(blamed, own):
            return replace(problem, place=place)
    return problem


def _of_any_layer(path: str) -> str:
    return re.sub(r"\[-?(\d+|\*)\]", "[*]", path)


def _within(inner: str, outer: str) -> bool:
    """Whether a path is another one, or leads to something in it."""
    return inner == outer or inner.startswith((f"{outer}.", f"{outer}["))
