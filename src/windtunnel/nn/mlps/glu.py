"""Gated linear units as a feed-forward (Shazeer 2020, arXiv 2002.05202, eq. 6)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from windtunnel.nn.activations import ACTIVATIONS, Activation, kept_values
from windtunnel.nn.component import MLP, Scope, filled, register
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.mlps.width import WidthConfig


class GatedConfig(WidthConfig):
    """``down(activation(gate(x)) · up(x))``; d_ff is 8/3·d_model unless told, for equal parameters.

    With silu it is SwiGLU, with gelu GeGLU, with relu ReGLU.
    """

    default_ratio: ClassVar[float] = 8 / 3
    unwritten_defaults: ClassVar[frozenset[str]] = frozenset({"fused"})

    type: Literal["glu"] = "glu"
    activation: Activation = "silu"
    """The elementwise function, on the gate."""
    fused: bool = False
    """Whether gate and up are one map to 2·d_ff, the gate first: one product in place of two."""

    def cost(self, scope: Scope, t: Num) -> Cost:
        d, f = scope.d_model, filled(self.d_ff)
        # A half of a fused map is kept with its other half.
        kept = 2 + (self.activation == "relu2") if self.fused else kept_values(self.activation)
        hidden = f * (kept + 2 + (self.dropout > 0))
        return (
            linear_cost(d, f, bias=self.bias) * 2
            + linear_cost(f, d, bias=self.bias)
            + Cost(activation_values=d + hidden)
        )


@register("mlp")
class GatedMLP(MLP[GatedConfig]):
    """y = down(dropout(activation(gate(x)) · up(x))): b t d -> b t f -> b t d.

    Fused, ``up`` (2f, d) holds the rows of the gate, then those of up.
    """

    Config = GatedConfig

    def __init__(self, config: GatedConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, f = scope.d_model, filled(config.d_ff)
        self.gate = None if config.fused else Linear(d, f, bias=config.bias)
        self.up = Linear(d, f * (1 + config.fused), bias=config.bias)
        self.down = Linear(f, d, bias=config.bias, gain=residual_gain(scope))
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.up(x).chunk(2, -1) if self.gate is None else (self.gate(x), self.up(x))
        hidden = self.activation(gate) * up
        y: Tensor = self.down(F.dropout(hidden, self.config.dropout, self.training))
        return y
