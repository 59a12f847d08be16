"""A residual whose two factors are learned, or predicted for each token, between two bounds."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.nn.component import ComponentConfig, Residual, Scope, filled, register
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.initialize import Init, constant
from windtunnel.nn.linear import Linear

_GAIN = 0.1
"""Of what predicts the factors: at the start they differ little between tokens."""


class MixedConfig(ComponentConfig):
    """``α·x + β·y`` with α and β between ``floor`` and ``ceiling``, by a sigmoid.

    They are learned numbers (``fixed``), or are predicted for each token from x and y by a linear
    map or by a small network. The idea is lmplay's (``learned residual``).
    """

    type: Literal["mixed"] = "mixed"
    kind: Literal["fixed", "linear", "mlp"] = "fixed"
    """Where the factors come from."""
    per: Literal["scalar", "channel"] = "scalar"
    """One factor for all channels, or one for each."""
    floor: float = Field(0.0, allow_inf_nan=False)
    """What no factor is below."""
    ceiling: float = Field(2.0, allow_inf_nan=False)
    """What no factor is above."""
    alpha: float = Field(1.0, allow_inf_nan=False)
    """What α, the factor of the stream, starts at (where it is predicted, its middle)."""
    beta: float = Field(1.0, allow_inf_nan=False)
    """What β, the factor of the branch's output, starts at."""
    d_hidden: int | None = Field(None, ge=1)
    """Hidden width of the network of `mlp`; a quarter of d_model when left out."""

    @model_validator(mode="after")
    def _between_the_bounds(self) -> Self:
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            if not self.floor < value < self.ceiling:
                raise ValueError(f"{name} {value} is not between {self.floor} and {self.ceiling}")
        if self.d_hidden is not None and self.kind != "mlp":
            raise ValueError(f"d_hidden has no effect: kind is {self.kind}")
        return self

    def resolve(self, scope: Scope) -> Self:
        if self.kind != "mlp" or self.d_hidden is not None:
            return self
        return self.replace(d_hidden=max(1, scope.d_model // 4))

    def cost(self, scope: Scope, t: Num) -> Cost:
        d = scope.d_model
        w = 2 * (d if self.per == "channel" else 1)
        if self.kind == "fixed":
            return Cost(params=w, activation_values=2 * d)
        if self.kind == "linear":
            products, biases, kept = 2 * d * w, w, 2 * w
        else:
            f = filled(self.d_hidden)
            products, biases, kept = 2 * d * f + f * w, f + w, 2 * f + 2 * w
        return Cost(
            params=products + biases,
            forward_flops=2 * products,
            decode_flops=2 * products,
            activation_values=2 * d + kept,
        )


@register("residual")
class MixedResidual(Residual[MixedConfig]):
    """α·x + β·y; [α, β] = floor + (ceiling − floor) · σ(z), one of each or d of each.

    fixed: z = [alpha, beta]. linear: z = [alpha, beta] + stream·x + branch·y. mlp: z = [alpha,
    beta] + out·gelu(stream·x + branch·y + hidden_bias). The stream is read without a norm.
    """

    Config = MixedConfig

    def __init__(self, config: MixedConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d = scope.d_model
        w = d if config.per == "channel" else 1
        self.alpha = nn.Parameter(torch.empty(w))
        self.beta = nn.Parameter(torch.empty(w))
        if config.kind == "fixed":
            return
        f, gain = 2 * w, _GAIN
        if config.kind == "mlp":
            f, gain = filled(config.d_hidden), 1.0
            self.hidden_bias = nn.Parameter(torch.empty(f))
            self.out = Linear(f, 2 * w, bias=False, gain=_GAIN, stream="none")
        self.stream = Linear(d, f, bias=False, gain=gain)
        self.branch = Linear(d, f, bias=False, gain=gain)

    def initializers(self) -> dict[str, Init]:
        return {
            "alpha": constant(self._logit(self.config.alpha)),
            "beta": constant(self._logit(self.config.beta)),
            "hidden_bias": constant(0.0),
        }

    def _logit(self, factor: float) -> float:
        """What the sigmoid turns into ``factor``."""
        floor, ceiling = self.config.floor, self.config.ceiling
        return math.log((factor - floor) / (ceiling - factor))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        config = self.config
        z = torch.cat((self.alpha, self.beta))
        if config.kind != "fixed":
            read = self.stream(x) + self.branch(y)
            if config.kind == "mlp":
                read = self.out(F.gelu(read + self.hidden_bias))
            z = z + read
        factors = config.floor + (config.ceiling - config.floor) * z.sigmoid()
        alpha, beta = factors.chunk(2, -1)
        return alpha * x + beta * y
