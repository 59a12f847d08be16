"""Iso-FLOP curves: at one compute, the loss over the size, and the size that is best.

A parabola in log N through the losses of all sizes at a compute (Hoffmann et al. 2022, section
3.2). Where the budgets are not FLOPs, the loss of a size at that compute is read between its two
nearest budgets, on a straight line in log C and log L; nothing is read outside of what was
measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.study.ladder.cells import FEWEST_SIZES, Measured
from windtunnel.study.ladder.predict import band
from windtunnel.study.ladder.resample import Draws, seed_draws
from windtunnel.study.statistics import Floats

CURVES = 5
_SAME = 1e-6


@dataclass(frozen=True)
class IsoFlop:
    """One curve. Bounds are None, and ``reason`` says why, where there is no best size inside."""

    flops: float
    params: tuple[float, ...]
    losses: tuple[float, ...]
    parabola: tuple[float, ...] | None
    """Coefficients of log L in log N, the highest power first."""
    best_params: float | None
    low: float | None
    high: float | None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {
            "flops": self.flops, "params": list(self.params), "losses": list(self.losses),
            "parabola": None if self.parabola is None else list(self.parabola),
            "best_params": self.best_params, "low": self.low, "high": self.high,
            "reason": self.reason,
        }  # fmt: skip


def isoflop_curves(measured: Measured, draws: Draws) -> list[IsoFlop]:
    """The curves at the computes that at least three sizes reach."""
    moved = measured.means + seed_draws(measured, draws)
    found = []
    for flops in computes(measured):
        inside, at = _read(measured, measured.means[None], flops)
        if inside.sum() < FEWEST_SIZES:
            continue
        again = _read(measured, moved, flops)[1][:, inside]
        one_seed = measured.shape[2] == 1
        found.append(
            _curve(flops, measured.params[inside], at[0, inside], again, one_seed=one_seed)
        )
    return found


def computes(measured: Measured) -> Floats:
    """The computes to look at: the budgets themselves where they are FLOPs, else some between."""
    flops = measured.flops
    same = np.abs(flops / flops.mean(0) - 1).max() < _TOLERANCE
    if same:
        return np.asarray(flops.mean(0))
    # Between the third start and the third end from above lies what three sizes may reach.
    low, high = np.sort(flops[:, 0])[:FEWEST_SIZES][-1], np.sort(flops[:, -1])[-FEWEST_SIZES:][0]
    if len(flops) < FEWEST_SIZES or low > high:
        return np.empty(0)
    return np.geomspace(low, high, CURVES)


_TOLERANCE = 0.02
"""Whole steps make equal FLOPs differ a little."""


def _read(measured: Measured, rows: Floats, flops: float) -> tuple[Floats, Floats]:
    """Which sizes have a loss at that compute (s,), and those losses' logs (r, s)."""
    s = len(measured.params)
    inside, at = np.zeros(s, dtype=bool), np.full((len(rows), s), np.nan)
    for size in range(s):
        whole = measured.whole[size] > 0
        x, y = np.log(measured.flops[size][whole]), rows[:, size, whole]
        place = np.log(flops)
        if not x.size or not x[0] - _TOLERANCE <= place <= x[-1] + _TOLERANCE:
            continue
        inside[size] = True
        right = int(np.clip(np.searchsorted(x, place), 1, max(1, x.size - 1)))
        if x.size == 1:
            at[:, size] = y[:, 0]
            continue
        part = np.clip((place - x[right - 1]) / (x[right] - x[right - 1]), 0, 1)
        at[:, size] = (1 - part) * y[:, right - 1] + part * y[:, right]
    return inside, at


def _curve(flops: float, params: Floats, logs: Floats, again: Floats, *, one_seed: bool) -> IsoFlop:
    x = np.log(params)
    fit = np.polyfit(x, logs, 2)
    known = tuple(float(v) for v in params), tuple(float(v) for v in np.exp(logs))
    parabola = tuple(float(c) for c in fit)

    def without(reason: str) -> IsoFlop:
        return IsoFlop(float(flops), *known, parabola, None, None, None, reason)

    if fit[0] <= 0:
        return without("the curve has no lowest point")
    best = -fit[1] / (2 * fit[0])
    if not x[0] <= best <= x[-1]:
        side = "below the smallest" if best < x[0] else "above the largest"
        return without(f"the best size lies {side} one")
    fits = np.polyfit(x, again.T, 2)
    bent = fits[0] > 0
    spots = np.where(bent, -fits[1] / (2 * np.where(bent, fits[0], 1.0)), np.nan)
    inside = np.isfinite(spots) & (spots >= x[0]) & (spots <= x[-1])
    if again.size and inside.mean() < 0.95:
        return IsoFlop(float(flops), *known, parabola, float(np.exp(best)), None, None,
                       "with other seeds the best size often lies outside")  # fmt: skip
    if one_seed:
        return IsoFlop(float(flops), *known, parabola, float(np.exp(best)), None, None,
                       "with one seed the noise is unknown")  # fmt: skip
    found = band(best, spots[inside])
    return IsoFlop(
        float(flops), *known, parabola, float(np.exp(best)), float(np.exp(found.low)),
        float(np.exp(found.high)),
    )  # fmt: skip
