"""Addition modulo k: an odometer with one wheel."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from windtunnel.data.probe import register_probe
from windtunnel.data.state_tracking import StateTracking


@register_probe
class Cyclic(StateTracking):
    """Symbols 0 … k − 1; to be found at each place: the sum so far, modulo k (the group Z_k).

    Blind answers are right once in k.
    """

    levels: ClassVar[dict[str, dict[str, Any]]] = {
        "medium": {"length": 32, "modulus": 7},
        "hard": {"length": 64, "modulus": 11},
    }

    type: Literal["cyclic"] = "cyclic"
    """The task."""
    modulus: int = Field(default=5, gt=1, le=4096)
    """k, the number of states."""

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(str(number) for number in range(self.modulus))

    @property
    def order(self) -> int:
        return self.modulus

    def product(self, before: int, element: int) -> int:
        return (before + element) % self.modulus
