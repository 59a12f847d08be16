"""Unified embeddings: the vector of a token is read off a wide table by a small network.

The network is shared by all tokens, so the rare ones learn from the frequent ones; when training is
over it collapses into a plain table. The idea is lmplay's (``unified embedding``, 1x to 16x).
"""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field
from torch import Tensor, nn

from windtunnel.config import Config
from windtunnel.nn.activations import ACTIVATIONS, Activation, kept_values
from windtunnel.nn.component import Scope, filled
from windtunnel.nn.cost import Cost, Num, linear_cost, smaller
from windtunnel.nn.linear import Linear


class UnifiedConfig(Config):
    """``outer(gelu(inner(activation(table[token]))))`` in place of ``table[token]``."""

    factor: float = Field(8.0, ge=1, le=64)
    """Width of the table over d_model."""
    d_hidden: int | None = Field(None, ge=1)
    """Width between the two linear maps; d_model when left out."""
    activation: Activation = "gelu"
    """The elementwise function on the table's rows."""

    def resolve(self, scope: Scope) -> Self:
        """The hidden width filled in."""
        if self.factor * scope.d_model % 1:
            raise ValueError(f"unified.factor {self.factor} of d_model {scope.d_model} is no width")
        return self.replace(d_hidden=self.d_hidden or scope.d_model)

    def width(self, scope: Scope) -> Num:
        """Width of the table."""
        return self.factor * scope.d_model

    def cost(self, scope: Scope, t: Num) -> Cost:
        """Of the network alone, as if as many tokens as can be were different."""
        w, f, d = self.width(scope), filled(self.d_hidden), scope.d_model
        different = smaller(t, scope.vocab_size) / t
        both = linear_cost(w, f, bias=True) + linear_cost(f, d, bias=True)
        kept = w * kept_values(self.activation) + f * kept_values("gelu")
        return Cost(
            params=both.params,
            forward_flops=both.forward_flops * different,
            decode_flops=both.decode_flops,
            activation_values=(kept + 2) * different + 2,  # and both ways of the unique tokens
        )


class UnifiedMap(nn.Module):
    """outer(gelu(inner(activation(row)))): n w -> n f -> n d, both maps with a bias.

    From rows of unit variance the output has the variance std² at the start.
    """

    def __init__(self, config: UnifiedConfig, scope: Scope, std: float) -> None:
        super().__init__()
        w, f, d = int(config.width(scope)), filled(config.d_hidden), scope.d_model
        into = mean_square(config.activation) ** -0.5
        self.inner = Linear(w, f, bias=True, gain=into, stream="none")
        out = std * mean_square("gelu") ** -0.5
        self.outer = Linear(f, d, bias=True, gain=out, stream="none")
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, rows: Tensor) -> Tensor:
        """n w -> n d"""
        hidden = ACTIVATIONS["gelu"](self.inner(self.activation(rows)))
        y: Tensor = self.outer(hidden)
        return y

    def of_tokens(self, tokens: Tensor, table: Tensor) -> Tensor:
        """b t, (V, w) -> b t d: each different token is computed once."""
        unique, places = torch.unique(tokens, return_inverse=True)
        read: Tensor = self(table[unique])
        return read[places]


def mean_square(activation: Activation) -> float:
    """E[activation(z)²] for z ~ N(0, 1).

    >>> round(mean_square("relu"), 6)
    0.5
    """
    step = 1 / 64
    z = torch.arange(-12.0, 12.0, step, dtype=torch.float64, device="cpu")
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return float((ACTIVATIONS[activation](z).square() * density).sum() * step)
