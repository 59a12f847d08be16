"""DeltaNet: linear attention that corrects (Yang et al. 2024, arXiv 2406.06484)."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from windtunnel.config import Choice
from windtunnel.nn.component import (
    ComponentConfig,
    Mixer,
    Norm,
    Scope,
    Span,
    build_component,
    filled,
    register,
)
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.mixers.state_space import divisor, real_of, wide_zeros
from windtunnel.nn.norms.rmsnorm import RMSNormConfig
from windtunnel.nn.ops.chunks import even_chunks
from windtunnel.nn.ops.delta_rule import delta_rule, delta_rule_flops
from windtunnel.nn.ops.recompute import recomputed
from windtunnel.nn.ops.short_convolution import ShortConvolution, short_convolution_cost
from windtunnel.nn.ops.wide import wide

_USUAL_HEAD_DIM = 128
_LEAST_LENGTH = 1e-6
"""Keys shorter than this are not stretched to length 1: at 0 there is no direction."""


class DeltaRuleConfig(ComponentConfig):
    """What the mixers with a delta rule share."""

    num_heads: int | None = Field(None, ge=1)
    """Heads; as few of at most 128 as divide d_model when left out."""
    head_dim: int | None = Field(None, ge=1)
    """Width of a head's queries and keys; d_model / num_heads when left out."""
    value_dim: int | None = Field(None, ge=1)
    """Width of a head's values; head_dim when left out."""
    conv_size: int = Field(4, ge=1)
    """Tokens that the short convolutions see, the current one included."""
    out_norm: Annotated[ComponentConfig, Choice("norm", "rmsnorm")] = RMSNormConfig()
    """Norm of each head's output."""
    chunk_size: int = Field(64, ge=1)
    """The most tokens in a chunk of the parallel form: changes speed alone."""

    def resolve(self, scope: Scope) -> Self:
        d = scope.d_model
        heads = self.num_heads or divisor(d, self.head_dim or _USUAL_HEAD_DIM)
        if self.head_dim is None and d % heads:
            raise ValueError(
                f"num_heads {heads} does not divide d_model {d}; choose a divisor, or give head_dim"
            )
        head_dim = self.head_dim or d // heads
        value_dim = self.value_dim or head_dim
        return self.replace(
            num_heads=heads,
            head_dim=head_dim,
            value_dim=value_dim,
            out_norm=self.out_norm.resolve(scope.inside(heads, value_dim)),
        )

    def cost(self, scope: Scope, t: Num) -> Cost:
        d, h = scope.d_model, filled(self.num_heads)
        k, v = filled(self.head_dim), filled(self.value_dim)
        norm = self.out_norm.cost(scope.inside(h, v), t)
        flops = partial(delta_rule_flops, heads=h, k=k, v=v, chunk=self.chunk_size)
        return (
            linear_cost(d, h * k, bias=False) * 2
            + linear_cost(d, h * v, bias=False)
            + linear_cost(d, h, bias=False)
            + linear_cost(h * v, d, bias=False)
            + short_convolution_cost(h * k, self.conv_size, t, bias=False) * 2
            + short_convolution_cost(h * v, self.conv_size, t, bias=False)
            + Cost(
                params=norm.params,
                forward_flops=flops(t),
                decode_flops=flops(1),
                state_values=h * k * v,
                # x; q, k, v after the convolutions; beta; the normed output that is read
                activation_values=d
                + 2 * h * k
                + 2 * h * v
                + h
                + h * norm.activation_values
                + h * k * v / t,
                wide_values=h * norm.wide_values + h * k * v / t,
                working_values=h * self._working(k, v, t),
            )
        )

    def _working(self, k: Num, v: Num, t: Num) -> Num:
        """What a head computes again in the backward, as measured: queries, keys, values and their
        gradients, the squares of chunks, the states between them."""
        _, chunk = even_chunks(t, self.chunk_size)
        return 6 * (k + v) + 4 * chunk + 2 * k * v / chunk


class DeltaNetConfig(DeltaRuleConfig):
    """``S = S − β k (Sᵀk − v)ᵀ``, ``out(norm(Sᵀ q))``: each token corrects what its key returns."""

    type: Literal["delta_net"] = "delta_net"


