"""Mamba-2: a state-space model with a scalar decay a head (Dao & Gu 2024, arXiv 2405.21060)."""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.nn.component import Mixer, Scope, Span, filled, register
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.initialize import Init, constant
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.mixers.state_space import (
    SteppedConfig,
    log_of_uniform,
    real_of,
    step_bias,
    wide_zeros,
)
from windtunnel.nn.ops.chunks import even_chunks
from windtunnel.nn.ops.recompute import recomputed
from windtunnel.nn.ops.short_convolution import ShortConvolution, short_convolution_cost
from windtunnel.nn.ops.ssd import ssd, ssd_flops
from windtunnel.nn.ops.wide import wide

_USUAL_HEAD_DIM = 64


class Mamba2Config(SteppedConfig):
    """``out(rmsnorm(ssd(silu(conv([x', B, C]))) · silu(z)))``, all of them linear in x."""

    type: Literal["mamba2"] = "mamba2"
    d_state: int = Field(128, ge=1)
    """Rows of each head's state."""
    head_dim: int | None = Field(None, ge=1)
    """Width of a head; the widest up to 64 that divides the width within when left out."""
    num_groups: int = Field(1, ge=1)
    """Groups of heads; those of a group share B and C, and are normed together."""
    chunk_size: int = Field(64, ge=1)
    """The most tokens in a chunk of the parallel form: changes speed alone."""
    a_min: float = Field(1.0, gt=0, allow_inf_nan=False)
    """The least decay rate −A at the start: uniform between the two."""
    a_max: float = Field(16.0, gt=0, allow_inf_nan=False)
    """The largest decay rate at the start."""
    eps: float = Field(1e-5, gt=0, allow_inf_nan=False)
    """Of the norm: added to the mean square."""
    bias: bool = False
    """Whether the maps into and out of the mixer have a bias."""

    @model_validator(mode="after")
    def _order_of_rates(self) -> Self:
        if self.a_min > self.a_max:
            raise ValueError(f"a_min {self.a_min} is larger than a_max {self.a_max}")
        return self

    def resolve(self, scope: Scope) -> Self:
        config = super().resolve(scope)
        e = filled(config.d_inner)
        head_dim = self.head_dim or next(
            k for k in range(min(_USUAL_HEAD_DIM, e), 0, -1) if e % k == 0
        )
        if e % head_dim:
            raise ValueError(f"heads of {head_dim} do not divide the width within, {e}")
        if e // head_dim % self.num_groups:
            raise ValueError(f"num_groups {self.num_groups} does not divide {e // head_dim} heads")
        return config.replace(head_dim=head_dim)

    def cost(self, scope: Scope, t: Num) -> Cost:
        d, e, n, g = scope.d_model, filled(self.d_inner), self.d_state, self.num_groups
        p = filled(self.head_dim)
        h, mixed = e // p, e + 2 * g * n
        _, chunk = even_chunks(t, self.chunk_size)
        flops = partial(ssd_flops, heads=h, groups=g, n=n, v=p, chunk=self.chunk_size)
        return (
            linear_cost(d, e + mixed + h, bias=self.bias)
            + short_convolution_cost(mixed, self.conv_size, t, bias=self.conv_bias)
            + linear_cost(e, d, bias=self.bias)
            + Cost(
                params=3 * h + e,
                forward_flops=flops(t),
                decode_flops=flops(1),
                state_values=h * n * p,
                # x; the projection, of which z and Δ are kept; the convolution's output; what out
                # reads; the first state
                activation_values=d + (e + mixed + h) + mixed + e + h * n * p / t,
                wide_values=h * n * p / t,
                # computed again in the backward, as measured: values, squares, states of chunks
                working_values=4 * e + 5 * h * chunk + 6 * e * n / chunk,
            )
        )


class Mamba2State(NamedTuple):
    """What Mamba-2 remembers."""

    conv: Tensor
    """(b, conv_size − 1, e + 2·groups·n): inputs of the short convolution."""
    ssm: Tensor
    """(b, h, n, p), in float32 or wider"""


