"""Gaussian-process regression on a few hundred points: closed form, chosen by leaving one out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Kernel(NamedTuple):
    """How alike two points are: 1 + x·x' + ``embedding`` · e·e' + ``smooth`` ·
    exp(−‖(x, e) − (x', e')‖² / 2 ``length``²), for numbers x and embedding e. Without the last term
    this is ridge regression. Where ``embedding`` is 0, e counts nowhere."""

    embedding: float
    smooth: float
    length: float

    def gram(self, a: Points, b: Points) -> Floats:
        """(n, p), (m, p) -> (n, m)."""
        found: Floats = 1 + a.numbers @ b.numbers.T
        if self.embedding:
            found += self.embedding * (a.embedding @ b.embedding.T)
        if self.smooth:
            apart = _squares(a.numbers, b.numbers)
            if self.embedding:
                apart += _squares(a.embedding, b.embedding)
            found += self.smooth * np.exp(-apart / (2 * self.length**2))
        return found

    def own(self, a: Points) -> Floats:
        """The likeness of each point with itself: (n,)."""
        found: Floats = (a.numbers**2).sum(-1) + self.embedding * (a.embedding**2).sum(-1)
        found += 1 + self.smooth
        return found


KERNELS = tuple(
    Kernel(embedding, smooth, length)
    for embedding, (smooth, length) in product(
        (0.0, 0.3), ((0.0, 1.0), *product((0.3, 3.0), (0.5, 1.0, 2.0)))
    )
)
"""Those that are tried."""
MARGIN = 3.0
"""Nats by which a kernel further down the list must be likelier, over all points."""
NOISES = tuple(float(noise) for noise in np.logspace(-4, 1, 11))
"""Variances of one result over the kernel's that are tried: the penalty."""


@dataclass(frozen=True)
class Points:
    """Numbers and embeddings on a common scale: (n, p) and (n, w)."""

    numbers: Floats
    embedding: Floats


@dataclass(frozen=True)
class Scale:
    """What makes features comparable: each number has variance 1 / p, all of an embedding together
    have variance 1. What does not vary is 0 everywhere."""

    numbers_mean: Floats
    numbers_factor: Floats
    embedding_mean: Floats
    embedding_factor: float

    @classmethod
    def of(cls, numbers: Floats, embedding: Floats) -> Scale:
        spread = numbers.std(0)
        varies = spread > 1e-9
        count = max(1, int(varies.sum()))
        factor = np.where(varies, 1 / np.where(varies, spread, 1.0), 0.0) / np.sqrt(count)
        total = float(np.sqrt(embedding.var(0).sum()))
        return cls(
            numbers.mean(0), factor, embedding.mean(0), 1 / total if total > 1e-9 else 0.0
        )  # fmt: skip

    def __call__(self, numbers: Floats, embedding: Floats) -> Points:
        return Points(
            (numbers - self.numbers_mean) * self.numbers_factor,
            (embedding - self.embedding_mean) * self.embedding_factor,
        )


@dataclass(frozen=True)
class Regression:
    """A fitted process: y = f(x) + noise, f drawn with covariance ``variance`` · kernel."""

    kernel: Kernel
    noise: float
    """Of one result, over ``variance``; of a mean of c results a c-th of it."""
    variance: float
    """So large that the errors of left-out points are as large as expected."""
    scale: Scale
    points: Points
    center: float
    solved: Floats
    """(n,): (K + noise)⁻¹ (y − center)."""
    inverse: Floats
    """(n, n): (K + noise)⁻¹."""

    def predict(self, numbers: Floats, embedding: Floats) -> tuple[Floats, Floats]:
        """The mean of one result at each point and its standard deviation, noise included."""
        points = self.scale(numbers, embedding)
        cross = self.kernel.gram(points, self.points)
        mean = self.center + cross @ self.solved
        explained = ((cross @ self.inverse) * cross).sum(-1)
        spread = np.maximum(self.kernel.own(points) - explained, 0) + self.noise
        return mean, np.sqrt(self.variance * spread)


def fit(
    numbers: Floats,
    embedding: Floats,
    y: Floats,
    counts: Floats,
    *,
    kernels: Sequence[Kernel] = KERNELS,
    noises: Sequence[float] = NOISES,
) -> Regression:
    """The kernel and noise under which left-out points are likeliest (Rasmussen and Williams 2006,
    section 5.4.2, with the variance in closed form), and the regression with them.

    Args:
        numbers: (n, p).
        embedding: (n, w).
        y: (n,) means of results.
        counts: (n,) how many results each is the mean of.
    """
    scale = Scale.of(numbers, embedding)
    points = scale(numbers, embedding)
    center = float(np.average(y, weights=counts))
    best: tuple[float, Kernel, float, float] | None = None
    for kernel in kernels:
        left_out = _left_out(kernel.gram(points, points), y - center, counts, noises)
        density, variance, noise = max((*pair, n) for pair, n in zip(left_out, noises, strict=True))
        if best is None or density > best[0] + MARGIN / len(y):
            best = (density, kernel, noise, variance)
    assert best is not None
    _, kernel, noise, variance = best
    return solved(kernel, noise, variance, scale, points, y, counts)


def solved(
    kernel: Kernel, noise: float, variance: float, scale: Scale, points: Points, y: Floats,
    counts: Floats,
) -> Regression:  # fmt: skip
    """The regression with a given kernel and noise."""
    center = float(np.average(y, weights=counts))
    inverse = np.linalg.inv(kernel.gram(points, points) + np.diag(noise / counts))
    inverse = (inverse + inverse.T) / 2
    return Regression(
        kernel, noise, variance, scale, points, center, inverse @ (y - center), inverse
    )


def _left_out(
    gram: Floats, y: Floats, counts: Floats, noises: Sequence[float]
) -> list[tuple[float, float]]:
    """For each noise the mean log density of left-out points, up to a constant, and the variance.

    Left out, y_i has mean y_i − [K⁻¹y]_i / [K⁻¹]_ii and variance 1 / [K⁻¹]_ii (ibid., eq. 5.12).
    One eigendecomposition serves all noises.
    """
    root = np.sqrt(counts)
    values, vectors = np.linalg.eigh(gram * root[:, None] * root)
    values = np.maximum(values, 0)
    turned = vectors.T @ (y * root)
    found = []
    for noise in noises:
        shrunk = 1 / (values + noise)
        diagonal = (vectors**2 @ shrunk) * counts
        errors = (vectors @ (shrunk * turned)) * root / diagonal
        variance = max(float(np.mean(errors**2 * diagonal)), 1e-12)
        found.append((float(np.mean(np.log(diagonal)) - np.log(variance)) / 2, variance))
    return found


def _squares(a: Floats, b: Floats) -> Floats:
    """Squared distances: (n, p), (m, p) -> (n, m)."""
    found: Floats = (a**2).sum(-1)[:, None] + (b**2).sum(-1) - 2 * (a @ b.T)
    return np.maximum(found, 0)
