"""The dense feed-forward of the transformer (Vaswani et al. 2017, arXiv 1706.03762, eq. 2)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from windtunnel.nn.activations import ACTIVATIONS, kept_values
from windtunnel.nn.component import MLP, Scope, filled, register
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.mlps.width import WidthConfig


class DenseConfig(WidthConfig):
    """``down(activation(up(x)))``; d_ff is 4·d_model unless told."""

    default_ratio: ClassVar[float] = 4.0

    type: Literal["dense"] = "dense"

    def cost(self, scope: Scope, t: Num) -> Cost:
        d, f = scope.d_model, filled(self.d_ff)
        dropped = 1 + (self.activation == "relu")  # the mask, and relu's output beside the dropped
        hidden = f * (kept_values(self.activation) + dropped * (self.dropout > 0))
        return (
            linear_cost(d, f, bias=self.bias)
            + linear_cost(f, d, bias=self.bias)
            + Cost(activation_values=d + hidden)
        )


@register("mlp")
class DenseMLP(MLP[DenseConfig]):
    """y = down(dropout(activation(up(x)))): b t d -> b t f -> b t d."""

    Config = DenseConfig

    def __init__(self, config: DenseConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, f = scope.d_model, filled(config.d_ff)
        self.up = Linear(d, f, bias=config.bias)
        self.down = Linear(f, d, bias=config.bias, gain=residual_gain(scope))
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.up(x))
        y: Tensor = self.down(F.dropout(hidden, self.config.dropout, self.training))
        return y
