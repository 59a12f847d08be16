"""The plain residual (He et al. 2015, arXiv 1512.03385)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from windtunnel.nn.component import ComponentConfig, Residual, Scope, register
from windtunnel.nn.cost import Cost, Num


class AddConfig(ComponentConfig):
    """``x + y``."""

    type: Literal["add"] = "add"

    def cost(self, scope: Scope, t: Num) -> Cost:
        return Cost()


@register("residual")
class AddResidual(Residual[AddConfig]):
    """x + y."""

    Config = AddConfig

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y
