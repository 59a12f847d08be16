"""Scaling laws fitted to losses, many resampled sets of them at once.

    L(N, D) = E + A·N^-α + B·D^-β           parameters and tokens
    L(C)    = E + k·C^-γ                    FLOPs, along the cells that nothing cheaper beats

Both are a sum of positive terms, so ``log L`` is a log-sum-exp, and are fitted as Hoffmann et al.
2022 (arXiv 2203.15556, appendix D.2, equation 10 for the first one) fit theirs: a Huber loss of the
residuals of ``log L``, from a grid of starting points, the best end kept. Deviations: a batched
Levenberg–Marquardt with Huber's weights in place of L-BFGS, since one study needs thousands of
fits; exponents stay in [0, 3]; and where the noise between seeds is known to be larger than
Hoffmann's δ = 10⁻³, δ is 1.345 of its standard deviations (Huber's own choice: 95% efficiency where
the noise is normal), because a smaller one fits medians.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from windtunnel.study.statistics import Floats

Places: TypeAlias = NDArray[np.intp]

HUBER_DELTA = 1e-3
HUBER_FACTOR = 1.345
LARGEST_EXPONENT = 3.0
_ROUNDS = 150
_SMALLEST_PART = 1e-4
"""A term of the law is at least this part of the loss: its logarithm stays a number."""
_STARTS = ((0.3, 0.6, 0.9), (0.1, 0.3, 0.6, 1.2))
"""E as parts of the lowest loss, and exponents."""


@dataclass(frozen=True)
class Law:
    """Fitted laws, one a row (r of them). ``x`` are the columns that the law was fitted over."""

    constant: Floats
    """E, in nats; shape (r,)."""
    factors: Floats
    """A and B, or k; shape (r, q)."""
    exponents: Floats
    """α and β, or γ; shape (r, q)."""
    objective: Floats
    """What was minimised; shape (r,)."""

    def __call__(self, *x: Floats) -> Floats:
        """The losses at columns of parameters and tokens, or of FLOPs: (r, …) for columns (…)."""
        dims = np.ndim(x[0])
        total = self.constant.reshape(-1, *[1] * dims)
        for column, values in enumerate(x):
            factor = self.factors[:, column].reshape(-1, *[1] * dims)
            exponent = self.exponents[:, column].reshape(-1, *[1] * dims)
            total = total + factor * np.asarray(values, dtype=np.float64) ** -exponent
        return total

    def row(self, index: int) -> Law:
        """One law alone."""
        part = slice(index, index + 1)
        return Law(
            self.constant[part], self.factors[part], self.exponents[part], self.objective[part]
        )


def huber_delta(noise: float | None) -> float:
    """δ of the Huber loss for losses whose logarithms scatter by ``noise``; None: unknown."""
    return max(HUBER_DELTA, HUBER_FACTOR * noise) if noise else HUBER_DELTA


def fit_law(
    x: Floats,
    losses: Floats,
    *,
    weights: Floats | None = None,
    delta: float = HUBER_DELTA,
    near: Law | None = None,
) -> Law:
    """The law of each row of losses.

    Args:
        x: (n, q): parameters and tokens of each cell, or its FLOPs; positive.
        losses: (r, n), positive.
        weights: (r, n) of each residual; 0 leaves it out. None: all are 1.
        delta: of the Huber loss.
        near: laws to start at besides a few others, where the rows are resampled from known ones;
            then fewer starts are tried.

    >>> n, d = np.meshgrid([1e5, 3e5, 1e6, 3e6], [1e6, 1e7, 1e8])
    >>> x = np.stack([n.ravel(), d.ravel()], 1)
    >>> y = 1.5 + 100 * x[:, 0] ** -0.4 + 50 * x[:, 1] ** -0.3
    >>> law = fit_law(x, y[None])
    >>> [round(float(v), 3) for v in (law.constant[0], *law.exponents[0])]
    [1.5, 0.4, 0.3]
    """
    logs = np.log(np.asarray(x, dtype=np.float64))
    centre = logs.mean(0)
    logs = logs - centre
    rows = np.log(losses)
    used = np.ones_like(rows) if weights is None else weights
    best = _Fit(logs, rows, used, delta)
    for start in _starts(logs, losses, near, centre):
        best.improve(start)
    exponents = best.theta[:, 2::2]
    factors = np.exp(best.theta[:, 1::2] + exponents * centre)
    return Law(np.exp(best.theta[:, 0]), factors, exponents, best.objective)


def _starts(logs: Floats, losses: Floats, near: Law | None, centre: Floats) -> list[Floats]:
    """Starting points (r, 1 + 2q): E, then factor and exponent of each column, as logarithms."""
    r, q = len(losses), logs.shape[1]
    lowest = losses.min(1)
    if near is None:
        grid = [(part, *steep) for part in _STARTS[0] for steep in product(_STARTS[1], repeat=q)]
        return [_start(logs, losses, lowest, part, np.array(steep)) for part, *steep in grid]
    own = np.empty((len(near.constant), 1 + 2 * q))
    own[:, 0] = np.log(near.constant)
    own[:, 2::2] = near.exponents
    own[:, 1::2] = np.log(near.factors) - near.exponents * centre
    others = [(0.5, 0.2), (0.8, 0.5)]
    found = [_start(logs, losses, lowest, part, np.full(q, steep)) for part, steep in others]
    return [np.broadcast_to(own, (r, own.shape[1])).copy(), *found]


def _start(logs: Floats, losses: Floats, lowest: Floats, part: float, exponents: Floats) -> Floats:
    """The factors that suit E and exponents best, by least squares; at least a little of each."""
    columns = np.exp(-logs * exponents)
    above = losses - part * lowest[:, None]
    factors = np.linalg.lstsq(columns, above.T, rcond=None)[0].T
    floor = _SMALLEST_PART * 10 * lowest[:, None]
    theta = np.empty((len(losses), 1 + 2 * logs.shape[1]))
    theta[:, 0] = np.log(part * lowest)
    theta[:, 1::2] = np.log(np.maximum(factors, floor))
    theta[:, 2::2] = exponents
    return theta


class _Fit:
    """Levenberg–Marquardt over all rows at once; keeps the best end of each row."""

    def __init__(self, logs: Floats, rows: Floats, weights: Floats, delta: float) -> None:
        self.logs, self.rows, self.weights, self.delta = logs, rows, weights, delta
        width = 1 + 2 * logs.shape[1]
        self.theta = np.full((len(rows), width), np.nan)
        self.objective = np.full(len(rows), np.inf)
        top = rows.max(1) + np.log(2.0)
        self.low = np.tile(top + np.log(_SMALLEST_PART), (width, 1)).T
        self.high = np.tile(top, (width, 1)).T
        self.high[:, 0] = rows.max(1)
        self.low[:, 2::2], self.high[:, 2::2] = 0.0, LARGEST_EXPONENT

    def improve(self, start: Floats) -> None:
        """From another start; a row takes its end where that is better."""
        theta = np.clip(start, self.low, self.high)
        damping = np.full(len(theta), 1e-2)
        value = self._objective(theta)
        active = np.arange(len(theta))
        for _ in range(_ROUNDS):
            step = self._step(theta[active], damping[active], active)
            tried = np.clip(theta[active] + step, self.low[active], self.high[active])
            reached = self._objective(tried, active)
            gain = value[active] - reached
            better = gain > 0
            theta[active[better]], value[active[better]] = tried[better], reached[better]
            damping[active] = np.where(better, damping[active] * 0.2, damping[active] * 5.0)
            small = better & (gain <= 1e-9 * value[active])
            active = active[~small & (damping[active] < 1e8)]
            if not active.size:
                break
        won = value < self.objective
        self.theta[won], self.objective[won] = theta[won], value[won]

    def _parts(self, theta: Floats) -> tuple[Floats, Floats]:
        """log L (r, n), and the part of each term in L (r, n, 1 + q)."""
        terms = theta[:, None, 1::2] - theta[:, None, 2::2] * self.logs
        constant = np.broadcast_to(theta[:, None, :1], (*terms.shape[:2], 1))
        terms = np.concatenate([constant, terms], 2)
        top = terms.max(2, keepdims=True)
        parts = np.exp(terms - top)
        total = parts.sum(2, keepdims=True)
        return (top + np.log(total))[..., 0], parts / total

    def _objective(self, theta: Floats, rows: Places | slice = slice(None)) -> Floats:
        residual = np.abs(self._parts(theta)[0] - self.rows[rows])
        huber = np.where(
            residual <= self.delta,
            residual**2 / 2,
            self.delta * (residual - self.delta / 2),
        )
        total: Floats = (self.weights[rows] * huber).sum(1)
        return total

    def _step(self, theta: Floats, damping: Floats, rows: Places) -> Floats:
        """The damped Gauss–Newton step, with Huber's weights."""
        fitted, parts = self._parts(theta)
        residual = fitted - self.rows[rows]
        size = np.maximum(np.abs(residual), 1e-300)
        weight = self.weights[rows] * np.minimum(1.0, self.delta / size)
        jacobian = np.empty((*parts.shape[:2], theta.shape[1]))
        jacobian[..., 0] = parts[..., 0]
        jacobian[..., 1::2] = parts[..., 1:]
        jacobian[..., 2::2] = -parts[..., 1:] * self.logs
        weighted = jacobian * weight[..., None]
        square = np.swapaxes(weighted, 1, 2) @ jacobian
        slope = (weighted * residual[..., None]).sum(1)
        diagonal = np.einsum("rii->ri", square)
        # A parameter at its bound that would leave it stays: the others go on as if it were fixed.
        stuck = ((theta <= self.low[rows]) & (slope > 0)) | (
            (theta >= self.high[rows]) & (slope < 0)
        )
        slope = np.where(stuck, 0.0, slope)
        free = ~stuck
        square = square * (free[:, :, None] & free[:, None, :])
        floor = 1e-12 + 1e-10 * diagonal.max(1, keepdims=True)
        extra = np.where(stuck, 1.0, damping[:, None] * (diagonal + floor) + floor)
        index = np.arange(theta.shape[1])
        square[:, index, index] += extra
        step: Floats = -np.linalg.solve(square, slope[..., None])[..., 0]
        return np.clip(step, -2.0, 2.0)
