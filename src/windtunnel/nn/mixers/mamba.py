"""Mamba: a selective state-space model (Gu & Dao 2023, arXiv 2312.00752)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.config import Choice
from windtunnel.nn.component import (
    ComponentConfig,
    Mixer,
    Scope,
    Span,
    build_component,
    filled,
    register,
)
from windtunnel.nn.cost import Cost, Num, linear_cost, smaller
from windtunnel.nn.initialize import Init, constant, given, uniform
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.mixers.state_space import SteppedConfig, real_of, step_bias, wide_zeros
from windtunnel.nn.norms.none import NoNormConfig
from windtunnel.nn.ops.selective_scan import CHUNK, Selection, selective_scan, selective_scan_kept
from windtunnel.nn.ops.short_convolution import ShortConvolution, short_convolution_cost
from windtunnel.nn.ops.wide import wide


class MambaConfig(SteppedConfig):
    """``out(scan(silu(conv(x'))) · silu(z))``, x' and z from x, the scan's step and maps too."""

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset({"inner_norm"})

    type: Literal["mamba"] = "mamba"
    d_state: int = Field(16, ge=1)
    """Numbers of state for each channel."""
    dt_rank: int | None = Field(None, ge=1)
    """Rank of the map to Δ; d_model / 16, rounded up, when left out."""
    bias: bool = False
    """Whether the maps into and out of the mixer have a bias."""
    inner_norm: Annotated[ComponentConfig, Choice("norm")] = NoNormConfig()
    """Norms of what Δ is made of, of B and of C, as Jamba has (arXiv 2403.19887, section 6.4)."""

    def resolve(self, scope: Scope) -> Self:
        """The rank filled in. The three norms differ in width alone: what one of them would derive
        from it stays open."""
        rank = self.dt_rank or -(-scope.d_model // 16)
        self.inner_norm.resolve(scope.inside(1, self.d_state))
        return super().resolve(scope).replace(dt_rank=rank)

    def cost(self, scope: Scope, t: Num) -> Cost:
        d, e, n, r = scope.d_model, filled(self.d_inner), self.d_state, filled(self.dt_rank)
        at = [scope.inside(1, width) for width in (r, n, n)]
        norms = [self.inner_norm.resolve(place).cost(place, t) for place in at]
        return (
            linear_cost(d, 2 * e, bias=self.bias)
            + short_convolution_cost(e, self.conv_size, t, bias=self.conv_bias)
            + linear_cost(e, r + 2 * n, bias=False)
            + linear_cost(r, e, bias=True)
            + linear_cost(e, d, bias=self.bias)
            + (norms[0] + norms[1] + norms[2])
            + Cost(
                params=e * n + e,
                forward_flops=2 * e * n,
                decode_flops=2 * e * n,
                state_values=e * n,
                # x; x' with z; before and after the silu; step, B, C; Δ; what out reads
                activation_values=d + 6 * e + r + 2 * n + selective_scan_kept(t, e, n),
                wide_values=e + selective_scan_kept(t, e, n),  # Δ, and states
                # the gradients, and five times the states of a chunk, as measured
                working_values=3 * e + 5 * smaller(t, CHUNK) * e * n / t,
            )
        )


class MambaState(NamedTuple):
    """What Mamba remembers."""

    conv: Tensor
    """(b, conv_size − 1, e): inputs of the short convolution."""
    ssm: Tensor
    """(b, e, n), in float32 or wider"""


@register("mixer")
class Mamba(Mixer[MambaConfig]):
    """[x', z] = W_in x; u = silu(conv(x')); [δ, B, C] = W_x u; Δ = softplus(W_Δ δ + b_Δ);
    h_t = exp(Δ_t A) h_{t−1} + Δ_t u_t B_tᵀ; y = W_out((h C + D u) · silu(z)). With ``inner_norm``
    δ, B and C are normed: ``inner_norms.0`` to ``.2``.

    A = −exp(``a_log``) starts at −1 … −n in every channel, D = ``skip`` at 1, Δ's bias so that Δ is
    log-uniform in [dt_min, dt_max], W_Δ at U(−1/√r, 1/√r). Parameters have the shapes of the
    published model: ``in_proj`` (x' above z), ``conv`` (conv1d), ``x_proj``, ``dt_proj``, ``a_log``
    (A_log), ``skip`` (D), ``out`` (out_proj). W_in, W_x and W_out start as every linear map here.
    """

    Config = MambaConfig

    def __init__(self, config: MambaConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, e, n = scope.d_model, filled(config.d_inner), config.d_state
        self.in_proj = Linear(d, 2 * e, bias=config.bias)
        self.conv = ShortConvolution(e, config.conv_size, bias=config.conv_bias)
        self.x_proj = Linear(e, filled(config.dt_rank) + 2 * n, bias=False, stream="none")
        self.dt_proj = _Step(filled(config.dt_rank), e, config)
        self.a_log = nn.Parameter(torch.empty(e, n))
        self.skip = nn.Parameter(torch.empty(e))
        self.out = Linear(e, d, bias=config.bias, gain=residual_gain(scope))

        self.inner_norms: nn.ModuleList | None = None
        if config.inner_norm.type != "none":
            places = [scope.inside(1, width) for width in (filled(config.dt_rank), n, n)]
            norms = [build_component("norm", config.inner_norm.resolve(p), p) for p in places]
            self.inner_norms = nn.ModuleList(norms)

    def initializers(self) -> dict[str, Init]:
        return {"a_log": given(_count), "skip": constant(1.0)}

    def initial_state(self, batch: int) -> MambaState:
        return MambaState(
            self.conv.initial_state(batch), wide_zeros(self.a_log, batch, *self.a_log.shape)
        )

    def extend(self, x: Tensor, state: MambaState, span: Span) -> tuple[Tensor, MambaState]:
        inner, z = self.in_proj(x).chunk(2, dim=-1)
        inner, conv = self.conv(inner, state.conv, span)
        inner = F.silu(inner)
        n = self.config.d_state
        said = self.x_proj(inner).split((filled(self.config.dt_rank), n, n), dim=-1)
        if self.inner_norms is not None:
            said = tuple(norm(part) for norm, part in zip(self.inner_norms, said, strict=True))
        step, b, c = said
        tokens = Selection(inner, self.dt_proj(step), b, c, z)
        y, ssm = selective_scan(tokens, self.a_log, self.skip, state.ssm, real_of(span))
        return self.out(y), MambaState(conv, ssm)


class _Step(Linear):
    """The map to Δ, before its softplus: b t r -> b t e.

    The bias is added in float32 or wider: its sum with a product, rounded to bfloat16, would move Δ
    by percents.
    """

    def __init__(self, rank: int, width: int, config: MambaConfig) -> None:
        super().__init__(rank, width, bias=True, stream="none")
        self.config = config

    def initializers(self) -> dict[str, Init]:
        bias = step_bias(self.config.dt_min, self.config.dt_max)
        return {"weight": uniform(self.in_features**-0.5), "bias": bias}

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.effective()
        assert bias is not None, "built with one"
        return wide(F.linear(x, weight)) + wide(bias)


def _count(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """log 1 … log n in every row: nothing is random."""
    return torch.arange(1, shape[-1] + 1, dtype=torch.float64).log().expand(shape)
