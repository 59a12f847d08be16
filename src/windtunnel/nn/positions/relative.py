"""Learned logits by distance, counted back from the query.

After the relative position logits of LMPlay (jmward01/lmplay, its `apos` experiments) and Shaw et
al. 2018 (arXiv 1803.02155, section 3.2: distances are clipped).
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from windtunnel.nn.component import Position, PositionConfig, Scope, filled, register
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.initialize import Init, constant


class RelativeConfig(PositionConfig):
    """Adds to each logit, or multiplies it with, a learned number for its distance and head."""

    biased: ClassVar[bool] = True
    learned: ClassVar[bool] = True

    type: Literal["relative"] = "relative"
    mode: Literal["add", "multiply"] = "add"
    """How the number acts: added (it starts at 0), or as a factor (it starts at 1)."""
    max_distance: int | None = Field(None, ge=1)
    """Distances of this many tokens and more share the last number; max_seq_len when left out."""

    def resolve(self, scope: Scope) -> Self:
        return self.replace(max_distance=self.max_distance or scope.max_seq_len)

    def kept_squares(self) -> int:
        return int(self.mode == "multiply")

    def cost(self, scope: Scope, t: Num) -> Cost:
        return Cost(params=scope.num_heads * self.distances(scope.causal))

    def distances(self, causal: bool) -> Num:
        """How many distances are told apart: 0 … m, without causality also −m … −1."""
        m = filled(self.max_distance)
        return m + 1 if causal else 2 * m + 1


@register("position")
class RelativePosition(Position[RelativeConfig]):
    """``weight`` (h, distances): bias or factor = weight[h, clip(i − j)], query i and key j."""

    Config = RelativeConfig

    def __init__(self, config: RelativeConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self.causal = scope.causal
        self.weight = nn.Parameter(torch.empty(scope.num_heads, config.distances(scope.causal)))

    def initializers(self) -> dict[str, Init]:
        return {"weight": constant(float(self.config.mode == "multiply"))}

    def bias(self, q_positions: Tensor, k_positions: Tensor) -> Tensor | None:
        return self._square(q_positions, k_positions) if self.config.mode == "add" else None

    def factor(self, q_positions: Tensor, k_positions: Tensor) -> Tensor | None:
        return self._square(q_positions, k_positions) if self.config.mode == "multiply" else None

    def _square(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """(1 or b, t), (1 or b, s) -> (1 or b, h, t, s)"""
        m = filled(self.config.max_distance)
        distance = q_positions[:, :, None] - k_positions[:, None, :]
        column = distance.clamp(0, m) if self.causal else distance.clamp(-m, m) + m
        # index_select: its backward adds up, several times faster than that of indexing
        square = self.weight.index_select(1, column.flatten())
        return square.view(-1, *column.shape).transpose(0, 1)
