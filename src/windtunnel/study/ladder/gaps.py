"""Differences of each arm to the first one, at every size and budget that was measured.

The rule of ``docs/design/statistics.md``: runs of one seed are pairs by design, a paired t-test in
every cell, and Holm's correction over all cells of the ladder. It reads the cells as they stand in
``study.json``, so that it can be said of ladders of old too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.study.statistics import ALPHA, Comparison, compare_arms, holm, holm_factors

Tree = Mapping[str, Any]


def cell_differences(cells: Sequence[Tree], arms: Sequence[str]) -> list[dict[str, Any]]:
    """By arm, size and budget: the difference, its interval, p-values and the verdict.

    Args:
        cells: of all arms, each with ``values`` by seed (None for a run without a loss).
        arms: their names; the first is the one that others are compared to.
    """
    base = {place_of(cell): cell for cell in cells if cell["arm"] == arms[0]}
    pairs = [
        (cell, base[place_of(cell)])
        for name in arms[1:]
        for cell in cells
        if cell["arm"] == name and place_of(cell) in base
    ]
    compared = [_compare(mine, first) for mine, first in pairs]
    p_values = [None if one is None else one.p_value for one in compared]
    rows = zip(pairs, compared, holm(p_values), holm_factors(p_values), strict=True)
    return [
        _row(mine, first, comparison, p_holm, factor)
        for (mine, first), comparison, p_holm, factor in rows
    ]


def place_of(cell: Tree) -> tuple[float, str]:
    """The size as it was asked for, and the budget."""
    return cell["asked"], cell["budget"]


def _compare(mine: Tree, first: Tree) -> Comparison | None:
    values = [*mine["values"], *first["values"]]
    if not values or None in values:
        return None
    return compare_arms(first["values"], mine["values"], paired=True)


def _row(
    mine: Tree, first: Tree, comparison: Comparison | None, p_holm: float | None, factor: float
) -> dict[str, Any]:
    verdict, reason = _decide(mine, first, comparison, p_holm)
    ends: dict[str, Any] = dict.fromkeys(("low", "high", "confidence", "low_95", "high_95"))
    if comparison is not None and comparison.std_error is not None:
        shown, alone = comparison.interval(ALPHA / factor), comparison.interval(ALPHA)
        ends = {
            "low": shown.low, "high": shown.high, "confidence": 1 - ALPHA / factor,
            "low_95": alone.low, "high_95": alone.high,
        }  # fmt: skip
    return {
        "arm": mine["arm"], "against": first["arm"], "asked": mine["asked"],
        "params": mine["params"], "budget": mine["budget"], "tokens": mine["tokens"],
        "flops": mine["flops"], "seeds": len(mine["values"]),
        "mean": None if comparison is None else comparison.delta, **ends,
        "p_value": None if comparison is None else comparison.p_value, "p_holm": p_holm,
        "verdict": verdict, "reason": reason,
    }  # fmt: skip


def _decide(
    mine: Tree, first: Tree, comparison: Comparison | None, p_holm: float | None
) -> tuple[str, str]:
    if comparison is None:
        return _without(mine, first)
    if p_holm is None:
        return "undecided", comparison.reason
    if p_holm < ALPHA:
        return ("better" if comparison.delta < 0 else "worse"), comparison.reason
    if comparison.p_value is not None and comparison.p_value < ALPHA:
        return "undecided", "visible by itself, not after the correction"
    return "undecided", comparison.reason


def _without(mine: Tree, first: Tree) -> tuple[str, str]:
    """Where a run has no loss: diverged runs decide, failed ones say nothing."""
    for cell, whose in ((mine, ""), (first, f"{first['arm']}: ")):
        if cell["failed"]:
            return "undecided", f"{whose}failed {cell['failed']} of {len(cell['values'])}"
    own, base = (cell["values"].count(None) for cell in (mine, first))
    told = f"diverged {own} of {len(mine['values'])}"
    its = f"{first['arm']}: diverged {base} of {len(first['values'])}"
    if own and base:
        return "undecided", f"both diverge: {told}, {its}"
    return ("worse", told) if own else ("better", its)
