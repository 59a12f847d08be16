"""Gated linear attention (Yang et al. 2024, arXiv 2312.06635)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from windtunnel.config import Choice
from windtunnel.nn.activations import ACTIVATIONS, Activation, kept_values
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
from windtunnel.nn.mixers.linear_heads import (
    at_least_float32,
    heads_first,
    real_tokens,
    without_pads,
)
from windtunnel.nn.norms.rmsnorm import RMSNormConfig
from windtunnel.nn.ops.decayed import attend_decayed, decayed_cost


class GLAConfig(ComponentConfig):
    """``S_t = diag(α_t) S_{t−1} + k_t v_tᵀ``, each head's output normed and gated.

    α_t, from the token, is a forget gate for each key channel.
    """

    type: Literal["gla"] = "gla"
    num_heads: int = Field(4, ge=1)
    """Heads."""
    head_dim: int | None = Field(None, ge=1)
    """Width of a head's queries, keys and forget gates; d_model / (2·num_heads) when left out."""
    value_dim: int | None = Field(None, ge=1)
    """Width of a head's values; d_model / num_heads when left out."""
    gate_rank: int = Field(16, ge=1)
    """Rank of the map from the token to its forget gates."""
    temperature: float = Field(16.0, gt=0, allow_inf_nan=False)
    """τ: a forget gate is σ(·)^(1/τ), so near 1."""
    norm: Annotated[ComponentConfig, Choice("norm", "rmsnorm")] = RMSNormConfig()
    """The norm of each head's output; its weights, where it has any, are shared by the heads."""
    activation: Activation = "silu"
    """The elementwise function, on the output's gate."""
    bias: bool = False
    """Whether queries, keys, values, the output's gate and the output have a bias."""

    def resolve(self, scope: Scope) -> Self:
        if not scope.causal:
            raise ValueError("gla reads left to right; it needs a causal model")
        d, h = scope.d_model, self.num_heads
        for name, parts in (("head_dim", 2 * h), ("value_dim", h)):
            if getattr(self, name) is None and d % parts:
                raise ValueError(
                    f"d_model {d} is not a multiple of {parts}; give {name}, "
                    f"or choose another num_heads than {h}"
                )
        value_dim = self.value_dim or d // h
        return self.replace(
            head_dim=self.head_dim or d // (2 * h),
            value_dim=value_dim,
            norm=self.norm.resolve(scope.inside(h, value_dim)),
        )

    def cost(self, scope: Scope, t: Num) -> Cost:
        d, h, k, v = scope.d_model, self.num_heads, filled(self.head_dim), filled(self.value_dim)
        norm = self.norm.cost(scope.inside(h, v), t)
        gates = kept_values(self.activation) + 2
        return (
            linear_cost(d, h * k, bias=self.bias) * 2
            + linear_cost(d, h * v, bias=self.bias) * 2
            + linear_cost(d, self.gate_rank, bias=False)
            + linear_cost(self.gate_rank, h * k, bias=True)
            + linear_cost(h * v, d, bias=self.bias)
            + Cost(
                params=norm.params,
                activation_values=d + self.gate_rank + h * (k + gates * v + norm.activation_values),
                wide_values=h * (k + norm.wide_values),
                working_values=7 * h * k,
            )
            + decayed_cost(k, v, t) * h
        )


class GLAState(NamedTuple):
    """What gated linear attention remembers."""

    sums: Tensor
    """b h k v"""


@register("mixer")
class GLA(Mixer[GLAConfig]):
    """o_t = S_tᵀ q_t / √k, S_t = diag(α_t) S_{t−1} + k_t v_tᵀ, y = W_o (silu(W_g x) · norm(o)).

    α_t = σ(W₂ W₁ x_t + c)^(1/τ) (section 4.4). Parameters: ``q``, ``k`` (h·k, d), ``v``, ``gate``
    (h·v, d), ``forget_down`` (rank, d), ``forget_up`` (h·k, rank) with bias, ``norm``, ``out``
    (d, h·v). A pad neither forgets nor adds.
    """

    Config = GLAConfig

    def __init__(self, config: GLAConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, h = scope.d_model, config.num_heads
        k, v = filled(config.head_dim), filled(config.value_dim)
        self.q = Linear(d, h * k, bias=config.bias)
        self.k = Linear(d, h * k, bias=config.bias)
        self.v = Linear(d, h * v, bias=config.bias)
        self.gate = Linear(d, h * v, bias=config.bias)
        self.forget_down = Linear(d, config.gate_rank, bias=False)
        self.forget_up = Linear(config.gate_rank, h * k, bias=True, stream="none")
        self.norm: Norm[Any] = build_component("norm", config.norm, scope.inside(h, v))
        self.out = Linear(h * v, d, bias=config.bias, gain=residual_gain(scope))
        self.activation = ACTIVATIONS[config.activation]

    def initial_state(self, batch: int) -> GLAState:
        c, weight = self.config, self.k.weight
        shape = (batch, c.num_heads, filled(c.head_dim), filled(c.value_dim))
        return GLAState(weight.new_zeros(shape, dtype=at_least_float32(weight.dtype)))

    def extend(self, x: Tensor, state: GLAState, span: Span) -> tuple[Tensor, GLAState]:
        heads, real = self.config.num_heads, real_tokens(span)
        x = without_pads(x, real)
        q = heads_first(self.q(x), heads) * filled(self.config.head_dim) ** -0.5
        k, v = heads_first(self.k(x), heads), heads_first(self.v(x), heads)
        forget = heads_first(self.forget_up(self.forget_down(x)), heads)
        log_decay = F.logsigmoid(forget.to(state.sums.dtype)) / self.config.temperature
        if real is not None:
            pads = ~real[:, None, :, None]
            k, log_decay = k.masked_fill(pads, 0.0), log_decay.masked_fill(pads, 0.0)
        y, sums = attend_decayed(q, k, v, log_decay, state.sums)
        normed = self.norm(y.transpose(1, 2).to(x.dtype)).flatten(2)
        return self.out(self.activation(self.gate(x)) * normed), GLAState(sums)
