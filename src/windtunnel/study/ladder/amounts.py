"""Sizes and budgets as they are written on the command line: ``0.5M``, ``20x``, ``1e18``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from windtunnel.errors import UsageError

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_NUMBER = re.compile(r"([0-9.]+(?:e[+-]?[0-9]+)?)\s*([kmbgt]?)", re.IGNORECASE)


def parse_number(text: str, where: str) -> float:
    """A number with a unit of a thousand, a million, …

    Raises:
        UsageError: it is not one, or not above zero.

    >>> parse_number("0.5M", "--sizes")
    500000.0
    """
    match = _NUMBER.fullmatch(text.strip())
    try:
        value = float(match[1]) * _UNITS[match[2].lower()] if match else math.nan
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(
            f"{where}: {text.strip()!r} is not a number above 0 such as 500k, 2M or 1e6"
        )
    return value


def parse_sizes(text: str) -> tuple[float, ...]:
    """The sizes of a ladder, growing.

    Raises:
        UsageError: one is no number, stands there twice, or is smaller than the one before.

    >>> parse_sizes("0.2M,1M")
    (200000.0, 1000000.0)
    """
    sizes = tuple(parse_number(part, "--sizes") for part in text.split(",") if part.strip())
    if not sizes:
        raise UsageError("--sizes: at least one size is needed, such as 0.2M,0.5M,1M")
    for before, after in pairwise(sizes):
        if after == before:
            raise UsageError(f"--sizes: {short(after)} stands there twice")
        if after < before:
            raise UsageError(f"--sizes must grow, but {short(after)} comes after {short(before)}")
    return sizes


@dataclass(frozen=True)
class Budget:
    """How long a run is trained: as many tokens as so many times its parameters, so many tokens, or
    as many as so many FLOPs pay for."""

    amount: float
    unit: Literal["x", "tokens", "flops"]

    def tokens(self, params: float, flops_per_token: float) -> float:
        """For a model of that size and cost.

        >>> Budget(20, "x").tokens(1e6, 6e6)
        20000000.0
        """
        if self.unit == "x":
            return self.amount * params
        return self.amount if self.unit == "tokens" else self.amount / flops_per_token

    @property
    def name(self) -> str:
        """As it is read: ``20x``, ``4M tokens``, ``1e+13 FLOPs``."""
        if self.unit == "x":
            return f"{self.amount:g}x"
        if self.unit == "tokens":
            return f"{short(self.amount)} tokens"
        return f"{self.amount:g} FLOPs"


def parse_budgets(text: str) -> tuple[Budget, ...]:
    """The budgets of a ladder, growing, all of one kind.

    Raises:
        UsageError: one is not a budget, the kinds differ, or they do not grow.

    >>> [budget.name for budget in parse_budgets("5x,20x")]
    ['5x', '20x']
    """
    budgets = tuple(_budget(part.strip()) for part in text.split(",") if part.strip())
    if not budgets:
        raise UsageError("--budgets: at least one is needed, such as 5x,10x,20x")
    kinds = {budget.unit for budget in budgets}
    if len(kinds) > 1:
        raise UsageError(
            f"--budgets: one kind at a time, not {' and '.join(sorted(kinds))}: multiples of "
            "parameters (20x), tokens (4M), or FLOPs (1e13flops)"
        )
    for before, after in pairwise(budgets):
        if after.amount <= before.amount:
            raise UsageError(f"--budgets must grow, but {after.name} comes after {before.name}")
    return budgets


def _budget(text: str) -> Budget:
    lower = text.lower()
    if lower.endswith("x"):
        return Budget(parse_number(lower[:-1], "--budgets"), "x")
    if lower.endswith("flops"):
        return Budget(parse_number(lower[: -len("flops")], "--budgets"), "flops")
    return Budget(parse_number(text, "--budgets"), "tokens")


@dataclass(frozen=True)
class Target:
    """A larger budget that is asked about: FLOPs, or a multiple of the largest run's."""

    amount: float
    multiple: bool

    def flops(self, largest: float) -> float:
        return self.amount * largest if self.multiple else self.amount

    @property
    def name(self) -> str:
        return f"{self.amount:g}x" if self.multiple else f"{self.amount:g}"


def parse_target(text: str) -> Target:
    """What ``--at`` says: ``10x`` or ``1e18``.

    Raises:
        UsageError: it is neither.

    >>> parse_target("10x").flops(2e12)
    20000000000000.0
    """
    lower = text.strip().lower()
    if lower.endswith("x"):
        return Target(parse_number(lower[:-1], "--at"), multiple=True)
    return Target(parse_number(lower.removesuffix("flops"), "--at"), multiple=False)


def short(value: float) -> str:
    """A count without needless digits: ``150k``, ``1.6M``.

    >>> short(1_600_000), short(150_000.0)
    ('1.6M', '150k')
    """
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
