"""LayerNorm (Ba et al. 2016, arXiv 1607.06450)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from windtunnel.nn.component import Scope, register
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.norms.affine import AffineConfig, AffineNorm


class LayerNormConfig(AffineConfig):
    """``(x − mean) / √(variance + eps) · weight + bias``."""

    type: Literal["layernorm"] = "layernorm"
    bias: bool = True
    """Whether a bias for each channel is learned."""
    eps: float = Field(1e-5, gt=0, allow_inf_nan=False)
    """Added to the variance."""

    def cost(self, scope: Scope, t: Num) -> Cost:
        d = scope.d_model
        return Cost(params=d * self.affine + d * self.bias, activation_values=d + 2)


@register("norm")
class LayerNorm(AffineNorm[LayerNormConfig]):
    """y = (x − mean(x)) / √(var(x) + eps) · weight + bias, over the last dimension."""

    Config = LayerNormConfig

    def forward(self, x: Tensor) -> Tensor:
        # torch computes bfloat16 in float32 within
        return F.layer_norm(x, (self.d_model,), self.weight, self.bias, self.config.eps)
