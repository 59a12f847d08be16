"""Learned logits by distance, counted back from the query.

After the relative position logits of LMPlay (jmward01/lmplay, its `apos` experiments), Shaw et
al. 2018 (arXiv 1803.02155, section 3.2: distances are clipped) and, in buckets, T5 (Raffel et al.
2020, arXiv 1910.10683, section 2.1).
"""

from __future__ import annotations

import math
from functools import cache
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
    unwritten_defaults: ClassVar[frozenset[str]] = frozenset({"buckets"})

    type: Literal["relative"] = "relative"
    mode: Literal["add", "multiply"] = "add"
    """How the number acts: added (it starts at 0), or as a factor (it starts at 1)."""
    max_distance: int | None = Field(None, ge=1)
    """Distances of this many tokens and more share the last number; max_seq_len when left out."""
    buckets: int | None = Field(None, ge=2)
    """How many numbers there are: half of them for one distance each, the others for ever wider
    ranges up to max_distance, as in T5; without causality half are for what comes after. A number
    for each distance when left out."""

    def resolve(self, scope: Scope) -> Self:
        resolved = self.replace(max_distance=self.max_distance or scope.max_seq_len)
        if self.buckets is not None:
            side, single = resolved.side(scope.causal), resolved.side(scope.causal) // 2
            if not scope.causal and (self.buckets % 2 or single < 1):
                raise ValueError(f"buckets {self.buckets}: two sides need an even number, ≥ 4")
            if filled(resolved.max_distance) <= single:
                raise ValueError(
                    f"max_distance {resolved.max_distance} is not more than the {single} distances "
                    f"that have one of the {side} buckets each"
                )
        return resolved

    def kept_squares(self) -> int:
        return int(self.mode == "multiply")

    def cost(self, scope: Scope, t: Num) -> Cost:
        return Cost(params=scope.num_heads * self.distances(scope.causal))

    def distances(self, causal: bool) -> Num:
        """How many distances are told apart: 0 … m, without causality also −m … −1; or buckets."""
        if self.buckets is not None:
            return self.buckets
        m = filled(self.max_distance)
        return m + 1 if causal else 2 * m + 1

    def side(self, causal: bool) -> int:
        """How many buckets tell apart the distances to what stands on one side."""
        return filled(self.buckets) // (1 if causal else 2)


@cache
def bucket_starts(side: int, max_distance: int) -> tuple[int, ...]:
    """The least distance of each of ``side`` buckets but the first.

    With m = side // 2, distance n < m is in bucket n, any other in
    m + ⌊(side − m) · ln(n / m) / ln(max_distance / m)⌋, or the last. As in the published models the
    logarithm is that of float32: where a range ends at a whole number, its rounding decides.

    >>> bucket_starts(8, 16)
    (1, 2, 3, 4, 6, 8, 12)
    """
    single = side // 2
    n = torch.arange(single, max_distance + 1, device="cpu")
    ratio = (n.float() / single).log() / math.log(max_distance / single)
    found = single + (ratio * (side - single)).long().clamp(max=side - single - 1)
    wide = torch.searchsorted(found, torch.arange(single, side, device="cpu"))
    return (*range(1, single), *(int(n[at]) for at in wide))


@register("position")
class RelativePosition(Position[RelativeConfig]):
    """``weight`` (h, distances): bias or factor = weight[h, clip(i − j)], query i and key j.

    In buckets it is weight[h, bucket(i − j)]; those of keys after the query come last. (With
    buckets, the one for a distance of 0 after the query is never used, as in T5.)
    """

    Config = RelativeConfig

    def __init__(self, config: RelativeConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self.causal = scope.causal
        self.starts: tuple[int, ...] = ()
        if config.buckets is not None:
            self.starts = bucket_starts(config.side(scope.causal), filled(config.max_distance))
        self.weight = nn.Parameter(torch.empty(scope.num_heads, config.distances(scope.causal)))

    def initializers(self) -> dict[str, Init]:
        return {"weight": constant(float(self.config.mode == "multiply"))}

    def bias(self, q_positions: Tensor, k_positions: Tensor) -> Tensor | None:
        return self._square(q_positions, k_positions) if self.config.mode == "add" else None

    def factor(self, q_positions: Tensor, k_positions: Tensor) -> Tensor | None:
        return self._square(q_positions, k_positions) if self.config.mode == "multiply" else None

    def _square(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """(1 or b, t), (1 or b, s) -> (1 or b, h, t, s)"""
        column = self._column(q_positions[:, :, None] - k_positions[:, None, :])
        # index_select: its backward adds up, several times faster than that of indexing
        square = self.weight.index_select(1, column.flatten())
        return square.view(-1, *column.shape).transpose(0, 1)

    def _column(self, distance: Tensor) -> Tensor:
        """Where in ``weight`` the number of each distance stands."""
        m = filled(self.config.max_distance)
        if self.config.buckets is None:
            return distance.clamp(0, m) if self.causal else distance.clamp(-m, m) + m
        starts = torch.tensor(self.starts, device=distance.device)
        after = (distance < 0) * self.config.side(self.causal)
        far = distance.clamp(min=0) if self.causal else distance.abs()
        column = torch.bucketize(far, starts, right=True)
        return column if self.causal else column + after
