"""The trend of a ladder: who leads over all that was measured, and how that changes with scale.

Unlike the extrapolation it needs no law. It reads the cells as they stand in ``study.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from windtunnel.study.ladder.cells import FEWEST_SIZES
from windtunnel.study.ladder.gaps import place_of
from windtunnel.study.ladder.slopes import BENT, lead, size_slope, token_slope
from windtunnel.study.statistics import ALPHA, Difference, Floats, critical_t, two_sided_p

Tree = Mapping[str, Any]
HOLDS = 0.25
"""A lead holds where the whole interval of its change for ten times the size is less than this part
of it."""
_ROUNDING = 1e-12


def trends(cells: Sequence[Tree], arms: Sequence[str]) -> list[dict[str, Any]]:
    """By arm but the first: the mean difference over all cells, and its change per tenfold
    parameters and per tenfold tokens, each with an interval and in words. Plain JSON."""
    comparisons = max(1, len(arms) - 1)
    return [_trend(cells, arms[0], name, ALPHA / comparisons) for name in arms[1:]]


def _trend(cells: Sequence[Tree], first: str, name: str, alpha: float) -> dict[str, Any]:
    base = {place_of(cell): cell for cell in cells if cell["arm"] == first}
    mine = {place_of(cell): cell for cell in cells if cell["arm"] == name}
    sizes = list(dict.fromkeys(size for size, _ in mine))
    budgets = list(dict.fromkeys(budget for _, budget in mine))
    tree = {"arm": name, "against": first, "sizes": len(sizes), "cells": len(mine)}
    held = _held(budgets[0]) if budgets else ""
    why = _trouble(mine, base)
    if why:
        nothing = _silent(why)
        return {**tree, "lead": nothing, "size": {**nothing, "held": held}, "tokens": nothing}
    grid = [[(size, budget) for budget in budgets] for size in sizes]
    gaps = np.array(
        [[np.subtract(mine[p]["values"], base[p]["values"]) for p in row] for row in grid]
    )
    ahead = _told(lead(gaps), alpha)
    ahead["verdict"] = _sign(ahead, "better", "worse")
    params = np.array([mine[row[0]]["params"] for row in grid], dtype=np.float64)
    tokens = np.array([[mine[p]["tokens"] for p in row] for row in grid], dtype=np.float64)
    by_size = {**_by_size(params, gaps, ahead, alpha), "held": held}
    return {
        **tree,
        "lead": ahead,
        "size": by_size,
        "tokens": _by_tokens(tokens, gaps, ahead, alpha),
    }


def _trouble(mine: Mapping[Any, Tree], base: Mapping[Any, Tree]) -> str:
    if not mine or mine.keys() != base.keys():
        return "the two were not measured at the same sizes and budgets"
    for side in (mine, base):
        values = [v for cell in side.values() for v in cell["values"]]
        if None in values:
            name = next(iter(side.values()))["arm"]
            return f"{values.count(None)} of {len(values)} runs of {name} have no loss"
    if len(next(iter(mine.values()))["values"]) < 2:
        return "with one seed the noise is unknown"
    return ""


def _by_size(params: Floats, gaps: Floats, ahead: Tree, alpha: float) -> dict[str, Any]:
    if len(params) < FEWEST_SIZES:
        return _silent(f"at least three sizes are needed, not {len(params)}")
    found = size_slope(params, gaps)
    return {
        **_judged(_told(found.slope, alpha), ahead),
        "straight_p": float(found.straight_p),
        "bent": bool(found.straight_p < BENT),
    }


def _by_tokens(tokens: Floats, gaps: Floats, ahead: Tree, alpha: float) -> dict[str, Any]:
    if tokens.shape[1] < 2:
        return _silent("at least two budgets are needed, not 1")
    return _judged(_told(token_slope(tokens, gaps), alpha), ahead)


def _silent(reason: str) -> dict[str, Any]:
    names = ("mean", "low", "high", "confidence", "df", "p_value")
    return {**dict.fromkeys(names), "verdict": "undecided", "reason": reason}


def _told(found: Difference, alpha: float) -> dict[str, Any]:
    """The interval, and the plain p-value of no difference."""
    mean, error, df = (float(part) for part in found)
    if error <= _ROUNDING:
        same = "identical losses" if mean == 0 else "every seed differs by the same amount"
        return {**_silent(same), "mean": mean}
    reach = float(critical_t(df, alpha)) * error
    return {
        "mean": mean, "low": mean - reach, "high": mean + reach, "confidence": 1 - alpha,
        "df": df, "p_value": float(two_sided_p(found)), "verdict": "undecided", "reason": "",
    }  # fmt: skip


def _sign(tree: Tree, below: str, above: str) -> str:
    """Which side of zero the interval lies on; undecided where it holds zero."""
    if tree["low"] is None or tree["low"] <= 0 <= tree["high"]:
        return "undecided"
    return below if tree["high"] < 0 else above


def _judged(slope: dict[str, Any], ahead: Tree) -> dict[str, Any]:
    """The slope with its verdict: what becomes of the lead, or who gains where none leads."""
    if slope["low"] is None:
        return slope
    if ahead["verdict"] == "undecided":
        return {**slope, "verdict": _sign(slope, "gains", "loses")}
    better = ahead["verdict"] == "better"
    verdict = _sign(slope, *(("grows", "shrinks") if better else ("shrinks", "grows")))
    bound = HOLDS * abs(ahead["mean"])
    if max(abs(slope["low"]), abs(slope["high"])) >= bound:
        return {**slope, "verdict": verdict}
    nearly = "" if verdict == "undecided" else f"it {verdict}, by less than a quarter of itself"
    return {**slope, "verdict": "holds", "reason": nearly}


def _held(budget: str) -> str:
    """What is equal at one budget of unlike sizes."""
    if budget.endswith("x"):
        return "at equal tokens per parameter"
    return "at equal compute" if budget.endswith("FLOPs") else "at equal tokens"
