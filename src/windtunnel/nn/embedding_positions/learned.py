"""Learned absolute positions (Gehring et al. 2017, arXiv 1705.03122; GPT-2)."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.errors import UsageError
from windtunnel.nn.component import ComponentConfig, EmbeddingPosition, Scope, Span, register
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.initialize import Init, normal


class LearnedPositionConfig(ComponentConfig):
    """A learned vector for each of ``max_seq_len`` positions."""

    type: Literal["learned"] = "learned"
    init_std: float | None = Field(None, ge=0)
    """Standard deviation at the start; that of the token embeddings when left out."""

    def matched(self, rms: float) -> Self:
        """The init filled in, beside token embeddings of that root mean square."""
        return self if self.init_std is not None else self.replace(init_std=rms)

    def resolve(self, scope: Scope) -> Self:
        return self.matched(0.02)

    def cost(self, scope: Scope, t: Num) -> Cost:
        return Cost(params=scope.max_seq_len * scope.d_model)


@register("embedding_position")
class LearnedPosition(EmbeddingPosition[LearnedPositionConfig]):
    """Row p of ``weight`` (max_seq_len, d) at position p."""

    Config = LearnedPositionConfig

    def __init__(self, config: LearnedPositionConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self.weight = nn.Parameter(torch.empty(scope.max_seq_len, scope.d_model))

    def initializers(self) -> dict[str, Init]:
        assert self.config.init_std is not None, "an unresolved config was built"
        return {"weight": normal(self.config.init_std)}

    def forward(self, x: Tensor, span: Span) -> Tensor:
        """Raises UsageError beyond ``max_seq_len``."""
        positions = span.positions
        rows = self.weight.shape[0]
        if span.offset is not None:
            end = span.offset + positions.shape[1]
        elif positions.device.type == "meta":
            end = 0
        else:
            end = int(positions.max()) + 1
        if end > rows:
            raise UsageError(f"{end} tokens, but positions are learned for max_seq_len = {rows}")
        return x + F.embedding(positions.clamp(min=0), self.weight)
