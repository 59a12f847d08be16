"""Gated short convolution (LFM2, arXiv 2511.23404; after H3's shift, arXiv 2212.14052)."""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor

from windtunnel.errors import UsageError
from windtunnel.nn.component import ComponentConfig, Mixer, Scope, Span, filled, register
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.ops.by_position import by_position, of_span
from windtunnel.nn.ops.short_convolution import ShortConvolution

_GATES = {"both": 2, "output": 1, "none": 0}


class ShortConvConfig(ComponentConfig):
    """``out(gate_out · conv(gate_in · value))``, a convolution of each channel over few tokens."""

    type: Literal["short_conv"] = "short_conv"
    d_hidden: int | None = Field(None, ge=1)
    """Channels that are convolved; d_model when left out."""
    kernel_size: int = Field(3, ge=2)
    """Tokens that an output sees: its own and those before it; without causality around it."""
    gates: Literal["both", "output", "none"] = "both"
    """Which gates there are, each a linear map of the input: before and after, or after alone."""
    conv_bias: bool = False
    """Whether the convolution has a bias."""
    bias: bool = False
    """Whether the linear maps have a bias."""

    def resolve(self, scope: Scope) -> Self:
        return self if self.d_hidden is not None else self.replace(d_hidden=scope.d_model)

    def cost(self, scope: Scope, t: Num) -> Cost:
        d, n, gates = scope.d_model, filled(self.d_hidden), _GATES[self.gates]
        before = self.kernel_size - 1
        gated = 0 if gates == 0 else (1 + gates) * n + n
        return (
            linear_cost(d, (1 + gates) * n, bias=self.bias)
            + linear_cost(n, d, bias=self.bias)
            + Cost(
                params=n * self.kernel_size + n * self.conv_bias,
                state_values=before * n,
                activation_values=d + n + n * (t + before) / t + gated,
            )
        )


class ShortConvState(NamedTuple):
    """What a short convolution remembers."""

    inputs: Tensor
    """(b, kernel_size − 1, n): what was convolved last, zeros before the first token"""


@register("mixer")
class ShortConv(Mixer[ShortConvConfig]):
    """(u, B, C) = W x, z_t = Σ_i w_i · (B · u)_{t−i} for each channel, y = W_o (C · z).

    ``up`` has the rows of u, then of B and C where they are; ``conv.weight`` (n, 1, kernel_size)
    has the tap of the current token last. Without causality the kernel stands around its token,
    the longer side before it, and only whole sequences can be read.
    """

    Config = ShortConvConfig

    def __init__(self, config: ShortConvConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, n = scope.d_model, filled(config.d_hidden)
        self.causal = scope.causal
        self.up = Linear(d, (1 + _GATES[config.gates]) * n, bias=config.bias)
        self.conv = ShortConvolution(n, config.kernel_size, bias=config.conv_bias)
        self.out = Linear(n, d, bias=config.bias, gain=residual_gain(scope))

    def initial_state(self, batch: int) -> ShortConvState:
        state = self.conv.initial_state(batch)
        return ShortConvState(state if self.causal else state[:, :0])

    def extend(self, x: Tensor, state: ShortConvState, span: Span) -> tuple[Tensor, ShortConvState]:
        """Raises UsageError when a bidirectional convolution is asked to continue."""
        u, *gates = self.up(x).chunk(1 + _GATES[self.config.gates], dim=-1)
        if len(gates) == 2:
            u = u * gates[0]
        if self.causal:
            z, inputs = self.conv(u, state.inputs, span)
        elif state.inputs.shape[1] == 0:
            z, inputs = self._around(u, span), self.conv.initial_state(len(x))
        else:
            raise UsageError("a bidirectional convolution reads whole sequences, not chunks")
        y: Tensor = self.out(z * gates[-1] if gates else z)
        return y, ShortConvState(inputs)

    def _around(self, u: Tensor, span: Span) -> Tensor:
        """The convolution with the kernel's shorter half ahead of each token: b t n -> b t n."""
        ahead = (self.config.kernel_size - 1) // 2
        inputs = by_position(u[:, :0], u, span)
        after = inputs.new_zeros(inputs.shape[0], ahead, inputs.shape[2])
        inputs = torch.cat((inputs, after), dim=1)
        z, _ = self.conv(
            inputs, self.conv.initial_state(len(u)), Span.of(inputs.shape[1], device=u.device)
        )
        return of_span(z[:, ahead:], span)
