"""The largest size, predicted from the smaller ones, beside what was measured there.

The prediction intervals hold what a measured mean of k seeds scatters by, not only what the fit is
unsure of: else they would miss too often even where the law is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from windtunnel.study.ladder.cells import FEWEST_SIZES, Measured
from windtunnel.study.ladder.predict import CONFIDENCE, band, cell_noise
from windtunnel.study.ladder.resample import Draws, Resampled, resample
from windtunnel.study.statistics import critical_t

LEVELS = (0.9, CONFIDENCE)


def backtest(arms: Sequence[Measured], draws: Draws) -> dict[str, Any]:
    """Predicted against measured for each arm and budget of the largest size.

    ``hits`` says how many of the measured losses lie inside the interval of each level, ``ranks``
    how many pairs of arms (at one budget) the prediction puts in the measured order; of those, how
    many the measurement itself can tell apart. Plain JSON.
    """
    sizes = len(arms[0].params)
    if sizes <= FEWEST_SIZES:
        return {"reason": f"needs at least {FEWEST_SIZES + 1} sizes, not {sizes}", "cells": []}
    left = [arm.name for arm in arms if arm.missing]
    used = [arm for arm in arms if not arm.missing]
    cells = [row for arm in used for row in _rows(arm, draws)]
    hits = {f"{level:g}": sum(row["hits"][f"{level:g}"] for row in cells) for level in LEVELS}
    return {
        "reason": f"{', '.join(left)}: some runs have no loss" if left else "",
        "cells": cells,
        "count": len(cells),
        "hits": hits,
        "mean_absolute_error": _mean_error(cells),
        "ranks": _ranks(used, cells),
    }


def _rows(arm: Measured, draws: Draws) -> list[dict[str, Any]]:
    smaller = arm.first_sizes(len(arm.params) - 1)
    compute = not identifiable(smaller)
    fitted = resample(smaller, draws, compute=compute)
    seeds = arm.shape[2]
    noise = cell_noise(fitted, draws.generator, seeds, arm.shape[1])
    x = held_out_columns(arm, compute=compute)
    points, again = fitted.law(*x)[0], fitted.laws(*x) * np.exp(noise)
    rows = []
    for budget in range(arm.shape[1]):
        measured = float(arm.losses[-1, budget].mean())
        bands = {f"{level:g}": band(points[budget], again[:, budget], level) for level in LEVELS}
        rows.append(
            {
                "arm": arm.name,
                "budget": budget,
                "params": float(arm.params[-1]),
                "tokens": float(arm.tokens[-1, budget]),
                "flops": float(arm.flops[-1, budget]),
                "predicted": float(points[budget]),
                "measured": measured,
                "error": float(points[budget]) - measured,
                "intervals": {name: [b.low, b.high] for name, b in bands.items()},
                "hits": {name: b.low <= measured <= b.high for name, b in bands.items()},
            }
        )
    return rows


def identifiable(measured: Measured) -> bool:
    """Whether a law of parameters and tokens has enough cells: three sizes, two budgets, and more
    cells than it has numbers."""
    s, b, _ = measured.shape
    return s >= FEWEST_SIZES and b >= 2 and int(measured.whole.sum()) > 5


def held_out_columns(arm: Measured, *, compute: bool) -> list[Any]:
    """What a law reads of the largest size's cells."""
    if compute:
        return [arm.flops[-1]]
    return [np.full(arm.tokens[-1].shape, arm.params[-1]), arm.tokens[-1]]


def _mean_error(cells: Sequence[dict[str, Any]]) -> float | None:
    return float(np.mean([abs(row["error"]) for row in cells])) if cells else None


def _ranks(arms: Sequence[Measured], cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pairs of arms at one budget: how many are predicted in the order that was measured."""
    predicted = {(row["arm"], row["budget"]): row["predicted"] for row in cells}
    right = decided = decided_right = pairs = 0
    wrong: list[str] = []
    for first, other in combinations(arms, 2):
        for budget in range(first.shape[1]):
            pairs += 1
            gap = predicted[other.name, budget] - predicted[first.name, budget]
            seen = other.losses[-1, budget] - first.losses[-1, budget]
            agree = bool(np.sign(gap) == np.sign(seen.mean()))
            clear = _apart(seen)
            right, decided = right + agree, decided + clear
            decided_right += agree and clear
            if not agree:
                wrong.append(f"{other.name} against {first.name}, budget {budget}")
    return {
        "pairs": pairs, "right": right, "decided": decided, "decided_right": decided_right,
        "wrong": wrong,
    }  # fmt: skip


def _apart(differences: Any) -> bool:
    """Whether same-seed differences are told from zero by a paired t-test at 5%."""
    n = len(differences)
    if n < 2:
        return False
    error = float(np.std(differences, ddof=1)) / n**0.5
    return bool(abs(differences.mean()) > float(critical_t(n - 1, 0.05)) * error)


__all__ = ["LEVELS", "Resampled", "backtest", "identifiable"]
