"""Long convolution with an implicit filter (Hyena: Poli et al. 2023, arXiv 2302.10866)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from windtunnel.errors import UsageError
from windtunnel.nn.component import ComponentConfig, Mixer, Scope, Span, filled, register
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.initialize import Init, normal
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.ops.by_position import by_position, of_span
from windtunnel.nn.ops.long_convolution import convolve_one, long_convolution
from windtunnel.nn.ops.short_convolution import ShortConvolution
from windtunnel.nn.ops.wide import wide, wide_linear

_FADED = math.log(100.0)
"""A filter has faded where its window is down to 1%."""


class LongConvConfig(ComponentConfig):
    """``out(gate_out · (h ∗ z + skip · z))``, z = gate_in · value, h a filter over all tokens.

    The filter is a small network of the distance times an exponential decay: Hyena of order 2 as
    the authors' code counts, with one long filter (order − 1). While decoding a token
    costs O(tokens seen): all inputs and the filter's taps are remembered.
    """

    type: Literal["long_conv"] = "long_conv"
    d_hidden: int | None = Field(None, ge=1)
    """Channels that are convolved; d_model when left out."""
    kernel_size: int = Field(3, ge=2)
    """Tokens that the short convolution before the gates sees."""
    filter_width: int = Field(64, ge=1)
    """Width of the filter's network."""
    filter_depth: int = Field(2, ge=1)
    """Hidden layers of the filter's network."""
    filter_waves: int = Field(8, ge=1)
    """Pairs of cosine and sine of the distance that the network reads: so many waves and fewer over
    max_seq_len, down to one."""
    frequency: float = Field(10.0, gt=0, allow_inf_nan=False)
    """Factor inside the network's sines: the higher, the rougher the filters."""
    fast_decay: float = Field(0.3, gt=0, allow_inf_nan=False)
    """The share of max_seq_len after which the fastest channel's filter has faded to 1%."""
    slow_decay: float = Field(1.5, gt=0, allow_inf_nan=False)
    """The share of max_seq_len after which the slowest channel's has; the rest lie between."""
    bias: bool = False
    """Whether the linear maps have a bias."""

    @model_validator(mode="after")
    def _fast_before_slow(self) -> Self:
        if self.fast_decay > self.slow_decay:
            raise ValueError("fast_decay must be at most slow_decay")
        return self

    def resolve(self, scope: Scope) -> Self:
        return self if self.d_hidden is not None else self.replace(d_hidden=scope.d_model)

    def cost(self, scope: Scope, t: Num) -> Cost:
        """The convolution itself is FFTs and sums, which are not products. A forward makes a tap
        for each token of the longest sequence, not for each sequence: those of one are counted."""
        d, n, w = scope.d_model, filled(self.d_hidden), self.filter_width
        sides = 1 if scope.causal else 2
        taps = (
            linear_cost(1 + 2 * self.filter_waves, w, bias=True)
            + linear_cost(w, w, bias=True) * (self.filter_depth - 1)
            + linear_cost(w, sides * n, bias=False)
        )
        before = self.kernel_size - 1
        return (
            linear_cost(d, 3 * n, bias=self.bias)
            + linear_cost(n, d, bias=self.bias)
            + taps
            + Cost(
                params=3 * n * self.kernel_size + n,
                state_values=before * 3 * n,
                state_values_per_token=2 * n,
                activation_values=d + 3 * n * (t + before) / t + 3 * n + (3 + (sides - 1)) * n,
                working_values=10 * n,  # spectra and padded blocks, as measured
                shared_values=t * (4 * sides * n + 3 * w * self.filter_depth),
            )
        )


class ImplicitFilter(nn.Module):
    """h_c(τ) = (W_m sin(ω(… W_1 e(τ)))_c · √(2a_c/L) · exp(−a_c τ/L) (eqs. 7 and 8).

    e(τ) = τ/L and cosine and sine of 2π·i·τ/L for i = 1 … waves, L = max_seq_len. Deviation: the
    factor √(2a/L) gives each channel the energy that a single tap of about 1 would have, whatever
    L; the waves are 1 … waves, where the authors' code spaces as many from 10⁻⁴ to waves − 1. The
    decays a are fixed and evenly spaced from slow to fast, as the authors' are.
    """

    def __init__(self, config: LongConvConfig, scope: Scope) -> None:
        super().__init__()
        n, w = filled(config.d_hidden), config.filter_width
        self.config, self.length, self.width = config, scope.max_seq_len, n
        self.sides = 1 if scope.causal else 2
        widths = [1 + 2 * config.filter_waves, *[w] * config.filter_depth]
        self.hidden = nn.ModuleList(
            Linear(one, other, bias=True, stream="none") for one, other in pairwise(widths)
        )
        self.out = Linear(w, self.sides * n, bias=False, product_only=True, stream="none")

    def forward(self, start: int, end: int) -> Tensor:
        """Taps at distances start … end − 1: (end − start, sides · n).

        In float32 at least: a sine of a large rounded number is noise.
        """
        weight, config = self.out.effective()[0], self.config
        dtype = wide(weight).dtype
        place = torch.arange(start, end, device=weight.device, dtype=dtype)[:, None] / self.length
        waves = torch.arange(1, config.filter_waves + 1, device=weight.device, dtype=dtype)
        angles = 2 * math.pi * place * waves
        x = torch.cat((place, angles.cos(), angles.sin()), dim=1)
        for layer in self.hidden:
            assert isinstance(layer, Linear)
            matrix, bias = layer.effective()
            assert bias is not None, "the filter's maps have biases"
            x = wide_linear(x, matrix, bias)
            x = torch.sin(config.frequency * x)
        fade = torch.linspace(0.0, 1.0, self.width, device=weight.device, dtype=dtype)
        slow, fast = _FADED / config.slow_decay, _FADED / config.fast_decay
        decay = slow + (fast - slow) * fade
        window = (2 * decay / self.length).sqrt() * torch.exp(-decay * place)
        taps = wide_linear(x, weight) * window.repeat(1, self.sides)
        return taps.to(weight.dtype)


