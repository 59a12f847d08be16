"""Sinusoidal positions (Vaswani et al. 2017, arXiv 1706.03762, section 3.5)."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from windtunnel.nn.component import ComponentConfig, EmbeddingPosition, Scope, Span, register
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.ops.widest import exact_place


class SinusoidalPositionConfig(ComponentConfig):
    """``scale · (sin(p·theta^(−2i/d)), cos(p·theta^(−2i/d)))`` for i = 0 … d/2 − 1, interleaved."""

    type: Literal["sinusoidal"] = "sinusoidal"
    theta: float = Field(10_000.0, gt=0, allow_inf_nan=False)
    """Base of the frequencies."""
    scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Amplitude; when left out, such that the root mean square is that of the token embeddings at
    the start. (The paper has 1 beside embeddings of about 1.)"""

    def matched(self, rms: float) -> Self:
        """The amplitude filled in, beside token embeddings of that root mean square."""
        return self if self.scale is not None else self.replace(scale=math.sqrt(2) * rms)

    def resolve(self, scope: Scope) -> Self:
        return self.matched(math.sqrt(0.5))

    def cost(self, scope: Scope, t: Num) -> Cost:
        return Cost()


@register("embedding_position")
class SinusoidalPosition(EmbeddingPosition[SinusoidalPositionConfig]):
    """Sines in even, cosines in odd channels; any length."""

    Config = SinusoidalPositionConfig

    def __init__(self, config: SinusoidalPositionConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self.d_model = scope.d_model

    def forward(self, x: Tensor, span: Span) -> Tensor:
        d = self.d_model
        assert self.config.scale is not None, "an unresolved config was built"
        exact = exact_place(span.positions.device)
        places = torch.arange(0, d, 2, device=exact, dtype=torch.float64)
        angles = span.positions.to(exact)[..., None] * self.config.theta ** (-places / d)
        waves = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)[..., :d]
        return x + (self.config.scale * waves).to(x)
