"""A residual with fixed factors."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field
from torch import Tensor

from windtunnel.nn.component import ComponentConfig, Residual, Scope, register
from windtunnel.nn.cost import Cost, Num


class ScaledConfig(ComponentConfig):
    """``stream·x + branch·y`` with fixed factors (DeepNet, arXiv 2203.00555, scales the stream).

    The map that ends a branch starts smaller the deeper the stack is, under any residual (GPT-2's
    1/√(2·layers)); the factors here multiply on top of that, the default of `branch` too.
    """

    type: Literal["scaled"] = "scaled"
    stream: float = Field(1.0, allow_inf_nan=False)
    """Factor of the stream."""
    branch: float | None = Field(None, allow_inf_nan=False)
    """Factor of the branch's output; 1/√(2·layers) when left out."""

    def resolve(self, scope: Scope) -> Self:
        if self.branch is not None:
            return self
        return self.replace(branch=(2 * scope.num_layers) ** -0.5)

    def cost(self, scope: Scope, t: Num) -> Cost:
        return Cost()


@register("residual")
class ScaledResidual(Residual[ScaledConfig]):
    """stream·x + branch·y."""

    Config = ScaledConfig

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        assert self.config.branch is not None, "an unresolved config was built"
        return self.config.stream * x + self.config.branch * y
