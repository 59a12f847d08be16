"""From the stream to logits."""

from __future__ import annotations

from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.config import Choice, Config
from windtunnel.nn.component import ComponentConfig, Norm, Scope, build_component
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.embedding import TIED_GAIN
from windtunnel.nn.initialize import Init, constant, normal
from windtunnel.nn.norms.rmsnorm import RMSNormConfig


class HeadConfig(Config):
    """``cap(weight · norm(x) + bias)``."""

    norm: Annotated[ComponentConfig, Choice("norm")] = RMSNormConfig()
    """The last norm of the stream."""
    bias: bool = False
    """Whether each token's logit has a bias."""
    softcap: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Soft limit c of the logits, c·tanh(z/c); none when left out."""
    init_std: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Standard deviation of an untied weight at the start; 0.32/√d_model when left out."""

    def resolve(self, scope: Scope) -> Self:
        if scope.tie and self.init_std is not None:
            raise ValueError("init_std has no effect on a tied head; set embedding.init_std")
        std = self.init_std
        if std is None and not scope.tie:
            std = TIED_GAIN * scope.d_model**-0.5
        return self.replace(norm=self.norm.resolve(scope), init_std=std)

    def cost(self, scope: Scope, t: Num) -> Cost:
        """A tied weight is not counted again, and the loss keeps the logits: not counted here."""
        d, V = scope.d_model, scope.vocab_size
        tied = Cost(params=-d * V) if scope.tie else Cost()
        kept = d + V * (self.softcap is not None)
        return (
            linear_cost(d, V, bias=self.bias)
            + tied
            + self.norm.cost(scope, t)
            + Cost(activation_values=kept)
        )


class Head(nn.Module):
    """The last norm and the logits: b t d -> b t V; ``weight`` (V, d).

    With ``scope.tie`` there is no weight until that of the embedding is assigned to ``weight``.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, config: HeadConfig, scope: Scope) -> None:
        super().__init__()
        self.config = config
        d, V = scope.d_model, scope.vocab_size
        self.norm: Norm[Any] = build_component("norm", config.norm, scope)
        self.register_parameter("weight", None if scope.tie else nn.Parameter(torch.empty(V, d)))
        self.register_parameter("bias", nn.Parameter(torch.empty(V)) if config.bias else None)

    def initializers(self) -> dict[str, Init]:
        """The inits of ``bias`` and, where it is the head's own, ``weight``."""
        inits = {"bias": constant(0.0)}
        if self.config.init_std is not None:
            inits["weight"] = normal(self.config.init_std)
        return inits

    def normed(self, x: Tensor) -> Tensor:
        """What the logits are made of: b t d -> b t d."""
        y: Tensor = self.norm(x)
        return y

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits of what :meth:`normed` gave: b t d -> b t V."""
        assert self.weight is not None, "a tied head needs the embedding's weight"
        logits = F.linear(hidden, self.weight, self.bias)
        cap = self.config.softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap
