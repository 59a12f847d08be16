"""ScaleNorm (Nguyen & Salazar 2019, arXiv 1910.05895, eq. 5)."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from torch import Tensor

from windtunnel.nn.component import Scope, register
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.initialize import Init, constant
from windtunnel.nn.norms.affine import AffineConfig, AffineNorm, length
from windtunnel.nn.ops.wide import wide


class ScaleNormConfig(AffineConfig):
    """``g · x / max(‖x‖, eps) + bias`` with one number g, which starts at √d."""

    type: Literal["scalenorm"] = "scalenorm"
    affine: bool = True
    """Whether g is learned; otherwise it stays √d."""
    eps: float = Field(1e-5, gt=0, allow_inf_nan=False)
    """The least length to divide by."""

    def cost(self, scope: Scope, t: Num) -> Cost:
        d = scope.d_model
        kept = d + 2 + d * self.affine
        return Cost(
            params=1 * self.affine + d * self.bias,
            activation_values=kept,
            wide_values=kept,
            working_values=4 * d,
        )


@register("norm")
class ScaleNorm(AffineNorm[ScaleNormConfig]):
    """y = g · x / max(‖x‖₂, eps) + bias, over the last dimension; ``weight`` (1,) is g."""

    Config = ScaleNormConfig

    def __init__(self, config: ScaleNormConfig, scope: Scope) -> None:
        super().__init__(config, scope, width=1)

    def initializers(self) -> dict[str, Init]:
        return {"weight": constant(math.sqrt(self.d_model)), "bias": constant(0.0)}

    def forward(self, x: Tensor) -> Tensor:
        values = wide(x)
        y = values / length(values).clamp(min=self.config.eps)
        y = y * (math.sqrt(self.d_model) if self.weight is None else wide(self.weight))
        if self.bias is not None:
            y = y + wide(self.bias)
        return y.to(x.dtype)
