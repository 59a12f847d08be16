"""No residual."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from windtunnel.nn.component import ComponentConfig, Residual, Scope, register
from windtunnel.nn.cost import Cost, Num


class NoResidualConfig(ComponentConfig):
    """No residual: the branch's output replaces the stream, as in plain recurrent stacks."""

    type: Literal["none"] = "none"

    def cost(self, scope: Scope, t: Num) -> Cost:
        return Cost()


@register("residual")
class NoResidual(Residual[NoResidualConfig]):
    """y."""

    Config = NoResidualConfig

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y
