"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864, eq. 34)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from windtunnel.nn.component import Position, PositionConfig, Scope, Span, filled, register
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.ops.widest import exact_place
from windtunnel.nn.positions.rope_scaling import RoPEScaling


class RoPEConfig(PositionConfig):
    """Queries and keys are turned by angles p·theta^(−2i/r), i = 0 … r/2 − 1, at position p.

    So that their product depends on the distance of the two alone.
    """

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset({"scaling"})

    type: Literal["rope"] = "rope"
    theta: float = Field(10_000.0, gt=0, allow_inf_nan=False)
    """Base of the frequencies: the longest wave is about 2π·theta tokens."""
    fraction: float | None = Field(None, gt=0, le=1)
    """The share of a head's dimensions that is turned (r/k), the first ones; all when left out."""
    rotary_dim: int | None = Field(None, ge=2)
    """The number of dimensions that is turned (r), in place of `fraction`."""
    style: Literal["half", "interleaved"] = "half"
    """Which dimensions turn together: i with i + r/2 (Llama, NeoX), or 2i with 2i + 1 (GPT-J)."""
    scaling: RoPEScaling | None = None
    """How the frequencies are changed for long sequences: {type: linear, factor: 4}, or the rules
    of Llama 3 and of YaRN; not at all when left out."""

    def resolve(self, scope: Scope) -> Self:
        """The number of turned dimensions filled in."""
        k = scope.d_model
        if self.rotary_dim is not None and self.fraction is not None:
            raise ValueError("rope: fraction and rotary_dim say the same thing twice; give one")
        r = self.rotary_dim or k
        if self.fraction is not None:
            r = 2 * round(self.fraction * k / 2)
        if r > k or r < 2 or r % 2:
            raise ValueError(
                f"rope turns an even number of dimensions, from 2 to the head's {k}, not {r}"
            )
        scaling = self.scaling and self.scaling.resolved()
        return self.replace(rotary_dim=r, fraction=None, scaling=scaling)

    def cost(self, scope: Scope, t: Num) -> Cost:
        return Cost()


@register("position")
class RoPE(Position[RoPEConfig]):
    """(x₁, x₂) -> (x₁ cos − x₂ sin, x₂ cos + x₁ sin) for each pair of dimensions."""

    Config = RoPEConfig

    def rotate(self, x: Tensor, span: Span) -> Tensor:
        cos, sin = self._tables(span, x)
        r = filled(self.config.rotary_dim)
        if self.config.style == "half":
            first, second = x[..., : r // 2], x[..., r // 2 : r]
        else:
            first, second = x[..., 0:r:2], x[..., 1:r:2]
        turned = (first * cos - second * sin, second * cos + first * sin)
        if self.config.style == "half":
            return torch.cat((*turned, x[..., r:]), dim=-1)
        return torch.cat((torch.stack(turned, dim=-1).flatten(-2), x[..., r:]), dim=-1)

    def _tables(self, span: Span, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of the angles, (1 or b, t, 1, r/2), in the dtype of ``like``."""
        r, theta, scaling = filled(self.config.rotary_dim), self.config.theta, self.config.scaling
        key = ("rope", theta, r, scaling, like.dtype)
        if key not in span.memo:
            # float64, as float32 angles are off by 1e-2 at position 10⁵ for the fastest wave
            exact = exact_place(like.device)
            places = torch.arange(0, r, 2, device=exact, dtype=torch.float64)
            frequencies = theta ** (-places / r)
            if scaling is not None:
                frequencies = scaling.scaled(frequencies, theta)
            angles = span.positions.to(exact)[..., None, None] * frequencies
            cos, sin = angles.cos(), angles.sin()
            if scaling is not None and scaling.attention_factor is not None:
                cos, sin = cos * scaling.attention_factor, sin * scaling.attention_factor
            span.memo[key] = (cos.to(like), sin.to(like))
        cos, sin = span.memo[key]
        return cos, sin
