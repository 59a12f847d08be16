"""The time mixing of RWKV-6 ("Finch": Peng et al. 2024, arXiv 2404.05892)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
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
from windtunnel.nn.initialize import Init, constant, fan_in_std, given, normal
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.mixers.linear_heads import (
    at_least_float32,
    heads_first,
    real_tokens,
    shared_width,
    without_pads,
)
from windtunnel.nn.norms.layernorm import LayerNormConfig
from windtunnel.nn.ops.decayed import attend_decayed, decayed_cost

_MIXED = 5
"""What the token and the one before it are mixed for: decay, key, value, receptance, gate."""
_FASTEST = 7.0
"""A decay of exp(−e⁷) is 0 in float64 too: beyond, only the exponent would grow."""


class RWKVConfig(ComponentConfig):
    """``S_t = diag(w_t) S_{t−1} + k_t v_tᵀ``, read before and with a bonus for the token itself.

    Tokens are first mixed with the ones before them, by weights that depend on both.
    """

    type: Literal["rwkv"] = "rwkv"
    num_heads: int | None = Field(None, ge=1)
    """Heads; d_model / head_dim when left out (with heads of 64)."""
    head_dim: int | None = Field(None, ge=1)
    """Width of a head; d_model / num_heads when left out."""
    mix_rank: int = Field(32, ge=1)
    """Rank of each map that says how much of the token before is mixed in."""
    decay_rank: int = Field(64, ge=1)
    """Rank of the map from the mixed token to the decays."""
    norm: Annotated[ComponentConfig, Choice("norm", "layernorm")] = LayerNormConfig()
    """The norm of each head's output; its weights and biases, where it has any, are shared by the
    heads, which in the authors' code have their own, and an eps of 64e-5."""
    activation: Activation = "silu"
    """The elementwise function, on the gate."""

    def resolve(self, scope: Scope) -> Self:
        if not scope.causal:
            raise ValueError("rwkv reads left to right; it needs a causal model")
        heads, width = shared_width(self.num_heads, self.head_dim, scope.d_model)
        norm = self.norm.resolve(scope.inside(heads, width))
        return self.replace(num_heads=heads, head_dim=width, norm=norm)

    def cost(self, scope: Scope, t: Num) -> Cost:
        d, h, k = scope.d_model, filled(self.num_heads), filled(self.head_dim)
        mixed, inner = _MIXED * self.mix_rank, h * k
        norm = self.norm.cost(scope.inside(h, k), t)
        gate = (kept_values(self.activation) + 1) * inner
        kept = (_MIXED + 3) * d + _MIXED * d + mixed + self.decay_rank + 2 * inner + gate
        return (
            linear_cost(d, inner, bias=False) * 4
            + linear_cost(inner, d, bias=False)
            + linear_cost(d, mixed, bias=False)
            + linear_cost(mixed, d, bias=False)
            + linear_cost(d, self.decay_rank, bias=False)
            + linear_cost(self.decay_rank, inner, bias=True)
            + Cost(
                params=(1 + _MIXED) * d + inner + norm.params,
                state_values=d,
                activation_values=kept + h * norm.activation_values,
                wide_values=2 * inner + h * norm.wide_values,
                working_values=8 * inner,
            )
            + decayed_cost(k, k, t) * h
        )


class RWKVState(NamedTuple):
    """What RWKV remembers."""

    last: Tensor
    """b d: the last token; 0 before the first."""
    sums: Tensor
    """b h k v"""


