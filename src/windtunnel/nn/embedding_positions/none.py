"""No positions in the embedding."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from windtunnel.nn.component import ComponentConfig, EmbeddingPosition, Scope, Span, register
from windtunnel.nn.cost import Cost, Num


class NoEmbeddingPositionConfig(ComponentConfig):
    """Nothing is added to the token embeddings."""

    type: Literal["none"] = "none"

    def cost(self, scope: Scope, t: Num) -> Cost:
        return Cost()


@register("embedding_position")
class NoEmbeddingPosition(EmbeddingPosition[NoEmbeddingPositionConfig]):
    """Adds nothing."""

    Config = NoEmbeddingPositionConfig

    def forward(self, x: Tensor, span: Span) -> Tensor:
        return x
