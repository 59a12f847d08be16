"""What a ladder measured: losses by size, budget and seed. Plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from windtunnel.study.statistics import Floats

FEWEST_SIZES = 3
"""Below that nothing is said about scale."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One architecture's ladder of s sizes, b budgets and k seeds."""

    name: str
    params: Floats
    """Of each size, as the ladder counts them; (s,), growing."""
    tokens: Floats
    """Trained on in one run; (s, b)."""
    flops: Floats
    """Of one run's training, by the cost model; (s, b)."""
    losses: Floats
    """Final validation losses; NaN for a run without one; (s, b, k)."""
    cost_params: Floats
    """Sizes that the rule gives, measured or not; (c,), growing."""
    cost_flops: Floats
    """FLOPs of training at each of them for one token; (c,)."""

    @property
    def shape(self) -> tuple[int, int, int]:
        s, b, k = self.losses.shape
        return s, b, k

    @property
    def whole(self) -> Floats:
        """Whether every seed of a cell has a loss; (s, b) of 0 and 1."""
        return np.asarray(np.isfinite(self.losses).all(2), dtype=np.float64)

    @property
    def missing(self) -> int:
        """Runs without a loss."""
        return int((~np.isfinite(self.losses)).sum())

    @property
    def means(self) -> Floats:
        """Of log losses over seeds; where a seed is missing 0, and ``whole`` is 0; (s, b)."""
        with np.errstate(invalid="ignore"):
            mean = np.log(self.losses).mean(2)
        return np.asarray(np.where(self.whole > 0, mean, 0.0))

    def columns(self) -> Floats:
        """Parameters and tokens of each cell; (s·b, 2)."""
        params = np.broadcast_to(self.params[:, None], self.tokens.shape)
        return np.stack([params.ravel(), self.tokens.ravel()], 1)

    def first_sizes(self, count: int) -> Measured:
        """The ladder without its largest sizes."""
        return replace(
            self,
            params=self.params[:count],
            tokens=self.tokens[:count],
            flops=self.flops[:count],
            losses=self.losses[:count],
        )
