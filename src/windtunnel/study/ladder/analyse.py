"""From what a ladder measured to what it says: laws, curves over compute, claims, the backtest.

Pure and seeded: equal losses give the same answer, to the last digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.study.ladder.amounts import Target
from windtunnel.study.ladder.backtest import backtest, identifiable
from windtunnel.study.ladder.cells import FEWEST_SIZES, Measured
from windtunnel.study.ladder.claims import CANNOT_SAY, Crossing, Difference, crossing, difference
from windtunnel.study.ladder.claims import trouble as trouble_of
from windtunnel.study.ladder.fits import Law
from windtunnel.study.ladder.identify import PARAMETERS, identified
from windtunnel.study.ladder.isoflop import isoflop_curves
from windtunnel.study.ladder.predict import CONFIDENCE, band, best_size_at, curve
from windtunnel.study.ladder.resample import Draws, Resampled, make_draws, resample
from windtunnel.study.statistics import Floats

DRAWS = 1000
CURVE_POINTS = 61
_FEWEST_CELLS = 3


@dataclass(frozen=True)
class Fitted:
    """An arm with the law that its claims rest on; None where there can be none."""

    measured: Measured
    resampled: Resampled | None
    compute: bool
    """Whether it is the law of FLOPs, for want of budgets."""
    trouble: str
    """Why nothing may be claimed of it."""

    def curves(self, flops: Floats) -> tuple[Floats, Floats]:
        """The loss over compute of the fit (c,) and of the resampled ones (r, c)."""
        assert self.resampled is not None
        laws = self.resampled.law, self.resampled.laws
        point, again = (curve(law, self.measured, flops, compute=self.compute) for law in laws)
        return point[0], again


def analyse(
    arms: Sequence[Measured],
    target: Target,
    *,
    with_backtest: bool = True,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """All that a ladder says, as plain JSON; the first arm is the one that others are compared to.

    Args:
        arms: of equal shape.
        target: the larger compute that is asked about.
        with_backtest: whether the largest size is also predicted from the smaller ones.
        seed: of the resampling.
        draws: resampled fits of each arm.
    """
    sizes, _, seeds = arms[0].shape
    shared = make_draws(seed, draws, sizes, seeds)
    largest = max(float(arm.flops.max()) for arm in arms)
    at = target.flops(largest)
    flops = _range(arms, max(at, largest))
    fitted = [_fitted(arm, shared) for arm in arms]
    pairs = [_pair(fitted[0], other, flops, at, len(arms) - 1) for other in fitted[1:]]
    found = {
        "confidence": CONFIDENCE,
        "draws": draws,
        "resampling_seed": seed,
        "at": {"asked": target.name, "flops": at, "beyond_largest": at / largest},
        "laws": [_law_tree(one, flops, shared) for one in fitted],
        "pairs": pairs,
        "backtest": backtest(arms, make_draws(seed + 1, draws, sizes, seeds))
        if with_backtest
        else None,
    }
    return identified(found)


def _range(arms: Sequence[Measured], end: float) -> Floats:
    start = max(float(arm.flops.min()) for arm in arms)
    return np.geomspace(min(start, end / 2), end, CURVE_POINTS)


def _fitted(arm: Measured, draws: Draws) -> Fitted:
    trouble = trouble_of(arm)
    if len(arm.params) < FEWEST_SIZES or int(arm.whole.sum()) < _FEWEST_CELLS:
        return Fitted(arm, None, compute=False, trouble=trouble)
    compute = not identifiable(arm)
    found = resample(arm, draws, compute=compute)
    if compute and int(found.used.sum()) < _FEWEST_CELLS:
        why = "fewer than three cells are the best for their compute, so no law can be fitted"
        return Fitted(arm, None, compute=True, trouble=trouble or f"{CANNOT_SAY}: {why}")
    return Fitted(arm, found, compute, trouble)


def _law_tree(one: Fitted, flops: Floats, draws: Draws) -> dict[str, Any]:
    arm = one.measured
    tree: dict[str, Any] = {
        "name": arm.name, "trouble": one.trouble, "law": None, "compute_law": None,
        "noise": None, "curve": None,
    }  # fmt: skip
    if one.resampled is not None:
        tree["law"] = _numbers(one.resampled, compute=one.compute)
        noise = one.resampled.noise
        tree["noise"] = {"seeds": noise.seeds, "cells": noise.cells, "df": noise.df}
        tree["curve"] = _curve_tree(one, flops)
        if not one.compute:
            over = resample(arm, draws, compute=True)
            if int(over.used.sum()) >= _FEWEST_CELLS:
                tree["compute_law"] = _numbers(over, compute=True)
    else:
        tree["law"] = None
    tree["isoflop"] = [found.to_dict() for found in isoflop_curves(arm, draws)]
    return tree


def _numbers(found: Resampled, *, compute: bool) -> dict[str, Any]:
    """The law's numbers with intervals, by the names of its equation."""
    kind = "compute" if compute else "params_tokens"
    names = PARAMETERS[kind]
    values = dict(zip(names, zip(_flat(found.law), _flat(found.laws), strict=True), strict=True))
    return {
        "kind": kind,
        **{
            name: _without_ends(found, band(float(point[0]), again).to_dict())
            for name, (point, again) in values.items()
        },
        "cells": int(found.used.sum()),
        "rms_residual": float(np.sqrt((found.residuals**2).sum() / max(1.0, found.used.sum()))),
    }


