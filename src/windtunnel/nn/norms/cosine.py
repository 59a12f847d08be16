"""Cosine norm: every vector on a sphere, so that products of two are cosines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from windtunnel.nn.component import Scope, register
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.norms.affine import AffineConfig, AffineNorm, length
from windtunnel.nn.ops.wide import wide


class CosineNormConfig(AffineConfig):
    """``length · x / max(‖x‖, eps) · weight + bias`` with a weight for each channel.

    With length √d it is RMSNorm but for where eps stands.
    """

    type: Literal["cosine"] = "cosine"
    length: float = Field(1.0, gt=0)
    """The length of the output where weight is 1 and bias 0."""
    eps: float = Field(1e-6, gt=0, allow_inf_nan=False)
    """The least length to divide by."""

    def cost(self, scope: Scope, t: Num) -> Cost:
        d = scope.d_model
        kept = d + 2 + d * self.affine
        return Cost(
            params=d * self.affine + d * self.bias,
            activation_values=kept,
            wide_values=kept,
            working_values=4 * d,
        )


@register("norm")
class CosineNorm(AffineNorm[CosineNormConfig]):
    """y = length · x / max(‖x‖₂, eps) · weight + bias, over the last dimension."""

    Config = CosineNormConfig

    def forward(self, x: Tensor) -> Tensor:
        values = wide(x)
        y = values / (length(values).clamp(min=self.config.eps) / self.config.length)
        if self.weight is not None:
            y = y * wide(self.weight)
        if self.bias is not None:
            y = y + wide(self.bias)
        return y.to(x.dtype)