class LongConvState(NamedTuple):
    """What a long convolution remembers."""

    short: Tensor
    """(b, kernel_size − 1, 3n): the short convolution's last inputs"""
    inputs: Tensor
    """(b, s, n): what was convolved, by position"""
    taps: Tensor
    """(b, s, n): the filter, the same in each row"""


@register("mixer")
class LongConv(Mixer[LongConvConfig]):
    """(v, B, C) = shortconv(W x), z = B · v, y = W_o (C · (h ∗ z + D · z)): Hyena of order 2 (eq. 4
    with its operator D, the skip of the authors' code, which has order − 1 long filters too).

    ``up`` has the rows of v, B and C; ``short`` convolves each channel; ``filter`` makes h;
    ``skip`` is D (n,), from N(0, 1). Without causality h has a second side, for what comes after a
    token, and only whole sequences can be read.
    """

    Config = LongConvConfig

    def __init__(self, config: LongConvConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, n = scope.d_model, filled(config.d_hidden)
        self.causal = scope.causal
        self.up = Linear(d, 3 * n, bias=config.bias)
        self.short = ShortConvolution(3 * n, config.kernel_size, bias=False)
        self.filter = ImplicitFilter(config, scope)
        self.skip = nn.Parameter(torch.empty(n))
        self.out = Linear(n, d, bias=config.bias, gain=residual_gain(scope))

    def initializers(self) -> dict[str, Init]:
        return {"skip": normal(1.0)}

    def initial_state(self, batch: int) -> LongConvState:
        empty = self.skip.new_empty(batch, 0, self.skip.shape[0])
        return LongConvState(self.short.initial_state(batch), empty, empty)

    def forward(self, x: Tensor, span: Span) -> Tensor:
        z, gate, _ = self._inputs(x, self.short.initial_state(len(x)), span)
        inputs = by_position(z[:, :0], z, span)
        mixed = of_span(self._convolve(inputs, self.filter(0, inputs.shape[1])), span)
        return self._join(mixed, z, gate)

    def extend(self, x: Tensor, state: LongConvState, span: Span) -> tuple[Tensor, LongConvState]:
        """Raises UsageError when a bidirectional convolution is asked to continue."""
        if not self.causal and state.inputs.shape[1] > 0:
            raise UsageError("a bidirectional convolution reads whole sequences, not chunks")
        z, gate, short = self._inputs(x, state.short, span)
        inputs = by_position(state.inputs, z, span)
        taps = self.filter(state.taps.shape[1], inputs.shape[1])
        n = self.skip.shape[0]
        more = taps[None, :, :n].expand(len(x), -1, -1)
        kept = torch.cat((state.taps, more), dim=1)
        if self.causal and x.shape[1] == 1:
            mixed = convolve_one(inputs, kept, span.positions)
        else:
            mixed = of_span(self._convolve(inputs, kept[0] if self.causal else taps), span)
        return self._join(mixed, z, gate), LongConvState(short, inputs, kept)

    def _inputs(self, x: Tensor, state: Tensor, span: Span) -> tuple[Tensor, Tensor, Tensor]:
        """b t d -> what is convolved and its gate, both b t n, and the short state after."""
        short, state = self.short(self.up(x), state, span)
        v, gate_in, gate_out = short.chunk(3, dim=-1)
        return v * gate_in, gate_out, state

    def _convolve(self, inputs: Tensor, taps: Tensor) -> Tensor:
        """Tokens by position (b, s, n) and taps (s, sides · n) -> b s n."""
        if inputs.shape[1] == 0:  # pads alone: the filter's gradient is 0, not missing
            return inputs * taps[:, : inputs.shape[2]].to(inputs.dtype)
        if self.causal:
            return long_convolution(inputs, taps)
        before, after = taps.chunk(2, dim=1)
        after = torch.cat((torch.zeros_like(after[:1]), after[1:]))  # a token itself counts once
        ahead = long_convolution(inputs.flip(1), after).flip(1)
        return long_convolution(inputs, before) + ahead

    def _join(self, mixed: Tensor, z: Tensor, gate: Tensor) -> Tensor:
        y: Tensor = self.out(gate * (mixed + self.skip * z))
        return y
