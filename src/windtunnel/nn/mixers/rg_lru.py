"""The recurrent block of Griffin, with its RG-LRU (De et al. 2024, arXiv 2402.19427)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.nn.component import Mixer, Scope, Span, filled, register
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.initialize import Init, constant, fan_in_std, given, normal
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.mixers.state_space import InnerConfig, divisor, real_of, wide_zeros
from windtunnel.nn.ops.recompute import recomputed
from windtunnel.nn.ops.scan import scan
from windtunnel.nn.ops.short_convolution import ShortConvolution, short_convolution_cost
from windtunnel.nn.ops.wide import wide

_USUAL_BLOCK = 256


class RGLRUConfig(InnerConfig):
    """``out(gelu(W_g x) · rg_lru(conv(W_r x)))``, a gated diagonal linear recurrence."""

    default_expand: ClassVar[float] = 1.0

    type: Literal["rg_lru"] = "rg_lru"
    num_heads: int | None = Field(None, ge=1)
    """Diagonal blocks of the gates' maps; as few of at most 256 as divide when left out."""
    exponent: float = Field(8.0, gt=0, allow_inf_nan=False)
    """The c of a_t = a^(c·r_t): how much faster an open gate forgets."""
    bias: bool = True
    """Whether the maps into and out of the block have a bias."""

    def resolve(self, scope: Scope) -> Self:
        config = super().resolve(scope)
        e = filled(config.d_inner)
        heads = self.num_heads or divisor(e, _USUAL_BLOCK)
        if e % heads:
            raise ValueError(f"num_heads {heads} does not divide the width within, {e}")
        return config.replace(num_heads=heads)

    def cost(self, scope: Scope, t: Num) -> Cost:
        d, e = scope.d_model, filled(self.d_inner)
        width = e / filled(self.num_heads)
        gates = 4 * e * width
        return (
            linear_cost(d, e, bias=self.bias) * 2
            + short_convolution_cost(e, self.conv_size, t, bias=self.conv_bias)
            + linear_cost(e, d, bias=self.bias)
            + Cost(
                params=e * (2 * e // filled(self.num_heads)) + 3 * e,
                forward_flops=gates,
                decode_flops=gates,
                state_values=e,
                # x; the convolution's output; two gates; h; gelu and product; the first state
                activation_values=d + 7 * e + e / t,
                wide_values=e / t,
                working_values=12 * e,  # of the recurrence, as measured
            )
        )


class RGLRUState(NamedTuple):
    """What the recurrent block remembers."""

    conv: Tensor
    """(b, conv_size − 1, e): inputs of the short convolution."""
    h: Tensor
    """(b, e), in float32 or wider"""


class BlockLinear(nn.Module):
    """y = W x + c with a W of equal diagonal blocks: b t e -> b t e.

    ``weight`` (blocks, in, out) starts at N(0, 1/in), ``bias`` (e,) at 0.
    """

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(blocks, width // blocks, width // blocks))
        self.bias = nn.Parameter(torch.empty(width))

    def initializers(self) -> dict[str, Init]:
        return {"weight": normal(fan_in_std(self.weight.shape[1])), "bias": constant(0.0)}

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.unflatten(x, -1, (len(self.weight), -1))
        return torch.einsum("bthi,hij->bthj", parts, self.weight).flatten(2) + self.bias


@register("mixer")
class RGLRU(Mixer[RGLRUConfig]):
    """u = conv(W_r x); r = σ(W_a u), i = σ(W_i u); a_t = a^(c r_t) with a = σ(``decay``);
    h_t = a_t h_{t−1} + √(1 − a_t²) (i_t u_t); y = W_o(gelu(W_g x) · h).

    Equations 1 to 4 of the paper; a^c starts uniform in [0.9, 0.999], as it says (its code puts a
    itself there, so that a^c goes down to 0.43). Parameters: ``recurrent`` (W_r), ``conv``,
    ``decay_gate`` (W_a, block-diagonal), ``input_gate`` (W_i, too), ``decay`` (Λ),
    ``gate`` (W_g), ``out``. The first token's input is scaled like every other's, as the paper
    writes it (its code leaves it whole); the width within is d_model unless told, not 4/3 of it.
    """

    Config = RGLRUConfig

    def __init__(self, config: RGLRUConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, e, blocks = scope.d_model, filled(config.d_inner), filled(config.num_heads)
        self.recurrent = Linear(d, e, bias=config.bias)
        self.conv = ShortConvolution(e, config.conv_size, bias=config.conv_bias)
        self.decay_gate = BlockLinear(e, blocks)
        self.input_gate = BlockLinear(e, blocks)
        self.decay = nn.Parameter(torch.empty(e))
        self.gate = Linear(d, e, bias=config.bias)
        self.out = Linear(e, d, bias=config.bias, gain=residual_gain(scope))

    def initializers(self) -> dict[str, Init]:
        return {"decay": given(partial(_slow, exponent=self.config.exponent))}

    def initial_state(self, batch: int) -> RGLRUState:
        state = wide_zeros(self.decay, batch, len(self.decay))
        return RGLRUState(self.conv.initial_state(batch), state)

    def extend(self, x: Tensor, state: RGLRUState, span: Span) -> tuple[Tensor, RGLRUState]:
        u, conv = self.conv(self.recurrent(x), state.conv, span)
        operation = partial(_recur, exponent=self.config.exponent, real=real_of(span))
        gates = (self.decay_gate(u), self.input_gate(u))
        y, h = recomputed(operation, u, *gates, self.decay, state.h)
        return self.out(F.gelu(self.gate(x)) * y), RGLRUState(conv, h)


def _recur(
    u: Tensor,
    decay_gate: Tensor,
    input_gate: Tensor,
    decay: Tensor,
    state: Tensor,
    *,
    exponent: float,
    real: Tensor | None,
) -> tuple[Tensor, Tensor]:
    dtype = u.dtype
    u, decay_gate, input_gate, decay = (wide(p) for p in (u, decay_gate, input_gate, decay))
    log_a = exponent * torch.sigmoid(decay_gate) * F.logsigmoid(decay)
    # 1 − a² without cancellation. Where a rounds to 1 it would be 0, and a gradient of its root
    # infinite: the least float in its place changes no sum.
    kept = (-torch.expm1(2 * log_a)).clamp(min=torch.finfo(u.dtype).tiny).sqrt()
    h = scan(log_a.exp(), kept * torch.sigmoid(input_gate) * u, state, real)
    return h.to(dtype), h[:, -1].clone()


def _slow(shape: torch.Size, generator: torch.Generator, *, exponent: float) -> Tensor:
    """Λ with σ(Λ)^exponent uniform in [0.9, 0.999]."""
    u = torch.rand(shape, generator=generator, dtype=torch.float64)
    log_a = (0.9 + 0.099 * u).log() / exponent
    return log_a - (-torch.expm1(log_a)).log()  # the logit of a
