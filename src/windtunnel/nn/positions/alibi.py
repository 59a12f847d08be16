"""Attention with linear biases (Press et al. 2021, arXiv 2108.12409, section 3)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from windtunnel.nn.component import Position, PositionConfig, Scope, register
from windtunnel.nn.cost import Cost, Num


class ALiBiConfig(PositionConfig):
    """Subtracts ``slope · distance`` from the logits, with a fixed slope for each head."""

    biased: ClassVar[bool] = True

    type: Literal["alibi"] = "alibi"

    def cost(self, scope: Scope, t: Num) -> Cost:
        return Cost()


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """2^(−8i/h) for i = 1 … h when h is a power of two.

    Otherwise those of the power of two below, then every other one of the power above, as in the
    authors' code.

    >>> alibi_slopes(2)
    (0.0625, 0.00390625)
    """
    below = 1 << (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * i / below) for i in range(1, below + 1)]
    between = [2.0 ** (-4.0 * i / below) for i in range(1, 2 * below + 1, 2)]
    return tuple(slopes + between[: num_heads - below])


@register("position")
class ALiBi(Position[ALiBiConfig]):
    """bias = −slope·|i − j| for query i and key j."""

    Config = ALiBiConfig

    def __init__(self, config: ALiBiConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self.slopes = alibi_slopes(scope.num_heads)

    def bias(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        distance = (q_positions[:, None, :, None] - k_positions[:, None, None, :]).abs()
        slopes = torch.tensor(self.slopes, device=q_positions.device, dtype=torch.float32)
        return -slopes[:, None, None] * distance
