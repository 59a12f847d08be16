"""What fitted laws say of runs that were not made: at a size and budget, and at a compute."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from windtunnel.study.ladder.cells import Measured
from windtunnel.study.ladder.fits import Law
from windtunnel.study.ladder.resample import Resampled
from windtunnel.study.statistics import Floats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Band:
    """A value and its interval."""

    mean: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def band(point: float, draws: Floats, confidence: float = CONFIDENCE) -> Band:
    """The point with the middle part of its draws, widened where it does not hold the point.

    >>> band(1.0, np.linspace(0, 2, 101), 0.9).low
    0.1
    """
    tail = (1 - confidence) / 2
    low, high = (float(q) for q in np.quantile(draws, (tail, 1 - tail)))
    return Band(float(point), min(low, float(point)), max(high, float(point)), confidence)


def best_at(law: Law, measured: Measured, flops: Floats) -> Floats:
    """The loss of the best size for each compute, by a law of parameters and tokens; (r, c).

    A run of N parameters and C FLOPs has D = C / f(N) tokens, with f the training FLOPs of a token
    by the cost model, at the sizes that the ladder's rule gives.
    """
    return np.asarray(_over_sizes(law, measured, flops).min(2))


def best_size_at(law: Law, measured: Measured, flops: Floats) -> Floats:
    """Parameters of the best size for each compute; (r, c)."""
    return np.asarray(measured.cost_params[_over_sizes(law, measured, flops).argmin(2)])


def _over_sizes(law: Law, measured: Measured, flops: Floats) -> Floats:
    """Losses of each compute at each size; (r, c, sizes)."""
    tokens = flops[:, None] / measured.cost_flops[None, :]
    params = np.broadcast_to(measured.cost_params, tokens.shape)
    return law(params, tokens)


def curve(law: Law, measured: Measured, flops: Floats, *, compute: bool) -> Floats:
    """The loss over compute, by either law; (r, c)."""
    return law(flops) if compute else best_at(law, measured, flops)


def cell_noise(
    resampled: Resampled, generator: np.random.Generator, seeds: int, count: int
) -> Floats:
    """By how much the logs of ``count`` measured means of ``seeds`` runs scatter about the law;
    (r, count). Runs of one trunk move together, as the measured ones did."""
    r = len(resampled.scale)
    noise = np.zeros((r, count))
    if resampled.noise.seeds:
        noise += generator.standard_normal((r, 1)) * resampled.noise.seeds / seeds**0.5
    noise += generator.standard_normal((r, count)) * resampled.noise.cells
    return np.asarray(noise * resampled.scale[:, None])
