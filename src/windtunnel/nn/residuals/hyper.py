"""Hyper-connections (Zhu et al. 2024, arXiv 2409.19606)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.nn.component import ComponentConfig, Scope, register
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.initialize import Init, constant, given
from windtunnel.nn.ops.wide import wide, wide_linear
from windtunnel.nn.streams import Links, StreamsConfig, StreamsResidual

_SCALE = 0.01
_EPS = 1e-6


class HyperConfig(StreamsConfig):
    """``X ← A_rᵀ X + b yᵀ`` for n streams X (n, d), where the branch that gives y reads ``a_mᵀ X``.

    a_m, A_r and b are learned; `dynamic` adds to each what the token's own streams say. At the
    start branch k reads stream k mod n and writes 1 to all: the plain residual network, exactly.
    """

    type: Literal["hyper"] = "hyper"
    dynamic: bool = True
    """Whether the links depend on the token: each stream x_i, normed, adds s·tanh(W x_i)."""

    def cost(self, scope: Scope, t: Num) -> Cost:
        n, d, predicted = self.streams, scope.d_model, self.streams * (self.streams + 2)
        flops = 2 * n * d * (n + 1 + (n + 2) * self.dynamic)
        kept = n * d + 2 * predicted + n
        return Cost(
            params=predicted + ((n + 2) * d + 2) * self.dynamic,
            forward_flops=flops,
            decode_flops=flops,
            activation_values=n * d + d + kept * self.dynamic,
            wide_values=(3 * n * d + predicted + n) * self.dynamic,
            working_values=(2 + 2.2 * self.dynamic) * n * d,
        )


@register("residual")
class HyperResidual(StreamsResidual[HyperConfig]):
    """The streams after a branch (section 2.1), with links by section 2.2 where ``dynamic``.

    ``write`` (n,) is b, ``read_from`` (n,) a_m, ``mix`` (n·n,) A_r, row by row: [from, to]; they
    are vectors, as the paper lets no weight decay act on them. ``predict`` (n + 2, d) holds the
    rows of W_β, W_m and W_r; ``scale`` (2,) is s_β and s_α. The start: W = 0 and s = 0.01.

    Deviations: the norm of the predicted links is an RMS norm without a weight, which W would
    absorb; the streams end in their mean and not their sum.
    """

    Config = HyperConfig

    def __init__(self, config: HyperConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        n = config.streams
        self.branch = scope.branch
        self.write = nn.Parameter(torch.empty(n))
        self.read_from = nn.Parameter(torch.empty(n))
        self.mix = nn.Parameter(torch.empty(n * n))
        if config.dynamic:
            self.predict = nn.Parameter(torch.empty(n + 2, scope.d_model))
            self.scale = nn.Parameter(torch.empty(2))

    @classmethod
    def examples(cls) -> tuple[ComponentConfig, ...]:
        return HyperConfig(), HyperConfig(streams=3, dynamic=False)

    def initializers(self) -> dict[str, Init]:
        unit = torch.eye(self.config.streams, device="cpu")
        own = unit[self.branch % self.config.streams]
        return {
            "write": constant(1.0),
            "read_from": given(lambda shape, generator: own),
            "mix": given(lambda shape, generator: unit.flatten()),
            "predict": constant(0.0),
            "scale": constant(_SCALE),
        }

    def links(self, x: Tensor) -> Links:
        n = self.config.streams
        static = torch.cat((self.write[:, None], self.read_from[:, None], self.mix.view(n, n)), 1)
        if self.config.dynamic:
            normed = F.rms_norm(wide(x), x.shape[-1:], eps=_EPS)
            scale = torch.cat((self.scale[:1], self.scale[1:].expand(n + 1)))
            said = wide_linear(normed, self.predict).tanh()  # b t n d -> b t n (2 + n)
            factors = (wide(static) + scale * said).to(x.dtype)
        else:
            factors = static.expand(*x.shape[:-1], -1)
        return Links(read=factors[..., 1], mix=factors[..., 2:].mT, write=factors[..., 0])
