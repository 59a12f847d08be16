"""Conditions on the axes of a product: each couples some of them, and those become one digit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from windtunnel.errors import UsageError
from windtunnel.spaces.axis import MOST_MERGED, Axis, Column, Digit
from windtunnel.spaces.expression import Expression, Node, condition
from windtunnel.spaces.families import Family

_Rule = tuple[frozenset[str], Node | Family, str]


def coupled_digits(
    axes: Sequence[Axis], expressions: Sequence[Expression], family: Family | None = None
) -> tuple[Digit, ...]:
    """The digits of a product under conditions, and under a family's own rule; counts are exact.

    Axes that conditions couple, directly or through others, stand together where the first of them
    was; each group is gone through on its own.

    Raises:
        UsageError: an unknown name, or a group with too many combinations.
    """
    names = [axis.name for axis in axes]
    words = {word for axis in axes for word in axis.words()}
    rules: list[_Rule] = []
    for expression in expressions:
        expression.check(dict.fromkeys(names), words)
        rules += [
            (frozenset(node.names()) & set(names), node, expression.text)
            for node in expression.conjuncts()
        ]
    if family is not None:
        rules.append((frozenset(family.coupled), family, family.name))
    groups = _groups(names, [needs for needs, _, _ in rules])
    by_name = {axis.name: axis for axis in axes}
    return tuple(
        _digit(
            [by_name[name] for name in group],
            [rule for rule in rules if rule[0] <= set(group) and (rule[0] or group == groups[0])],
        )
        for group in groups
    )


def _groups(names: Sequence[str], coupled: Sequence[frozenset[str]]) -> list[list[str]]:
    """The names in groups that share no condition, each where its first name was."""
    group = {name: {name} for name in names}
    for needs in coupled:
        together = set().union(*(group[name] for name in needs)) if needs else set()
        for name in together:
            group[name] = together
    found: list[list[str]] = []
    for name in names:
        if not any(name in done for done in found):
            found.append([other for other in names if other in group[name]])
    return found


def _digit(axes: Sequence[Axis], rules: Sequence[_Rule]) -> Digit:
    sizes = tuple(len(axis.values) for axis in axes)
    if rules and prod(sizes) > MOST_MERGED:
        named = ", ".join(axis.name for axis in axes)
        raise UsageError(f"conditions couple {prod(sizes):,} combinations of {named}; at most "
                         f"{MOST_MERGED:,} can be tried")  # fmt: skip
    if not rules:
        return Digit(tuple(axes), np.arange(sizes[0], dtype=np.int32)[:, None])
    positions = np.indices(sizes, dtype=np.int32).reshape(len(sizes), -1)
    columns = {a.name: a.column()[p] for a, p in zip(axes, positions, strict=True)}
    kept = np.ones(positions.shape[1], dtype=bool)
    for _, rule, text in rules:
        kept &= _held(rule, columns, text)
    return Digit(tuple(axes), np.ascontiguousarray(positions[:, kept].T))


def _held(rule: Node | Family, columns: Mapping[str, Column], text: str) -> Any:
    if isinstance(rule, Family):
        return rule.valid(columns)
    return condition(rule, columns.get, set(columns), text)
