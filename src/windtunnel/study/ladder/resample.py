"""How a fit would have come out with other seeds: losses drawn again, many times.

Two kinds of scatter are told apart, both of log L:

* **seeds**: a run's deviation from the mean of its cell. Runs of one size and seed share a trunk,
  so their deviations are drawn together, for all budgets; and arms with as many seeds share the
  draws, since runs of one seed share their random numbers. Deviations are multiplied by √(k / (k
  − 1)): those of k values from their own mean are too small by that.
* **cells**: how far the means lie from the law beyond what seeds explain: τ² = max(0, s² − σ²/k),
  with s² the fit's residual variance. Residuals are drawn with replacement, brought to that size.
  (Drawing whole cells again, and seeds within them besides, would count the seeds' noise twice.)

With few seeds the size of the noise is itself uncertain: each draw is multiplied by √(ν/χ²) with ν
degrees of freedom, so that the intervals are as wide as those of Student's t. ν is what seeds give,
sizes times (k − 1), and besides what the residuals give where they count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.study.ladder.cells import Measured
from windtunnel.study.ladder.fits import Law, fit_law, huber_delta
from windtunnel.study.statistics import Floats


@dataclass(frozen=True)
class Noise:
    """How much losses scatter, as parts of themselves (deviations of log L)."""

    seeds: float | None
    """Standard deviation of one run; None with one seed."""
    cells: float
    """Standard deviation of a cell's mean beyond what seeds explain."""
    df: float
    """Degrees of freedom behind both; 0: nothing is known."""


@dataclass(frozen=True)
class Draws:
    """Random numbers that all arms share: which seed is drawn where, and how large the noise is."""

    picks: Floats
    """(r, s, k) in [0, 1)."""
    generator: np.random.Generator
    """For what each arm has for itself."""

    @property
    def count(self) -> int:
        return len(self.picks)


def make_draws(seed: int, count: int, sizes: int, seeds: int) -> Draws:
    """The random numbers of one analysis; equal for equal arguments."""
    generator = np.random.default_rng(seed)
    return Draws(generator.random((count, sizes, seeds)), generator)


def measure_noise(measured: Measured, residuals: Floats, used: Floats, fitted: int) -> Noise:
    """The two kinds of scatter: seeds in every cell, cells about their law where it was fitted.

    Args:
        residuals: of the means of log losses from the law; (s, b).
        used: 1 for the cells that the law was fitted to; (s, b).
        fitted: numbers that the law has.
    """
    s, _, k = measured.shape
    spare = max(0, int(used.sum()) - fitted)
    about = float((used * residuals**2).sum()) / spare if spare else 0.0
    own = seed_noise(measured)
    if own is None:
        return Noise(None, about**0.5, spare)
    misfit = max(0.0, about - own**2 / k)
    return Noise(own, misfit**0.5, s * (k - 1) + (spare if misfit else 0))


def seed_noise(measured: Measured) -> float | None:
    """Standard deviation of the log loss of one run of a cell; None with one seed."""
    k, cells = measured.shape[2], measured.whole.sum()
    if k == 1 or not cells:
        return None
    return float(((_deviations(measured) ** 2).sum() / (cells * (k - 1))) ** 0.5)


def _deviations(measured: Measured) -> Floats:
    """Of log losses from the means of their cells; 0 where a cell is not whole; (s, b, k)."""
    with np.errstate(invalid="ignore"):
        found = np.log(measured.losses) - measured.means[..., None]
    return np.where(measured.whole[..., None] > 0, found, 0.0)


@dataclass(frozen=True)
class Resampled:
    """A law, and the laws of losses drawn again."""

    law: Law
    """One row: of the losses themselves."""
    laws: Law
    """r rows."""
    noise: Noise
    used: Floats
    """Cells that the law was fitted to; (s, b)."""
    scale: Floats
    """What each draw's noise was multiplied by; (r,)."""
    residuals: Floats
    """(s, b)."""


def resample(measured: Measured, draws: Draws, *, compute: bool = False) -> Resampled:
    """Fits the law of parameters and tokens, or with ``compute`` that of FLOPs over the cells that
    nothing cheaper beats, and fits it again to each draw."""
    if compute:
        x = measured.flops.reshape(-1, 1)
    else:
        x = measured.columns()
    y = measured.means.reshape(1, -1)
    whole = measured.whole.reshape(-1)
    own = seed_noise(measured)
    delta = huber_delta(None if own is None else own / measured.shape[2] ** 0.5)

    def fit(rows: Floats, near: Law | None = None) -> tuple[Law, Floats]:
        used = np.broadcast_to(whole, rows.shape)
        if compute:
            used = used * envelope(measured.flops.reshape(-1), rows, whole)
        return fit_law(x, np.exp(rows), weights=used, delta=delta, near=near), used

    law, used = fit(y)
    columns = [x[:, i] for i in range(x.shape[1])]
    residuals = np.where(used[0] > 0, y[0] - np.log(law(*columns)[0]), 0.0)
    shape = measured.means.shape
    noise = measure_noise(
        measured, residuals.reshape(shape), used[0].reshape(shape), 1 + 2 * x.shape[1]
    )
    scale = _scales(draws, noise)
    moved = scale[:, None, None] * (
        seed_draws(measured, draws) + cell_draws(residuals, used[0], noise, draws, shape)
    )
    laws, _ = fit(y + moved.reshape(draws.count, -1), near=law)
    return Resampled(law, laws, noise, used[0].reshape(shape), scale, residuals.reshape(shape))


def _scales(draws: Draws, noise: Noise) -> Floats:
    if noise.df <= 0:
        return np.ones(draws.count)
    return np.sqrt(noise.df / draws.generator.chisquare(noise.df, draws.count))


def seed_draws(measured: Measured, draws: Draws) -> Floats:
    """By how much the means of cells move with other seeds; (r, s, b)."""
    s, b, k = measured.shape
    if k == 1:
        return np.zeros((draws.count, s, b))
    deviations = _deviations(measured) * (k / (k - 1)) ** 0.5
    picks = (draws.picks[:, :s, :k] * k).astype(np.int64)  # r s k
    moved = np.zeros((draws.count, s, b))
    for size in range(s):
        moved[:, size] = deviations[size].T[picks[:, size]].mean(1)
    return moved


def cell_draws(
    residuals: Floats, used: Floats, noise: Noise, draws: Draws, shape: tuple[int, ...]
) -> Floats:
    """By how much the means of cells move beyond their seeds; (r, *shape)."""
    known = residuals[used > 0]
    size = float((known**2).mean()) ** 0.5 if known.size else 0.0
    if noise.cells == 0.0 or size == 0.0:
        return np.zeros((draws.count, *shape))
    picked: Floats = draws.generator.choice(known, (draws.count, *shape))
    signs = draws.generator.choice([-1.0, 1.0], (draws.count, *shape))
    return np.asarray(picked * signs * (noise.cells / size))


def envelope(flops: Floats, rows: Floats, whole: Floats) -> Floats:
    """1 for the cells of each row that no other one beats with as few FLOPs; (r, n)."""
    usable = np.where(whole > 0, rows, np.inf)
    order = np.argsort(flops, kind="stable")
    ordered = usable[:, order]
    before = np.minimum.accumulate(ordered, 1)
    best = np.concatenate([np.full((len(rows), 1), np.inf), before[:, :-1]], 1)
    found = np.zeros_like(rows)
    found[:, order] = (ordered < best) & np.isfinite(ordered)
    return found
