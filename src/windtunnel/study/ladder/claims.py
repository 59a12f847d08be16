"""What may be said of two ladders: the difference at a larger compute, and where they cross.

With fewer than three sizes, with one seed, or where a run of either has no loss, nothing is said
about scale; where an interval holds zero, that it cannot be said. Intervals are those of resampled
fits: they know the noise and how far the law fits, not whether the law still holds far away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from windtunnel.study.ladder.cells import FEWEST_SIZES, Measured
from windtunnel.study.ladder.predict import Band, band
from windtunnel.study.statistics import Floats

CANNOT_SAY: Literal["cannot say"] = "cannot say"
FEW_SIZES = f"{CANNOT_SAY}: at least three sizes are needed"
CrossingVerdict = Literal["crosses", "none in range", "cannot say"]
DifferenceVerdict = Literal["better", "worse", "cannot say"]


def trouble(measured: Measured) -> str:
    """Why nothing may be said about a ladder's scaling; empty where something may."""
    if len(measured.params) < FEWEST_SIZES:
        return f"{FEW_SIZES}, not {len(measured.params)}"
    if measured.losses.shape[2] < 2:
        return f"{CANNOT_SAY}: with one seed the noise is unknown"
    if measured.missing:
        return f"{measured.missing} of {measured.losses.size} runs of {measured.name} have no loss"
    return ""


@dataclass(frozen=True)
class Difference:
    """An arm minus the first one at a compute, in nats; below zero the arm is better."""

    flops: float
    verdict: DifferenceVerdict
    band: Band | None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {
            "flops": self.flops, "verdict": self.verdict, "reason": self.reason,
            **({"mean": None, "low": None, "high": None, "confidence": None}
               if self.band is None else self.band.to_dict()),
        }  # fmt: skip


def difference(
    flops: float, first: Floats, other: Floats, draws: tuple[Floats, Floats], confidence: float
) -> Difference:
    """From losses at a compute: of the fits (scalars) and of the resampled ones (r,)."""
    found = band(float(other - first), draws[1] - draws[0], confidence)
    if found.low <= 0 <= found.high:
        return Difference(flops, CANNOT_SAY, found, "the interval holds zero")
    return Difference(flops, "better" if found.high < 0 else "worse", found)


@dataclass(frozen=True)
class Crossing:
    """The compute at which two curves cross, if they do within the range."""

    verdict: CrossingVerdict
    flops: float | None
    low: float | None
    high: float | None
    crossing_share: float
    """Of the resampled fits, how many cross within the range."""
    ahead: str | None
    """Who is ahead at the end of the range; None where that cannot be said."""
    range: tuple[float, float]
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "range": list(self.range)}


def crossing(
    flops: Floats, names: tuple[str, str], point: Floats, draws: Floats, confidence: float
) -> Crossing:
    """Where a difference of two curves changes its sign.

    Args:
        flops: (c,), growing: the range.
        names: of the first arm and the other one.
        point: (c,) other minus first, of the fits.
        draws: (r, c), of the resampled fits.
    """
    span = (float(flops[0]), float(flops[-1]))
    changes = (np.sign(draws[:, 1:]) != np.sign(draws[:, :-1])).sum(1)
    once, never = changes == 1, changes == 0
    share = float((changes > 0).mean())
    below = (draws[:, -1] < 0).mean()
    ahead = names[1] if below >= confidence else names[0] if below <= 1 - confidence else None
    spot = _spot(flops, point)
    if float(never.mean()) >= confidence and ahead is not None:
        return Crossing("none in range", None, None, None, share, ahead, span)
    if float(once.mean()) >= confidence and spot is not None:
        spots = np.array([_spot(flops, row) for row in draws[once]], dtype=np.float64)
        found = band(float(np.log(spot)), np.log(spots), confidence)
        return Crossing(
            "crosses", spot, float(np.exp(found.low)), float(np.exp(found.high)), share, ahead, span
        )
    reason = f"{share:.0%} of the resampled fits cross within the range"
    if float((changes > 1).mean()) > 1 - confidence:
        reason += ", some of them more than once"
    return Crossing(CANNOT_SAY, spot, None, None, share, ahead, span, reason)


def _spot(flops: Floats, values: Floats) -> float | None:
    """The first compute at which the values change sign, read between on a straight line."""
    places = np.flatnonzero(np.sign(values[1:]) != np.sign(values[:-1]))
    if not places.size:
        return None
    i = int(places[0])
    a, b = values[i], values[i + 1]
    part = 0.5 if a == b else a / (a - b)
    return float(np.exp(np.log(flops[i]) * (1 - part) + np.log(flops[i + 1]) * part))