def _without_ends(found: Resampled, tree: dict[str, Any]) -> dict[str, Any]:
    """The tree, without an interval's ends where one seed leaves the noise unknown."""
    return tree if found.noise.seeds is not None else {**tree, "low": None, "high": None}


def _flat(law: Law) -> list[Floats]:
    """E, then factor and exponent of each column."""
    columns = range(law.factors.shape[1])
    pairs = [(law.factors[:, i], law.exponents[:, i]) for i in columns]
    return [law.constant, *(values for pair in pairs for values in pair)]


def _curve_tree(one: Fitted, flops: Floats) -> dict[str, Any]:
    assert one.resampled is not None
    point, again = one.curves(flops)
    low, high = np.quantile(again, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2), axis=0)
    tree = {
        "flops": flops.tolist(),
        "loss": point.tolist(),
        "low": np.minimum(low, point).tolist(),
        "high": np.maximum(high, point).tolist(),
    }
    tree = _without_ends(one.resampled, tree)
    if not one.compute:
        tree["best_params"] = best_size_at(one.resampled.law, one.measured, flops)[0].tolist()
    return tree


def _pair(
    first: Fitted, other: Fitted, flops: Floats, at: float, comparisons: int
) -> dict[str, Any]:
    confidence = 1 - (1 - CONFIDENCE) / comparisons
    names = (first.measured.name, other.measured.name)
    trouble = first.trouble or other.trouble
    span = (float(flops[0]), float(flops[-1]))
    if trouble or first.resampled is None or other.resampled is None:
        silent = Difference(at, CANNOT_SAY, None, trouble.removeprefix(f"{CANNOT_SAY}: "))
        crossed = Crossing(CANNOT_SAY, None, None, None, 0.0, None, span, silent.reason)
        return _pair_tree(names, confidence, silent, crossed)
    spot = np.array([at])
    points, draws = zip(first.curves(spot), other.curves(spot), strict=True)
    found = difference(at, points[0][0], points[1][0], (draws[0][:, 0], draws[1][:, 0]), confidence)
    lines, again = zip(first.curves(flops), other.curves(flops), strict=True)
    crossed = crossing(flops, names, lines[1] - lines[0], again[1] - again[0], confidence)
    return _pair_tree(names, confidence, found, crossed)


def _pair_tree(
    names: tuple[str, str], confidence: float, found: Difference, crossed: Crossing
) -> dict[str, Any]:
    return {
        "first": names[0], "other": names[1], "confidence": confidence,
        "at": found.to_dict(), "crossing": crossed.to_dict(),
    }  # fmt: skip
