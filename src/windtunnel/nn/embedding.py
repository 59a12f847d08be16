"""From token ids to the stream."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.config import Choice, Config
from windtunnel.errors import UsageError
from windtunnel.nn.component import (
    ComponentConfig,
    EmbeddingPosition,
    Norm,
    Scope,
    Span,
    build_component,
)
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.embedding_positions.none import NoEmbeddingPositionConfig
from windtunnel.nn.fold import Folded
from windtunnel.nn.initialize import Init, normal
from windtunnel.nn.norms.none import NoNormConfig
from windtunnel.nn.unified_embedding import UnifiedConfig, UnifiedMap

TIED_GAIN = 0.32
"""Standard deviation of the logits at the start where the head reads unit variance: a loss of
ln V + 0.32²/2, within 1% of ln V from a vocabulary of 256 on."""
_UNTIED_STD = 0.02


class EmbeddingConfig(Config):
    """The token embedding: a vector for each token id."""

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset({"unified", "norm", "token_types"})

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
    token_types: int | None = Field(None, ge=1)
    """How many kinds of tokens have a learned vector, added too (BERT's segments); a token is of
    kind 0 unless told."""
    norm: Annotated[ComponentConfig, Choice("norm")] = NoNormConfig()
    """Norm of the sum of token, position and kind, before the dropout."""
    unified: UnifiedConfig | None = None
    """Makes the vectors from a wider table, by a network that all tokens share."""

    @model_validator(mode="after")
    def _a_table_to_tie(self) -> Self:
        if self.unified is not None and self.tie:
            raise ValueError("a unified embedding has no table for the head; write tie: false")
        return self

    def resolve(self, scope: Scope) -> Self:
        """The inits filled in; positions start with the root mean square of the embeddings."""
        std = self.init_std
        if std is None:
            std = TIED_GAIN * scope.d_model**-0.5 if self.tie else _UNTIED_STD
        rms = std * math.sqrt(scope.d_model) if self.scale else std
        position: Any = self.position
        if hasattr(position, "matched"):
            position = position.matched(rms)
        unified = self.unified and self.unified.resolve(scope)
        return self.replace(
            init_std=std,
            position=position.resolve(scope),
            norm=self.norm.resolve(scope),
            unified=unified,
        )

    def stream_std(self, d_model: int) -> float:
        """Standard deviation of the resolved embedding's vectors at the start, at most 1.

        1 too where they are normed, and where the table starts at zero: then it says nothing.
        """
        assert self.init_std is not None, "an unresolved config was asked"
        if self.norm.type != "none":
            return 1.0
        rms = self.init_std * math.sqrt(d_model) if self.scale else self.init_std
        return min(rms, 1.0) or 1.0

    def without_table(self) -> Self:
        """For input that comes as vectors, of about unit variance: positions, norm and dropout."""
        position: Any = self.position
        if hasattr(position, "matched"):
            position = position.matched(1.0)
        return self.replace(
            tie=False, scale=False, init_std=0.0, position=position, token_types=None, unified=None
        )

    def cost(self, scope: Scope, t: Num) -> Cost:
        width, network = scope.d_model, Cost()
        if self.unified is not None:
            width, network = self.unified.width(scope), self.unified.cost(scope, t)
        own = Cost(
            params=scope.vocab_size * width + (self.token_types or 0) * scope.d_model,
            activation_values=2 + scope.d_model * (self.dropout > 0),
        )
        return own + network + self.position.cost(scope, t) + self.norm.cost(scope, t)

    def cost_without_table(self, scope: Scope, t: Num) -> Cost:
        """As :meth:`cost`, for input that comes as vectors."""
        own = Cost(activation_values=scope.d_model * (self.dropout > 0))
        return own + self.position.cost(scope, t) + self.norm.cost(scope, t)


class InputPositions(nn.Module):
    """dropout(norm(x + position)): b t d -> b t d, for input that comes as vectors."""

    def __init__(self, config: EmbeddingConfig, scope: Scope) -> None:
        super().__init__()
        self.config = config
        self.position: EmbeddingPosition[Any] = build_component(
            "embedding_position", config.position, scope
        )
        self.norm: Norm[Any] = build_component("norm", config.norm, scope)

    def forward(self, x: Tensor, span: Span, types: Tensor | None = None) -> Tensor:
        """b t d -> b t d. Raises UsageError where kinds of tokens are told: there are none."""
        if types is not None:
            raise UsageError("kinds of tokens were given, but the input comes as vectors")
        return F.dropout(self.norm(self.position(x, span)), self.config.dropout, self.training)


class Embedding(nn.Module):
    """dropout(norm(√d · weight[token] + kind + position)): b t -> b t d; ``weight`` (V, d).

    ``token_types`` (kinds, d) holds the vectors of the kinds of tokens. Unified, ``weight``
    (V, factor·d) is the wide table, and ``unified`` makes vectors of its rows.
    """

    def __init__(self, config: EmbeddingConfig, scope: Scope) -> None:
        super().__init__()
        self.config = config
        width, self.unified = scope.d_model, None
        if config.unified is not None:
            width = int(config.unified.width(scope))
            self.unified = UnifiedMap(config.unified, scope, self._std())
        self.weight = nn.Parameter(torch.empty(scope.vocab_size, width))
        self.factor = math.sqrt(scope.d_model) if config.scale else 1.0
        self.position: EmbeddingPosition[Any] = build_component(
            "embedding_position", config.position, scope
        )
        self.norm: Norm[Any] = build_component("norm", config.norm, scope)
        kinds = config.token_types
        table = None if kinds is None else nn.Parameter(torch.empty(kinds, scope.d_model))
        self.register_parameter("token_types", table)

    token_types: Tensor | None

    def initializers(self) -> dict[str, Init]:
        """The init of ``weight`` and ``token_types``, which begin equally large."""
        weight = normal(self._std() if self.unified is None else 1.0)
        return {"weight": weight, "token_types": normal(self._std() * self.factor)}

    def _std(self) -> float:
        assert self.config.init_std is not None, "an unresolved config was built"
        return self.config.init_std

    def forward(self, tokens: Tensor, span: Span, types: Tensor | None = None) -> Tensor:
        """b t -> b t d. Tokens at pads must be valid ids too. Vectors (b t d) in place of ids are
        taken as if looked up and scaled. ``types`` (b t): the kind of each token; 0 unless told.

        Raises:
            UsageError: kinds of tokens are told, but none have vectors.
        """
        x = tokens if tokens.is_floating_point() else self.looked_up(tokens)
        if self.token_types is not None:
            x = x + (self.token_types[0] if types is None else F.embedding(types, self.token_types))
        elif types is not None:
            raise UsageError("kinds of tokens were given, but embedding.token_types is not set")
        return F.dropout(self.norm(self.position(x, span)), self.config.dropout, self.training)

    def looked_up(self, tokens: Tensor) -> Tensor:
        """The vectors of tokens, scaled, without positions: b t -> b t d."""
        if self.unified is None:
            x = F.embedding(tokens, self.weight)
        else:
            x = self.unified.of_tokens(tokens, self.weight)
        return x * self.factor if self.config.scale else x

    def folded(self) -> Folded:
        """The table that the unified network makes."""
        weights = dict(self.state_dict())
        if self.unified is None:
            return Folded(self.config, weights)
        with torch.no_grad():
            table = self.unified(self.weight)
        kept = {name: value for name, value in weights.items() if _beside_the_table(name)}
        return Folded(self.config.replace(unified=None), {"weight": table, **kept})


def _beside_the_table(name: str) -> bool:
    return name.startswith(("position.", "norm.")) or name == "token_types"
