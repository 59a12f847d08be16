"""No norm."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from windtunnel.nn.component import ComponentConfig, Norm, Scope, register
from windtunnel.nn.cost import Cost, Num


class NoNormConfig(ComponentConfig):
    """No norm: ``x``."""

    type: Literal["none"] = "none"

    def cost(self, scope: Scope, t: Num) -> Cost:
        return Cost()


@register("norm")
class NoNorm(Norm[NoNormConfig]):
    """y = x."""

    Config = NoNormConfig

    def forward(self, x: Tensor) -> Tensor:
        return x
