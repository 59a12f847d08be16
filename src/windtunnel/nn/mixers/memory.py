"""Attention to learned keys and values: a memory of what is always true.

After the memory layers of LMPlay (jmward01/lmplay, its `nnm` experiments) and the persistent
memory of Sukhbaatar et al. 2019 (arXiv 1907.01470, eq. 6), here without any token's keys beside.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from windtunnel.nn.component import ComponentConfig, Mixer, Scope, Span, filled, register
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.initialize import Init, normal
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.ops.attention import attend


class MemoryConfig(ComponentConfig):
    """``out(softmax(scale · q Kᵀ) V)`` with learned K and V: each token reads the same slots.

    It looks at no other token, so it suits any direction and keeps no state.
    """

    type: Literal["memory"] = "memory"
    num_slots: int = Field(64, ge=2)
    """Learned keys, and values, of each head."""
    num_heads: int | None = Field(None, ge=1)
    """Heads of queries; d_model / head_dim when left out (with heads of 64)."""
    head_dim: int | None = Field(None, ge=1)
    """Width of a head; d_model / num_heads when left out."""
    scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Factor of the logits; 1/√head_dim when left out."""
    bias: bool = False
    """Whether queries and the output have a bias."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the attention weights, in training."""

    def resolve(self, scope: Scope) -> Self:
        d = scope.d_model
        head_dim = self.head_dim or (d // self.num_heads if self.num_heads else min(64, d))
        heads = self.num_heads or d // max(1, head_dim)
        if heads * head_dim != d and None in (self.num_heads, self.head_dim):
            raise ValueError(
                f"{heads} heads of {head_dim} do not make d_model {d}; give num_heads and head_dim"
            )
        scale = self.scale or head_dim**-0.5
        return self.replace(num_heads=heads, head_dim=head_dim, scale=scale)

    def cost(self, scope: Scope, t: Num) -> Cost:
        d, width, m = scope.d_model, filled(self.num_heads) * filled(self.head_dim), self.num_slots
        read = Cost(params=2 * width * m, forward_flops=4 * width * m, decode_flops=4 * width * m)
        softmax = filled(self.num_heads) * (1 + (self.dropout > 0) * (3 * m - 1))
        return (
            linear_cost(d, width, bias=self.bias)
            + linear_cost(width, d, bias=self.bias)
            + read
            + Cost(activation_values=d + 2 * width + softmax)
        )


class MemoryState(NamedTuple):
    """Nothing: no token depends on another."""


@register("mixer")
class Memory(Mixer[MemoryConfig]):
    """q = W_q x, y = W_o softmax(scale · q Kᵀ) V; ``keys`` and ``values`` (h, slots, k).

    Keys and values start at N(0, 1), the size of a projected token's.
    """

    Config = MemoryConfig

    def __init__(self, config: MemoryConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        h, k, d = filled(config.num_heads), filled(config.head_dim), scope.d_model
        self.q = Linear(d, h * k, bias=config.bias)
        self.keys = nn.Parameter(torch.empty(h, config.num_slots, k))
        self.values = nn.Parameter(torch.empty(h, config.num_slots, k))
        self.out = Linear(h * k, d, bias=config.bias, gain=residual_gain(scope))

    def initializers(self) -> dict[str, Init]:
        return {"keys": normal(1.0), "values": normal(1.0)}

    def initial_state(self, batch: int) -> MemoryState:
        return MemoryState()

    def extend(self, x: Tensor, state: MemoryState, span: Span) -> tuple[Tensor, MemoryState]:
        return self.forward(x, span), state

    def forward(self, x: Tensor, span: Span) -> Tensor:
        config = self.config
        assert config.scale is not None, "an unresolved config was built"
        # All tokens of all rows stand as one sequence, so that no row needs its own keys.
        q = self.q(x).flatten(0, 1).unflatten(1, (filled(config.num_heads), -1))
        y = attend(
            q.transpose(0, 1)[None],
            self.keys[None],
            self.values[None],
            scale=config.scale,
            dropout=config.dropout if self.training else 0.0,
        )
        joined: Tensor = self.out(y[0].transpose(0, 1).flatten(1))
        return joined.view_as(x)
