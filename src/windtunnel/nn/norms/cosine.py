"""Cosine norm: every vector on a sphere, so that products of two are cosines."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from windtunnel.nn.component import ComponentConfig, Scope, register
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.norms.affine import AffineConfig, AffineNorm, length
from windtunnel.nn.ops.wide import wide

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class CosineNormConfig(AffineConfig):
    """``length · x / max(‖x‖, eps) · weight/scale + bias`` with a weight for each channel.

    With length √d it is RMSNorm but for where eps stands.
    """

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset({"scale"})

    type: Literal["cosine"] = "cosine"
    length: Positive | Literal["sqrt"] = 1.0
    """The length of the output at the start; `sqrt` is √d, d the width of what is normed."""
    scale: Positive | Literal["rsqrt"] = 1.0
    """What the weight starts at: the smaller, the faster the output's length learns; `rsqrt` is
    1/√d."""
    eps: float = Field(1e-6, gt=0, allow_inf_nan=False)
    """The least length to divide by."""

    @model_validator(mode="after")
    def _scale_of_a_weight(self) -> Self:
        if self.scale != 1.0 and not self.affine:
            raise ValueError("scale has no effect without affine")
        return self

    def resolve(self, scope: Scope) -> Self:
        root = math.sqrt(scope.d_model)
        values: dict[str, Any] = {}
        if self.length == "sqrt":
            values["length"] = root
        if self.scale == "rsqrt":
            values["scale"] = 1 / root
        return self.replace(**values) if values else self

    @property
    def factor(self) -> float:
        """What a unit vector is multiplied with, besides the weight."""
        assert self.length != "sqrt", "an unresolved config was built"
        assert self.scale != "rsqrt", "an unresolved config was built"
        return self.length / self.scale

    def cost(self, scope: Scope, t: Num) -> Cost:
        d = scope.d_model
        kept = d + 2 + d * self.affine
        return Cost(
            params=d * self.affine + d * self.bias,
            activation_values=kept,
            wide_values=kept,
            working_values=4 * d,
        )


def stretch(norm: ComponentConfig, width: int) -> float:
    """How many times as long a vector of ``width`` numbers of variance 1 is as what a norm makes of
    it: 1 but for a cosine norm, √width over its length."""
    if not isinstance(norm, CosineNormConfig) or norm.length == "sqrt":
        return 1.0
    return math.sqrt(width) / norm.length


@register("norm")
class CosineNorm(AffineNorm[CosineNormConfig]):
    """y = length/scale · x / max(‖x‖₂, eps) · weight + bias, over the last dimension.

    ``weight`` starts at ``scale``, as nGPT's scaling factors do (arXiv 2410.01131, section 2.5).
    """

    Config = CosineNormConfig

    def __init__(self, config: CosineNormConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self.factor = config.factor
        self.start = float(config.scale)

    def forward(self, x: Tensor) -> Tensor:
        values = wide(x)
        y = values / (length(values).clamp(min=self.config.eps) / self.factor)
        if self.weight is not None:
            y = y * wide(self.weight)
        if self.bias is not None:
            y = y + wide(self.bias)
        return y.to(x.dtype)
