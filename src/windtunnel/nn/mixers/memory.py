"""Attention to learned keys and values in a mixer's place (``nn/memory_slots.py``)."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from windtunnel.nn.component import ComponentConfig, Mixer, Span, register
from windtunnel.nn.memory_slots import SlotReader, SlotsConfig


class MemoryConfig(SlotsConfig):
    """``out(softmax(scale · q Kᵀ) V)`` with learned K and V: each token reads the same slots.

    It looks at no other token, so it suits any direction and keeps no state.
    """

    type: Literal["memory"] = "memory"


class MemoryState(NamedTuple):
    """Nothing: no token depends on another."""


@register("mixer")
class Memory(SlotReader[MemoryConfig], Mixer[MemoryConfig]):
    """y = W_o softmax(scale · W_q x Kᵀ) V; ``keys`` and ``values`` (h, slots, k)."""

    Config = MemoryConfig

    @classmethod
    def examples(cls) -> tuple[ComponentConfig, ...]:
        return MemoryConfig(), MemoryConfig(num_slots=5, lookup="linear", store="facts")

    def initial_state(self, batch: int) -> MemoryState:
        return MemoryState()

    def extend(self, x: Tensor, state: MemoryState, span: Span) -> tuple[Tensor, MemoryState]:
        return self.looked_up(x), state

    def forward(self, x: Tensor, span: Span) -> Tensor:
        return self.looked_up(x)
