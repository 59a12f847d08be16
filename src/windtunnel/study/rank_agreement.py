"""How well one number of an architecture orders the others: rank correlations over a handful of
architectures, with intervals and p-values that know how many numbers were tried."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def ranks(values: Floats) -> Floats:
    """Ranks from 1, the mean rank for equal values; of the last axis.

    >>> ranks(np.array([3.0, 1.0, 3.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    found: Floats = below + (equal + 1) / 2
    return found


def spearman(x: Floats, y: Floats) -> Floats:
    """Spearman's ρ of the last axis: the correlation of ranks; NaN where all values are equal."""
    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    scale = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.where(scale > 0, (a * b).sum(-1) / scale, np.nan)
    return found


def kendall(x: Floats, y: Floats) -> Floats:
    """Kendall's τ-b of the last axis; NaN where all values are equal."""
    a, b = order(x), order(y)
    scale = np.sqrt((a * a).sum((-1, -2)) * (b * b).sum((-1, -2)))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.where(scale > 0, (a * b).sum((-1, -2)) / scale, np.nan)
    return found


def order(values: Floats) -> Floats:
    """1, 0 or −1 for each two: is the first above the second? Infinities are values like others."""
    first, second = values[..., :, None], values[..., None, :]
    found: Floats = (first > second).astype(np.float64) - (first < second)
    return found


def agreement(
    predictors: Mapping[str, Sequence[float]],
    outcome: Sequence[float],
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict[str, Any]]:
    """Of each predictor: Spearman's ρ and Kendall's τ-b with the outcome, an interval of each from
    a bootstrap over architectures (percentiles), and two p-values by permuting the outcome.

    ``p_value`` is of this predictor alone, two-sided. ``p_family`` asks how often the *best* of
    all predictors would be so good by luck (Westfall and Young 1993). Resamples in which all
    values are equal have no correlation and are left out; how many stands in ``resamples``.

    Args:
        predictors: one value for each architecture; minus infinity for one that failed.
        outcome: what is to be predicted, such as minus the loss.
    """
    generator = np.random.default_rng(seed)
    y, n = np.asarray(outcome, dtype=np.float64), len(outcome)
    assert n >= 3, "no rank correlation of fewer than 3"
    drawn = generator.integers(0, n, size=(resamples, n))
    permuted = np.stack([generator.permutation(y) for _ in range(resamples)])
    xs = {name: np.asarray(values, dtype=np.float64) for name, values in predictors.items()}
    luck = {name: np.abs(spearman(np.broadcast_to(x, permuted.shape), permuted))
            for name, x in xs.items()}  # fmt: skip
    known = [values for values in luck.values() if not np.isnan(values).all()]
    best = np.max(known, axis=0) if known else np.zeros(resamples)
    found = {}
    for name, x in xs.items():
        rho = float(spearman(x, y))
        told: dict[str, Any] = {"spearman": _number(rho), "kendall": _number(float(kendall(x, y)))}
        for key, statistic in (("spearman", spearman), ("kendall", kendall)):
            told |= _interval(key, statistic(x[drawn], y[drawn]), level)
        # The permutation that is there counts too, so p is never 0.
        for key, values in (("p_value", luck[name]), ("p_family", best)):
            hits = int((values >= abs(rho) - 1e-12).sum())
            told[key] = None if math.isnan(rho) else (1 + hits) / (1 + resamples)
        found[name] = told
    return found


def _interval(name: str, values: Floats, level: float) -> dict[str, Any]:
    kept = values[~np.isnan(values)]
    if not len(kept):
        return {f"{name}_low": None, f"{name}_high": None, "resamples": 0}
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return {f"{name}_low": float(low), f"{name}_high": float(high), "resamples": len(kept)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
