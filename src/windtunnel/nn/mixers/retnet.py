"""Retention (Sun et al. 2023, "Retentive Network", arXiv 2307.08621)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor

from windtunnel.config import Choice
from windtunnel.nn.activations import ACTIVATIONS, Activation, kept_values
from windtunnel.nn.component import (
    ComponentConfig,
    Mixer,
    Norm,
    Position,
    PositionConfig,
    Scope,
    Span,
    build_component,
    filled,
    register,
)
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.mixers.linear_heads import (
    TurnedHeadsConfig,
    at_least_float32,
    heads_first,
    real_tokens,
    without_pads,
)
from windtunnel.nn.norms.layernorm import LayerNormConfig
from windtunnel.nn.ops.chunks import even_chunks
from windtunnel.nn.ops.decayed import CHUNK, Fading, attend_fading, fading
from windtunnel.nn.positions.rope import RoPEConfig


class RetNetConfig(TurnedHeadsConfig):
    """``out(gate · norm(Σ_{j ≤ i} γ^(i−j) (q_i·k_j) v_j))``, a decay γ for each head."""

    type: Literal["retnet"] = "retnet"
    position: Annotated[PositionConfig, Choice("position", "rope")] = RoPEConfig()
    """How queries and keys are turned: rope, with rope's frequencies theta^(−2i/k), or not at all.
    The published code spaces them a little wider, evenly in the logarithm from 1 to 1/theta."""
    value_dim: int | None = Field(None, ge=1)
    """Width of a head's values; twice head_dim when left out."""
    decay_exponent: float = Field(5.0, gt=0, allow_inf_nan=False)
    """Head i forgets 2^−(decay_exponent + i) of its state with each token, i = 0, 1, …"""
    norm: Annotated[ComponentConfig, Choice("norm", "layernorm")] = LayerNormConfig(
        affine=False, bias=False, eps=1e-6
    )
    """The norm of each head's output; its weights, where it has any, are shared by the heads."""
    activation: Activation = "silu"
    """The elementwise function, on the gate."""

    def resolve(self, scope: Scope) -> Self:
        resolved = super().resolve(scope)
        if not scope.causal:
            raise ValueError("retnet reads left to right; it needs a causal model")
        width = self.value_dim or 2 * filled(resolved.head_dim)
        inside = scope.inside(filled(resolved.num_heads), width)
        return resolved.replace(value_dim=width, norm=self.norm.resolve(inside))

    def cost(self, scope: Scope, t: Num) -> Cost:
        d, h, k, v = scope.d_model, filled(self.num_heads), filled(self.head_dim), self.value_dim
        chunks, tokens = even_chunks(t, CHUNK)
        executed = chunks * tokens / t
        norm = self.norm.cost(scope.inside(h, filled(v)), t)
        wide = 2 * k + 2 * filled(v) + executed * tokens + k * filled(v) * chunks / t
        kept = wide + k + (kept_values(self.activation) + 1) * filled(v)
        return (
            linear_cost(d, h * k, bias=self.bias) * 2
            + linear_cost(d, h * filled(v), bias=self.bias) * 2
            + linear_cost(h * filled(v), d, bias=bool(self.out_bias))
            + self.position.cost(scope.inside(h, k), t)
            + Cost(
                params=norm.params,
                activation_values=d + h * (norm.activation_values + kept),
                wide_values=h * (norm.wide_values + wide),
                working_values=2.5 * h * filled(v),
            )
            + Cost(
                forward_flops=h * executed * (2 * tokens + 4 * k) * filled(v)
                + h * executed * 2 * tokens * k,
                decode_flops=h * (2 * k + 2 * filled(v) + 4 * k * filled(v)),
                state_values=h * k * filled(v),
            )
        )


class RetNetState(NamedTuple):
    """What retention remembers."""

    sums: Tensor
    """b h k v: Σ γ^(distance) k vᵀ"""


@register("mixer")
class RetNet(Mixer[RetNetConfig]):
    """S_t = γ S_{t−1} + k_t v_tᵀ / √k, y = W_o (silu(W_g x) · norm(S_tᵀ q_t)) (eq. 5 to 8).

    q and k are turned by their positions (Θ of eq. 5), γ_i = 1 − 2^(−5−i) for head i, and each
    head's output is normed by itself. Parameters: ``q``, ``k`` (h·k, d), ``v``, ``gate`` (h·v, d),
    ``out`` (d, h·v), and ``norm``. A pad neither fades nor adds.

    Deviations: the norms of scores (section 2.3, "retention score normalization") are left out:
    the norm of each head's output cancels them, up to its eps. Frequencies are rope's.
    """

    Config = RetNetConfig

    def __init__(self, config: RetNetConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, h = scope.d_model, filled(config.num_heads)
        k, v = filled(config.head_dim), filled(config.value_dim)
        self.q = Linear(d, h * k, bias=config.bias)
        self.k = Linear(d, h * k, bias=config.bias)
        self.v = Linear(d, h * v, bias=config.bias)
        self.gate = Linear(d, h * v, bias=config.bias)
        self.norm: Norm[Any] = build_component("norm", config.norm, scope.inside(h, v))
        self.out = Linear(h * v, d, bias=bool(config.out_bias), gain=residual_gain(scope))
        self.position: Position[Any] = build_component(
            "position", config.position, scope.inside(h, k)
        )
        self.activation = ACTIVATIONS[config.activation]

    def initial_state(self, batch: int) -> RetNetState:
        c, weight = self.config, self.k.weight
        shape = (batch, filled(c.num_heads), filled(c.head_dim), filled(c.value_dim))
        return RetNetState(weight.new_zeros(shape, dtype=at_least_float32(weight.dtype)))

    def extend(self, x: Tensor, state: RetNetState, span: Span) -> tuple[Tensor, RetNetState]:
        heads, real = filled(self.config.num_heads), real_tokens(span)
        x = without_pads(x, real)
        q, k = (self.position.rotate(part(x).unflatten(-1, (heads, -1)), span).transpose(1, 2)
                for part in (self.q, self.k))  # fmt: skip
        if real is not None:
            k = k.masked_fill(~real[:, None, :, None], 0.0)
        k = k * filled(self.config.head_dim) ** -0.5
        v = heads_first(self.v(x), heads)
        y, sums = attend_fading(q, k, v, self._fading(span, state.sums.dtype), state.sums)
        normed = self.norm(y.transpose(1, 2).to(x.dtype)).flatten(2)
        return self.out(self.activation(self.gate(x)) * normed), RetNetState(sums)

    def _fading(self, span: Span, dtype: torch.dtype) -> Fading:
        """The decays of a span's tokens, made once for all layers alike."""
        heads, first = filled(self.config.num_heads), self.config.decay_exponent
        key = ("fading", heads, first, dtype)
        if key not in span.memo:
            exponents = first + torch.arange(heads, dtype=torch.float64)
            log_decay = torch.log1p(-(2.0**-exponents)).to(span.positions.device, dtype)
            span.memo[key] = fading(log_decay, span.real)
        return Fading(*span.memo[key])
