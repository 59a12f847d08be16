"""ReZero (Bachlechner et al. 2020, arXiv 2003.04887, eq. 2)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from windtunnel.nn.component import ComponentConfig, Residual, Scope, register
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.initialize import Init, constant


class ReZeroConfig(ComponentConfig):
    """``x + g·y`` with one learned number g, near 0 at the start: each layer begins as nothing.

    The paper starts g at 0, where the branch's own weights have no gradient for a step; 1e-3, as
    in performer-pytorch, has the same effect without that.
    """

    type: Literal["rezero"] = "rezero"
    init: float = Field(1e-3, allow_inf_nan=False)
    """What g starts at."""

    def cost(self, scope: Scope, t: Num) -> Cost:
        return Cost(params=1, activation_values=scope.d_model)


@register("residual")
class ReZeroResidual(Residual[ReZeroConfig]):
    """x + gain·y; ``gain`` (1,)."""

    Config = ReZeroConfig

    def __init__(self, config: ReZeroConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self.gain = nn.Parameter(torch.empty(1))

    def initializers(self) -> dict[str, Init]:
        return {"gain": constant(self.config.init)}

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.gain * y
