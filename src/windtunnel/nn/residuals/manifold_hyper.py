"""Manifold-constrained hyper-connections, mHC (Xie et al. 2025, arXiv 2512.24880)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.nn.component import ComponentConfig, Scope, register
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.initialize import Init, constant, given
from windtunnel.nn.ops.recompute import recomputed
from windtunnel.nn.ops.wide import wide, wide_linear
from windtunnel.nn.streams import Links, StreamsConfig, StreamsResidual

_SCALE = 0.01
_EPS = 1e-6
_OWN = 0.9
"""How much a branch reads of its stream at the start; the others share the rest."""
_STAYS = 0.98
"""How much of a stream stays in it at the start."""


class ManifoldHyperConfig(StreamsConfig):
    """``X ← M X + w yᵀ`` for n streams X (n, d), where the branch that gives y reads ``rᵀ X``.

    Predicted for each token from all its streams, and bounded: r by a sigmoid, w by twice a
    sigmoid, and M is doubly stochastic, so that no depth makes the streams explode or vanish. At
    the start r sums to 1 and w is 1: the plain residual network, to rounding.
    """

    type: Literal["manifold_hyper"] = "manifold_hyper"
    streams: int = Field(4, ge=2)
    """Vectors of d_model that the residual stream is wide, n; the same in all layers of a stack."""
    iterations: int = Field(20, ge=1)
    """Rounds of Sinkhorn and Knopp that make M doubly stochastic: columns, then rows."""

    def cost(self, scope: Scope, t: Num) -> Cost:
        n, d = self.streams, scope.d_model
        predicted = n * (n + 2)
        flops = 2 * n * d * (n + 1 + predicted)
        return Cost(
            params=predicted * (n * d + 1) + 3,
            forward_flops=flops,
            decode_flops=flops,
            activation_values=2 * n * d + d + 1 + 2 * predicted + n * n + 3 * n,
            wide_values=3 * n * d + 1 + 2 * predicted + 3 * n,
            working_values=4.6 * n * d,
        )


@register("residual")
class ManifoldHyperResidual(StreamsResidual[ManifoldHyperConfig]):
    """The streams after a branch (sections 3 and 4): with x all streams of a token as one vector,
    normed, z = α·(W x) + bias, r = σ(z_r), w = 2σ(z_w) and M = sinkhorn(exp(z_M)), [to, from].

    ``predict`` (n² + 2n, n·d) holds the rows of r, of w and of M; ``bias`` alike; ``scale`` (3,)
    is α of each. W starts at 0 and α at 0.01. Where the biases start is a choice of ours: branch k
    reads 0.9 of stream k mod n, and 0.98 of a stream stays in it. (Were all streams read and mixed
    alike, they would stay alike for ever.)

    Deviations: the norm has no weight, which W would absorb; the streams end in their mean.
    """

    Config = ManifoldHyperConfig

    def __init__(self, config: ManifoldHyperConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        n = config.streams
        self.branch = scope.branch
        self.predict = nn.Parameter(torch.empty(n * (n + 2), n * scope.d_model))
        self.scale = nn.Parameter(torch.empty(3))
        self.bias = nn.Parameter(torch.empty(n * (n + 2)))

    @classmethod
    def examples(cls) -> tuple[ComponentConfig, ...]:
        return ManifoldHyperConfig(), ManifoldHyperConfig(streams=3, iterations=4)

    def initializers(self) -> dict[str, Init]:
        n = self.config.streams
        parts = _most(_OWN, n)[self.branch % n].logit(), torch.zeros(n), _most(_STAYS, n).log()
        bias = torch.cat([part.flatten() for part in parts])
        return {
            "predict": constant(0.0),
            "scale": constant(_SCALE),
            "bias": given(lambda shape, generator: bias),
        }

    def links(self, x: Tensor) -> Links:
        n, iterations = self.config.streams, self.config.iterations
        together = wide(x).flatten(-2)  # b t n d -> b t (n d)
        normed = F.rms_norm(together, together.shape[-1:], eps=_EPS)
        said = wide_linear(normed, self.predict)
        scale = torch.cat([s.expand(m) for s, m in zip(self.scale, (n, n, n * n), strict=True)])
        z = scale * said + self.bias
        grid = z[..., 2 * n :].reshape(*z.shape[:-1], n, n)
        (mix,) = recomputed(lambda logits: (doubly_stochastic(logits, iterations),), grid)
        parts = z[..., :n].sigmoid(), mix, 2 * z[..., n : 2 * n].sigmoid()
        return Links(*(part.to(x.dtype) for part in parts))


def doubly_stochastic(logits: Tensor, iterations: int) -> Tensor:
    """exp(logits) (…, n, n), its columns and then its rows divided by their sums, again and again:
    in the limit rows and columns sum to 1 (section 4). In logarithms, so that nothing overflows.

    >>> doubly_stochastic(torch.tensor([[5.0, 0.0], [0.0, 5.0]]), 9).sum(0)
    tensor([1., 1.])
    """
    for _ in range(iterations):
        logits = logits - logits.logsumexp(-2, keepdim=True)
        logits = logits - logits.logsumexp(-1, keepdim=True)
    return logits.exp()


def _most(part: float, n: int) -> Tensor:
    """(n, n): ``part`` on the diagonal, and rows that sum to 1."""
    rest = torch.full((n, n), (1 - part) / (n - 1), device="cpu")
    return rest.fill_diagonal_(part)
