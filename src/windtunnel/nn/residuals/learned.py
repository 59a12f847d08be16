"""A residual whose two factors are learned."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from windtunnel.nn.component import ComponentConfig, Residual, Scope, register
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.initialize import Init, constant


class LearnedConfig(ComponentConfig):
    """``α·x + β·y`` with learned α and β, one of each, or one for every channel."""

    type: Literal["learned"] = "learned"
    per: Literal["scalar", "channel"] = "scalar"
    """One factor for all channels, or one for each."""
    alpha: float = Field(1.0, allow_inf_nan=False)
    """What α, the factor of the stream, starts at."""
    beta: float = Field(1.0, allow_inf_nan=False)
    """What β, the factor of the branch's output, starts at."""

    def cost(self, scope: Scope, t: Num) -> Cost:
        width = 1 if self.per == "scalar" else scope.d_model
        return Cost(params=2 * width, activation_values=2 * scope.d_model)


@register("residual")
class LearnedResidual(Residual[LearnedConfig]):
    """alpha·x + beta·y; both (1,) or (d,)."""

    Config = LearnedConfig

    def __init__(self, config: LearnedConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        width = 1 if config.per == "scalar" else scope.d_model
        self.alpha = nn.Parameter(torch.empty(width))
        self.beta = nn.Parameter(torch.empty(width))

    def initializers(self) -> dict[str, Init]:
        return {"alpha": constant(self.config.alpha), "beta": constant(self.config.beta)}

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.alpha * x + self.beta * y