@register("mixer")
class Mamba2(Mixer[Mamba2Config]):
    """[z, x', B, C, δ] = W_in x; [u, B, C] = silu(conv([x', B, C])); Δ = softplus(δ + b_Δ);
    S_t = exp(−Δ_t exp(a_log)) S_{t−1} + Δ_t B_t u_tᵀ; y = W_out rmsnorm((Sᵀ C + D u) · silu(z)).

    One Δ, decay rate and D for each head of p channels; each group of heads has its own B and C and
    is normed by itself, as in the published code. The rates exp(``a_log``) start uniform in
    [a_min, a_max], D = ``skip`` at 1, the norm's weight at 1, Δ as in Mamba. Parameters:
    ``in_proj`` (rows z, x', B, C, δ), ``conv``, ``dt_bias``, ``a_log``, ``skip``, ``norm_weight``,
    ``out``.
    """

    Config = Mamba2Config

    def __init__(self, config: Mamba2Config, scope: Scope) -> None:
        super().__init__(config, scope)
        d, e = scope.d_model, filled(config.d_inner)
        h = e // filled(config.head_dim)
        mixed = e + 2 * config.num_groups * config.d_state
        self.in_proj = Linear(d, e + mixed + h, bias=config.bias)
        self.conv = ShortConvolution(mixed, config.conv_size, bias=config.conv_bias)
        self.dt_bias = nn.Parameter(torch.empty(h))
        self.a_log = nn.Parameter(torch.empty(h))
        self.skip = nn.Parameter(torch.empty(h))
        self.norm_weight = nn.Parameter(torch.empty(e))
        self.out = Linear(e, d, bias=config.bias, gain=residual_gain(scope))

    def initializers(self) -> dict[str, Init]:
        config = self.config
        return {
            "dt_bias": step_bias(config.dt_min, config.dt_max),
            "a_log": log_of_uniform(config.a_min, config.a_max),
            "skip": constant(1.0),
            "norm_weight": constant(1.0),
        }

    def initial_state(self, batch: int) -> Mamba2State:
        p = filled(self.config.head_dim)
        shape = (batch, len(self.a_log), self.config.d_state, p)
        return Mamba2State(self.conv.initial_state(batch), wide_zeros(self.a_log, *shape))

    def extend(self, x: Tensor, state: Mamba2State, span: Span) -> tuple[Tensor, Mamba2State]:
        e, h = len(self.norm_weight), len(self.a_log)
        z, mixed, step = self.in_proj(x).split((e, len(self.conv.weight), h), dim=-1)
        mixed, conv = self.conv(mixed, state.conv, span)
        operation = partial(_mix, config=self.config, real=real_of(span))
        weights = (self.dt_bias, self.a_log, self.skip, self.norm_weight)
        y, ssm = recomputed(operation, mixed, step, z, *weights, state.ssm)
        return self.out(y), Mamba2State(conv, ssm)


def _mix(
    mixed: Tensor,
    step: Tensor,
    z: Tensor,
    dt_bias: Tensor,
    a_log: Tensor,
    skip: Tensor,
    norm_weight: Tensor,
    state: Tensor,
    *,
    config: Mamba2Config,
    real: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """From the convolution's output to what ``out`` reads, in float32 or wider."""
    dtype = mixed.dtype
    e, width = len(norm_weight), config.num_groups * config.d_state
    u, b, c = torch.split(F.silu(wide(mixed)), [e, width, width], dim=-1)
    delta = F.softplus(wide(step) + wide(dt_bias))  # b t h
    if real is not None:
        delta = delta.masked_fill(~real[..., None], 0.0)
    u = torch.unflatten(u, -1, (len(a_log), -1))
    b, c = (torch.unflatten(part, -1, (config.num_groups, -1)).transpose(1, 2) for part in (b, c))
    y, state = ssd(
        c,
        b,
        (u * delta[..., None]).transpose(1, 2),
        (delta * -wide(a_log).exp()).transpose(1, 2),
        state,
        chunk=config.chunk_size,
    )
    y = (y.transpose(1, 2) + u * wide(skip)[:, None]).flatten(2) * F.silu(wide(z))
    y = torch.unflatten(y, -1, (config.num_groups, -1))
    y = F.rms_norm(y, y.shape[-1:], None, config.eps).flatten(2) * wide(norm_weight)
    return y.to(dtype), state
