"""From token ids to the stream."""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.config import Choice, Config
from windtunnel.nn.component import (
    ComponentConfig,
    EmbeddingPosition,
    Scope,
    Span,
    build_component,
)
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.embedding_positions.none import NoEmbeddingPositionConfig
from windtunnel.nn.initialize import Init, normal

TIED_GAIN = 0.32
"""Standard deviation of the logits at the start where the head reads unit variance: a loss of
ln V + 0.32²/2, within 1% of ln V from a vocabulary of 256 on."""
_UNTIED_STD = 0.02


class EmbeddingConfig(Config):
    """The token embedding: a vector for each token id."""

    tie: bool = True
    """Whether the head's weight is the embedding's."""
    scale: bool = False
    """Whether embeddings are multiplied by √d_model, as Gemma does."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the embeddings, in training."""
    init_std: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Standard deviation at the start; when left out 0.32/√d_model where tied (the weight then
    makes the logits too), else 0.02. Recurrent stacks without norms want more, say 0.1 and 1."""
    position: Annotated[ComponentConfig, Choice("embedding_position")] = NoEmbeddingPositionConfig()
    """Absolute positions, added to the token's vector."""

    def resolve(self, scope: Scope) -> Self:
        """The inits filled in; positions start with the root mean square of the embeddings."""
        std = self.init_std
        if std is None:
            std = TIED_GAIN * scope.d_model**-0.5 if self.tie else _UNTIED_STD
        rms = std * math.sqrt(scope.d_model) if self.scale else std
        position: Any = self.position
        if hasattr(position, "matched"):
            position = position.matched(rms)
        return self.replace(init_std=std, position=position.resolve(scope))

    def cost(self, scope: Scope, t: Num) -> Cost:
        own = Cost(
            params=scope.vocab_size * scope.d_model,
            activation_values=2 + scope.d_model * (self.dropout > 0),
        )
        return own + self.position.cost(scope, t)


class Embedding(nn.Module):
    """dropout(√d · weight[token] + position): b t -> b t d; ``weight`` (V, d)."""

    def __init__(self, config: EmbeddingConfig, scope: Scope) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(scope.vocab_size, scope.d_model))
        self.factor = math.sqrt(scope.d_model) if config.scale else 1.0
        self.position: EmbeddingPosition[Any] = build_component(
            "embedding_position", config.position, scope
        )

    def initializers(self) -> dict[str, Init]:
        """The init of ``weight``."""
        assert self.config.init_std is not None, "an unresolved config was built"
        return {"weight": normal(self.config.init_std)}

    def forward(self, tokens: Tensor, span: Span) -> Tensor:
        """b t -> b t d. Tokens at pads must be valid ids too."""
        x = F.embedding(tokens, self.weight)
        if self.config.scale:
            x = x * self.factor
        return F.dropout(self.position(x, span), self.config.dropout, self.training)
