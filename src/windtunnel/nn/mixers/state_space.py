"""What the newer recurrences share: widths, inits of steps and decays, and their states."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from windtunnel.config import Ratio
from windtunnel.nn.component import ComponentConfig, Scope, Span
from windtunnel.nn.initialize import Init, given

_LEAST_STEP = 1e-4


class InnerConfig(ComponentConfig):
    """A mixer that works at a width of its own, behind a short convolution."""

    default_expand: ClassVar[float] = 2.0

    d_inner: int | None = Field(None, ge=1)
    """Width within; derived from `expand` when left out."""
    expand: Ratio | None = None
    """Width within over d_model."""
    conv_size: int = Field(4, ge=1)
    """Tokens that the short convolution sees, the current one included."""
    conv_bias: bool = True
    """Whether the short convolution has a bias."""

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        if self.d_inner is not None and self.expand is not None:
            raise ValueError("d_inner and expand say the same thing twice; give one")
        return self

    def resolve(self, scope: Scope) -> Self:
        """The width filled in; ``expand``, having served, is left out."""
        if self.d_inner is not None:
            return self
        width = max(1, round((self.expand or self.default_expand) * scope.d_model))
        return self.replace(d_inner=width, expand=None)


class SteppedConfig(InnerConfig):
    """A state-space model with a step Δ for each token."""

    dt_min: float = Field(1e-3, gt=0, allow_inf_nan=False)
    """The least Δ at the start, for an input of 0: log-uniform between the two."""
    dt_max: float = Field(0.1, gt=0, allow_inf_nan=False)
    """The largest Δ at the start."""

    @model_validator(mode="after")
    def _order_of_steps(self) -> Self:
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min {self.dt_min} is larger than dt_max {self.dt_max}")
        return self


def divisor(width: int, part: int) -> int:
    """The fewest equal parts of ``width`` that are at most ``part`` wide.

    >>> divisor(384, 128), divisor(16, 128), divisor(100, 64)
    (3, 1, 2)
    """
    return next(n for n in range(-(-width // part), width + 1) if width % n == 0)


def step_bias(low: float, high: float) -> Init:
    """Biases b with softplus(b) log-uniform in [low, high], at least 1e-4.

    Gu & Dao 2023 (arXiv 2312.00752), section 3.6 and the published code.
    """

    def values(shape: torch.Size, generator: torch.Generator) -> Tensor:
        u = torch.rand(shape, generator=generator, dtype=torch.float64)
        step = (u * (math.log(high) - math.log(low)) + math.log(low)).exp().clamp(min=_LEAST_STEP)
        return step + (-torch.expm1(-step)).log()  # softplus⁻¹

    return given(values)


def log_of_uniform(low: float, high: float) -> Init:
    """log a, with a uniform in [low, high]."""

    def values(shape: torch.Size, generator: torch.Generator) -> Tensor:
        u = torch.rand(shape, generator=generator, dtype=torch.float64)
        return (low + (high - low) * (1.0 - u)).log()  # 1 − u is never 0

    return given(values)


def wide_zeros(like: Tensor, *shape: int) -> Tensor:
    """Zeros of a recurrent state: float32 where the weights are narrower, as rounding adds up."""
    wide = like.dtype in (torch.float32, torch.float64)
    return like.new_zeros(shape, dtype=like.dtype if wide else torch.float32)


def real_of(span: Span) -> Tensor | None:
    """(1 or b, t) bool, False at pads; None where there are none."""
    return span.real if span.padded else None
