"""No positions: a causal mask alone tells order (Kazemnejad et al. 2023, arXiv 2305.19466)."""

from __future__ import annotations

from typing import Literal

from windtunnel.nn.component import Position, PositionConfig, Scope, register
from windtunnel.nn.cost import Cost, Num


class NoPositionConfig(PositionConfig):
    """Attention is not told where its keys stand."""

    type: Literal["none"] = "none"

    def cost(self, scope: Scope, t: Num) -> Cost:
        return Cost()


@register("position")
class NoPosition(Position[NoPositionConfig]):
    """Neither turns nor biases."""

    Config = NoPositionConfig
