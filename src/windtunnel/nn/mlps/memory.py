"""Attention to learned keys and values in the feed-forward's place (``nn/memory_slots.py``)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from windtunnel.nn.component import MLP, ComponentConfig, register
from windtunnel.nn.memory_slots import SlotReader, SlotsConfig


class MemoryMLPConfig(SlotsConfig):
    """``out(softmax(scale · q Kᵀ) V)`` with learned K and V: slots in the place of hidden units.

    With `lookup: linear` there is no softmax and the whole is a linear map of x, which by itself
    adds nothing between two linear maps: it shows what the softmax does.
    """

    type: Literal["memory"] = "memory"


@register("mlp")
class MemoryMLP(SlotReader[MemoryMLPConfig], MLP[MemoryMLPConfig]):
    """y = W_o softmax(scale · W_q x Kᵀ) V; ``keys`` and ``values`` (h, slots, k)."""

    Config = MemoryMLPConfig

    @classmethod
    def examples(cls) -> tuple[ComponentConfig, ...]:
        return MemoryMLPConfig(), MemoryMLPConfig(num_slots=5, lookup="linear", store="facts")

    def forward(self, x: Tensor) -> Tensor:
        return self.looked_up(x)
