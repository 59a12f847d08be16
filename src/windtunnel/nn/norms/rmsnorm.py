"""RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from windtunnel.nn.component import Scope, register
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.norms.affine import AffineConfig, AffineNorm
from windtunnel.nn.ops.wide import wide


class RMSNormConfig(AffineConfig):
    """``x / √(mean(x²) + eps) · weight + bias``."""

    type: Literal["rmsnorm"] = "rmsnorm"
    eps: float = Field(1e-6, gt=0, allow_inf_nan=False)
    """Added to the mean square."""
    unit_offset: bool = False
    """Multiplies by 1 + weight, and the weight starts at 0, as Gemma does: weight decay then pulls
    the gain to 1."""

    @model_validator(mode="after")
    def _offset_of_a_weight(self) -> Self:
        if self.unit_offset and not self.affine:
            raise ValueError("unit_offset has no effect without affine")
        return self

    def cost(self, scope: Scope, t: Num) -> Cost:
        d = scope.d_model
        kept = d + 1 + d * self.affine
        return Cost(
            params=d * self.affine + d * self.bias,
            activation_values=kept,
            wide_values=kept,
            working_values=4 * d,
        )


@register("norm")
class RMSNorm(AffineNorm[RMSNormConfig]):
    """y = x / √(mean(x²) + eps) · weight + bias, over the last dimension."""

    Config = RMSNormConfig

    def __init__(self, config: RMSNormConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self.offset = float(config.unit_offset)
        self.start = 1.0 - self.offset

    def forward(self, x: Tensor) -> Tensor:
        shape, eps = (self.d_model,), self.config.eps
        if self.bias is None and not self.config.unit_offset:
            return F.rms_norm(x, shape, self.weight, eps)  # in float32 within
        weight = None if self.weight is None else wide(self.weight) + self.offset
        y = F.rms_norm(wide(x), shape, weight, eps)
        if self.bias is not None:
            y = y + wide(self.bias)
        return y.to(x.dtype)
