"""How well guesses that were learnt from some architectures order others: Kendall's τ over pairs.

Guesses of one fit can be ranked against each other. Those of two fits cannot: left out of a fit, a
high value lowers its mean, so guesses pooled over folds run against the truth by construction. So
only pairs of one fold count, and folds are drawn several times until most pairs have met.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.study.rank_agreement import order

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Ordering:
    """What a guess says of each two architectures."""

    above: Floats
    """(n, n): the mean over repeats of 1, 0 or −1: is the first above the second?"""
    apart: Floats
    """(n, n): how often it tells them apart."""
    known: Mask
    """(n, n): whether they were ever guessed by one fit."""

    @classmethod
    def of(cls, guess: Sequence[float] | Floats) -> Ordering:
        """Of one number for each architecture, which is learnt from none."""
        above = order(np.asarray(guess, dtype=np.float64))
        return cls(above, above**2, np.ones(above.shape, dtype=bool))

    @classmethod
    def of_folds(cls, guesses: Floats, folds: NDArray[np.int64]) -> Ordering:
        """Of guesses (r, n) of architectures that were left out with all of their fold (r, n)."""
        above = order(guesses)
        together = folds[:, :, None] == folds[:, None, :]
        times = np.maximum(together.sum(0), 1)
        mean = (above * together).sum(0) / times
        return cls(mean, (above**2 * together).sum(0) / times, together.any(0))


def draw_folds(count: int, folds: int, repeats: int, seed: int) -> NDArray[np.int64]:
    """The fold of each of ``count``, drawn ``repeats`` times: (r, n). Folds are equally large, give
    or take one."""
    generator = np.random.default_rng(seed)
    return np.stack([generator.permutation(count) % folds for _ in range(repeats)])


@dataclass(frozen=True)
class Resampling:
    """Architectures drawn with replacement, the same for all that is compared: how often each was
    drawn, (resamples, n)."""

    weights: Floats
    level: float = 0.95

    @classmethod
    def of(cls, count: int, resamples: int = 2000, seed: int = 0) -> Resampling:
        generator = np.random.default_rng(seed)
        weights = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
        return cls(weights.astype(np.float64))

    def told(self, values: Floats, value: float) -> dict[str, float | None]:
        """A value with its percentile interval over the resamples."""
        kept = values[np.isfinite(values)]
        if not len(kept) or not np.isfinite(value):
            return {"value": None, "low": None, "high": None}
        low, high = np.quantile(kept, [(1 - self.level) / 2, (1 + self.level) / 2])
        return {"value": float(value), "low": float(low), "high": float(high)}


def taus(
    guess: Ordering, outcome: Sequence[float] | Floats, among: Mask, weights: Floats
) -> Floats:
    """Kendall's τ-b over the pairs ``among`` (n, n), with each architecture counted as often as
    ``weights`` (b, n) say: (b,). NaN where nothing is told apart."""
    truth = order(np.asarray(outcome, dtype=np.float64))
    pairs = among & guess.known

    def total(values: Floats) -> Floats:
        found: Floats = ((weights @ (values * pairs)) * weights).sum(-1)
        return found

    scale = np.sqrt(total(guess.apart) * total(truth**2))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.where(scale > 0, total(guess.above * truth) / scale, np.nan)
    return found


def held_out_taus(
    guesses: dict[str, Ordering],
    outcome: Sequence[float] | Floats,
    among: Mask,
    resampling: Resampling,
    *,
    against: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """τ of each guess with an interval from a bootstrap over architectures, and how far the first
    guess is above each of ``against``, on the same resamples."""
    ones = np.ones((1, len(among)))
    drawn = {name: taus(g, outcome, among, resampling.weights) for name, g in guesses.items()}
    whole = {name: float(taus(g, outcome, among, ones)[0]) for name, g in guesses.items()}
    found: dict[str, dict[str, Any]] = {
        name: dict(resampling.told(drawn[name], whole[name])) for name in guesses
    }
    first = next(iter(guesses))
    for name in against:
        gain = resampling.told(drawn[first] - drawn[name], whole[first] - whole[name])
        found[first][f"above_{name}"] = gain
    return found
