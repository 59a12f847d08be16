"""The hidden width of a feed-forward: given, or derived from d_model."""

from __future__ import annotations

import math
from typing import ClassVar, Self

from pydantic import Field, model_validator

from windtunnel.config import Ratio
from windtunnel.nn.activations import Activation
from windtunnel.nn.component import ComponentConfig, Scope


class WidthConfig(ComponentConfig):
    """What all feed-forwards share."""

    default_ratio: ClassVar[float]

    activation: Activation = "gelu"
    """The elementwise function."""
    d_ff: int | None = Field(None, ge=1)
    """Hidden width; derived from `ratio` when left out."""
    ratio: Ratio | None = None
    """Hidden width over d_model."""
    multiple_of: int | None = Field(None, ge=1)
    """Rounds a derived width up to a multiple of this; 1 when left out."""
    bias: bool = False
    """Whether the linear maps add a bias."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the hidden values, in training."""

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        if self.d_ff is not None and self.ratio is not None:
            raise ValueError("d_ff and ratio say the same thing twice; give one")
        if self.d_ff is not None and self.multiple_of is not None:
            raise ValueError("multiple_of has no effect when d_ff is given")
        return self

    def resolve(self, scope: Scope) -> Self:
        """The width filled in; ``ratio`` and ``multiple_of``, having served, are left out."""
        if self.d_ff is not None:
            return self
        ratio = self.default_ratio if self.ratio is None else self.ratio
        step = self.multiple_of or 1
        width = round(ratio * scope.d_model)
        return self.replace(
            d_ff=max(1, math.ceil(width / step)) * step, ratio=None, multiple_of=None
        )