def ramp(first: float, last: float, times: int = 1) -> Init:
    """A vector that goes evenly from ``first`` to ``last``, ``times`` over."""

    def values(shape: torch.Size, generator: torch.Generator) -> Tensor:
        (size,) = shape
        return torch.linspace(first, last, size // times).repeat(times)

    return given(values)


@register("mixer")
class RWKV(Mixer[RWKVConfig]):
    """o_t = (S_{t−1} + diag(u) k_t v_tᵀ)ᵀ r_t, y = W_o (silu(g) · norm(o)).

    With x' the token before and δ = x' − x: z = x + δ·μ; for each of w, k, v, r, g
    x_i = x + δ·(λ_i + W_i tanh(A_i z)), then k, v, r, g = W x_i and
    w = exp(−exp(c + B tanh(A x_w))).

    Parameters: ``mu`` (d,), ``lam`` (5·d,), ``mix_down`` (5·rank, d), ``mix_up`` (5, d, rank),
    ``decay_down``, ``decay_up``, ``decay_bias`` c, ``k``, ``v``, ``r``, ``gate`` (h·k, d),
    ``bonus`` u (h·k,), ``norm``, ``out``. A pad is skipped: the token before a token is the last
    real one.

    Deviations: a head's norm has weights and biases shared by the heads (where they differ, W_o
    takes the weights up; the biases, behind the gate, nothing does); no scale before it, which it
    cancels up to its eps, 1e-5 here and 64e-5 in the authors' code; the decay's exponent is cut at
    e⁷, where a float64 decay is 0 already; the bonus starts at ½ in every channel, and the init's
    ramps are the same in all layers.
    """

    Config = RWKVConfig

    def __init__(self, config: RWKVConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, h, k = scope.d_model, filled(config.num_heads), filled(config.head_dim)
        self.mu = nn.Parameter(torch.empty(d))
        self.lam = nn.Parameter(torch.empty(_MIXED * d))
        self.mix_down = Linear(d, _MIXED * config.mix_rank, bias=False)
        self.mix_up = nn.Parameter(torch.empty(_MIXED, d, config.mix_rank))
        self.decay_down = Linear(d, config.decay_rank, bias=False)
        self.decay_up = nn.Parameter(torch.empty(h * k, config.decay_rank))
        self.decay_bias = nn.Parameter(torch.empty(h * k))
        self.k = Linear(d, h * k, bias=False)
        self.v = Linear(d, h * k, bias=False)
        self.r = Linear(d, h * k, bias=False)
        self.gate = Linear(d, h * k, bias=False)
        self.bonus = nn.Parameter(torch.empty(h * k))
        self.norm: Norm[Any] = build_component("norm", config.norm, scope.inside(h, k))
        self.out = Linear(h * k, d, bias=False, gain=residual_gain(scope))
        self.activation = ACTIVATIONS[config.activation]

    def initializers(self) -> dict[str, Init]:
        """Channels from slow to fast: decays of exp(−e⁻⁶) to exp(−e⁻¹) a token, as the authors."""
        return {
            "mu": ramp(1.0, 0.0),
            "lam": ramp(1.0, 0.0, _MIXED),
            "mix_up": normal(0.1 * fan_in_std(self.config.mix_rank)),
            "decay_up": normal(0.1 * fan_in_std(self.config.decay_rank)),
            "decay_bias": ramp(-6.0, -1.0),
            "bonus": constant(0.5),
        }

    def initial_state(self, batch: int) -> RWKVState:
        c, weight = self.config, self.k.weight
        h, k = filled(c.num_heads), filled(c.head_dim)
        sums = weight.new_zeros(batch, h, k, k, dtype=at_least_float32(weight.dtype))
        return RWKVState(weight.new_zeros(batch, weight.shape[1]), sums)

    def extend(self, x: Tensor, state: RWKVState, span: Span) -> tuple[Tensor, RWKVState]:
        heads, real = filled(self.config.num_heads), real_tokens(span)
        x = without_pads(x, real)
        before, last = shifted(x, state.last, real)
        x_w, x_k, x_v, x_r, x_g = self._mixed(x, before - x)
        speed = torch.tanh(self.decay_down(x_w)) @ self.decay_up.T + self.decay_bias
        log_decay = -speed.to(state.sums.dtype).clamp(max=_FASTEST).exp()
        r, k, v, log_decay = (
            heads_first(part, heads) for part in (self.r(x_r), self.k(x_k), self.v(x_v), log_decay)
        )
        if real is not None:
            pads = ~real[:, None, :, None]
            k, log_decay = k.masked_fill(pads, 0.0), log_decay.masked_fill(pads, 0.0)
        y, sums = attend_decayed(r, k, v, log_decay, state.sums, bonus=self.bonus.view(heads, -1))
        normed = self.norm(y.transpose(1, 2).to(x.dtype)).flatten(2)
        return self.out(self.activation(self.gate(x_g)) * normed), RWKVState(last, sums)

    def _mixed(self, x: Tensor, delta: Tensor) -> tuple[Tensor, ...]:
        """What decay, key, value, receptance and gate are made of: five times b t d."""
        b, t, d = x.shape
        low = torch.tanh(self.mix_down(x + delta * self.mu))
        low = low.view(b * t, _MIXED, -1).transpose(0, 1)  # 5 b·t rank
        weights = torch.baddbmm(self.lam.view(_MIXED, 1, d), low, self.mix_up.mT).view(
            _MIXED, b, t, d
        )
        return (x + delta * weights).unbind(0)


def shifted(x: Tensor, last: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """The real token before each (b t d), and the last one of each row (b d)."""
    b, t, d = x.shape
    tokens = torch.cat((last[:, None], x), dim=1)
    if real is None:
        return tokens[:, :-1], tokens[:, -1]
    places = torch.arange(1, t + 1, device=x.device).masked_fill(~real.expand(b, t), 0)
    newest = F.pad(places.cummax(1).values, (1, 0))  # 0: the one before this call
    rows = tokens.gather(1, newest[..., None].expand(b, t + 1, d))
    return rows[:, :-1], rows[:, -1]
