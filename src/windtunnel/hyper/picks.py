"""What it is worth to train first what a predictor ranks best, on results that it had not seen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PICKS = (1, 3, 6)
"""How many are trained."""


def picks(means: Floats, folds: NDArray[np.int64], losses: Floats) -> list[dict[str, Any]]:
    """How far above the lowest loss of a fold the best of k of its architectures ends, in nats: the
    k that left-out predictions rank first, or k at random (the expectation); the mean over folds.

    Args:
        means, folds: (r, n), predictions of architectures left out with their fold.
        losses: (n,), the results.

    Returns:
        For each k with fewer than a fold holds: ``k``, ``of`` (the smallest fold), ``predictor``,
        ``random``, and ``gain``, the second less the first, with a 95% interval: Student's, over
        the folds of one draw, which share no architecture; drawing folds again narrows the mean and
        is not counted, so the interval is too wide rather than too narrow. (A bootstrap over
        architectures is not to be had for lowest losses: repeated ones leave fewer to choose from.)
    """
    from scipy.stats import t

    least = int(min(np.unique(row, return_counts=True)[1].min() for row in folds))
    count = len(np.unique(folds[0]))
    found = []
    for k in (k for k in PICKS if k < least and count > 1):
        above = np.array(
            [
                [_above(row[numbers == fold], losses[numbers == fold], k) for fold in range(count)]
                for row, numbers in zip(means, folds, strict=True)
            ]
        )  # draw, fold, (predictor, random)
        chosen, random = above.mean((0, 1))
        gains = above[:, :, 1] - above[:, :, 0]
        error = math.sqrt(gains.var(axis=1, ddof=1).mean() / count)
        half = float(t.ppf(0.975, count - 1)) * error
        gain = float(random - chosen)
        found.append(
            {"k": k, "of": least, "predictor": float(chosen), "random": float(random),
             "gain": {"value": gain, "low": gain - half, "high": gain + half}}
        )  # fmt: skip
    return found


def _above(means: Floats, losses: Floats, k: int) -> tuple[float, float]:
    """Of one fold, the excess of the best of k over the lowest loss: of those with the lowest
    ``means``, and of k at random."""
    chosen = losses[np.argsort(means, kind="stable")[:k]].min()
    expected = _shares_of_best(len(losses), k) @ np.sort(losses)
    return float(chosen - losses.min()), float(expected - losses.min())


def _shares_of_best(n: int, k: int) -> Floats:
    """(n,): of n things, how probable it is that the j-th is the best of k drawn.

    >>> _shares_of_best(3, 2).round(3).tolist()
    [0.667, 0.333, 0.0]
    """
    return np.array([math.comb(n - 1 - j, k - 1) for j in range(n)]) / math.comb(n, k)
