"""The residual of the normalized transformer, nGPT (Loshchilov et al. 2024, arXiv 2410.01131)."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from windtunnel.nn.component import ComponentConfig, Residual, Scope, register
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.initialize import Init, constant
from windtunnel.nn.norms.affine import length
from windtunnel.nn.ops.wide import wide

_LEAST = 1e-6
"""The least length to divide by: only zeros are shorter."""


class SlerpConfig(ComponentConfig):
    """``N(N(x) + α·(N(y) − N(x)))`` with N(x) = x/‖x‖ and α learned for each channel.

    A step on the sphere from the stream towards the branch's output. All of the model's vectors
    then have length 1, so the branches want inputs of another length: norms such as `{type: cosine,
    length: …}`.
    """

    type: Literal["slerp"] = "slerp"
    alpha: float = Field(0.05, gt=0, allow_inf_nan=False)
    """What α starts at; the paper has about 1/layers."""
    scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    """What the parameter behind α starts at: the smaller, the faster α learns; 1/√d_model when left
    out."""

    def resolve(self, scope: Scope) -> Self:
        return self.replace(scale=self.scale or scope.d_model**-0.5)

    def cost(self, scope: Scope, t: Num) -> Cost:
        d = scope.d_model
        kept = 4 * d + 6
        return Cost(params=d, activation_values=kept, wide_values=kept, working_values=5 * d)


@register("residual")
class SlerpResidual(Residual[SlerpConfig]):
    """N(N(x) + α·(N(y) − N(x))), α = |eigen_rate|·alpha/scale (eqs. 10 and 11; section 2.5), in
    float32; ``eigen_rate`` (d,)."""

    Config = SlerpConfig

    def __init__(self, config: SlerpConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        assert config.scale is not None, "an unresolved config was built"
        self.factor = config.alpha / config.scale
        self.eigen_rate = nn.Parameter(torch.empty(scope.d_model))

    def initializers(self) -> dict[str, Init]:
        return {"eigen_rate": constant(self.config.alpha / self.factor)}

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        stream, branch = _unit(wide(x)), _unit(wide(y))
        step = wide(self.eigen_rate).abs() * self.factor * (branch - stream)
        return _unit(stream + step).to(x.dtype)


def _unit(x: Tensor) -> Tensor:
    return x / length(x).clamp(min=_LEAST)
