"""How many steps of training a start saves, and after how many architectures it has paid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def step_reaching(target: float, steps: Sequence[int], losses: Floats) -> float:
    """The first step at which a curve is at most ``target``, linear in log(1 + step) between the
    measured ones; infinite where it never is, or where the target is no number.

    >>> step_reaching(2.0, [0, 1, 3], np.array([3.0, 2.0, 1.0]))
    1.0
    >>> step_reaching(1.5, [0, 1, 3], np.array([3.0, 2.0, 1.0]))
    1.8284271247461903
    """
    if not math.isfinite(target):
        return math.inf
    if losses[0] <= target:
        return float(steps[0])
    for i in range(1, len(steps)):
        before, after = float(losses[i - 1]), float(losses[i])
        if after <= target:
            share = (before - target) / (before - after) if math.isfinite(before) else 1.0
            low, high = math.log1p(steps[i - 1]), math.log1p(steps[i])
            return math.expm1(low + share * (high - low)) if share < 1 else float(steps[i])
    return math.inf


def saved(
    strong: Floats, own: Floats, steps: Sequence[int], seconds: Floats | None, cost: float | None
) -> dict[str, Any]:
    """What a start saves of the training that the strong one needs for its last loss; nothing where
    that has diverged.

    Args:
        strong, own: (architectures, steps) losses.
        seconds: (architectures,) of the whole training; None: not known.
        cost: seconds that the making of the start took; None: not known.

    Returns:
        ``steps``: the median of the steps saved; ``reached``: the share of architectures that
        reach the strong one's last loss; ``seconds``: the mean saved (nothing where it is never
        reached); ``break_even``: so many trainings pay for the cost; ``strong_reaches_start``: the
        share of architectures whose strong training ever comes to the start's loss at step 0, and
        ``strong_needs``: the median of the steps that it takes, None where most never do.
    """
    last = steps[-1]
    needed = np.array([step_reaching(a[-1], steps, b) for a, b in zip(strong, own, strict=True)])
    left = np.where(np.isfinite(needed), last - needed, 0.0)
    kept = None if seconds is None else float((left / last * seconds).mean())
    other = np.array([step_reaching(b[0], steps, a) for a, b in zip(strong, own, strict=True)])
    median = float(np.median(other))
    return {
        "steps": float(np.median(left)),
        "reached": float(np.isfinite(needed).mean()),
        "seconds": kept,
        "break_even": cost / kept if cost is not None and kept else None,
        "strong_reaches_start": float(np.isfinite(other).mean()),
        "strong_needs": median if math.isfinite(median) else None,
    }