class DeltaRuleState(NamedTuple):
    """What a delta rule remembers."""

    q: Tensor
    """(b, conv_size − 1, h·k): inputs of the queries' short convolution."""
    k: Tensor
    """(b, conv_size − 1, h·k)"""
    v: Tensor
    """(b, conv_size − 1, h·v)"""
    s: Tensor
    """(b, h, k, v), in float32 or wider"""


class DeltaRule(Mixer[Any]):
    """Holds the projections ``q``, ``k``, ``v``, ``beta`` and ``out``, the short convolutions
    ``q_conv``, ``k_conv`` and ``v_conv``, and ``out_norm``."""

    def __init__(self, config: DeltaRuleConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, h = scope.d_model, filled(config.num_heads)
        k, v = filled(config.head_dim), filled(config.value_dim)
        self.q = Linear(d, h * k, bias=False)
        self.k = Linear(d, h * k, bias=False)
        self.v = Linear(d, h * v, bias=False)
        self.q_conv = ShortConvolution(h * k, config.conv_size, bias=False)
        self.k_conv = ShortConvolution(h * k, config.conv_size, bias=False)
        self.v_conv = ShortConvolution(h * v, config.conv_size, bias=False)
        self.beta = Linear(d, h, bias=False)
        self.out_norm: Norm[Any] = build_component("norm", config.out_norm, scope.inside(h, v))
        self.out = Linear(h * v, d, bias=False, gain=residual_gain(scope))

    def initial_state(self, batch: int) -> DeltaRuleState:
        config = self.config
        return DeltaRuleState(
            self.q_conv.initial_state(batch),
            self.k_conv.initial_state(batch),
            self.v_conv.initial_state(batch),
            wide_zeros(self.k.weight, batch, config.num_heads, config.head_dim, config.value_dim),
        )

    def extend(self, x: Tensor, state: DeltaRuleState, span: Span) -> tuple[Tensor, DeltaRuleState]:
        q, q_state = self.q_conv(self.q(x), state.q, span)
        k, k_state = self.k_conv(self.k(x), state.k, span)
        v, v_state = self.v_conv(self.v(x), state.v, span)
        operation = partial(
            _correct, heads=self.config.num_heads, chunk=self.config.chunk_size, real=real_of(span)
        )
        y, s = recomputed(operation, q, k, v, self.beta(x), state.s, *self.decay(x))
        y = self.gated(self.out_norm(y).flatten(2), x)
        return self.out(y), DeltaRuleState(q_state, k_state, v_state, s)

    def decay(self, x: Tensor) -> tuple[Tensor, ...]:
        """Δ before its bias and softplus (b t h), its bias and the logarithm of the rate; or ()."""
        return ()

    def gated(self, y: Tensor, x: Tensor) -> Tensor:
        """What ``out`` reads, from the normed heads: b t (h v) -> b t (h v)."""
        return y


def _correct(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    state: Tensor,
    *decay: Tensor,
    heads: int,
    chunk: int,
    real: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """From the convolutions' outputs to b t h v, in float32 or wider, rounded at the end."""
    dtype = v.dtype
    q, k, v = (
        torch.unflatten(F.silu(wide(part)), -1, (heads, -1)).transpose(1, 2) for part in (q, k, v)
    )
    q, k = (F.normalize(part, dim=-1, eps=_LEAST_LENGTH) for part in (q, k))
    beta = torch.sigmoid(wide(beta))
    log_decay = None
    if decay:
        step, bias, rate = (wide(part) for part in decay)
        log_decay = -rate.exp() * F.softplus(step + bias)
    if real is not None:
        pad = ~real[..., None]
        beta = beta.masked_fill(pad, 0.0)
        log_decay = None if log_decay is None else log_decay.masked_fill(pad, 0.0)
    y, state = delta_rule(
        q,
        k,
        v,
        beta.transpose(1, 2),
        state,
        chunk=chunk,
        log_decay=None if log_decay is None else log_decay.transpose(1, 2),
    )
    return y.transpose(1, 2).to(dtype), state


@register("mixer")
class DeltaNet(DeltaRule):
    """q, k, v = silu(conv(W x)), q and k of length 1 in each head; β = σ(W_β x);
    S_t = (1 − β_t k_t k_tᵀ) S_{t−1} + β_t k_t v_tᵀ; y = W_o norm(S_tᵀ q_t).

    S is k × v, the paper's transposed. The convolutions have no bias, as in the published code.
    """

    Config = DeltaNetConfig
