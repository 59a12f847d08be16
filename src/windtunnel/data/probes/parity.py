"""Parity: are there evenly or oddly many ones so far?"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from windtunnel.data.probe import register_probe
from windtunnel.data.state_tracking import StateTracking


@register_probe
class Parity(StateTracking):
    """Symbols 0 and 1; to be found at each place: the sum so far, modulo 2.

    The smallest state there is, and yet no attention of fixed depth has it at every length (Hahn
    2020, arXiv 1906.06755), nor a linear recurrence with positive factors (Grazzi et al. 2024,
    arXiv 2411.12537). Blind answers are right half of the time.
    """

    levels: ClassVar[dict[str, dict[str, Any]]] = {"medium": {"length": 32}, "hard": {"length": 64}}

    type: Literal["parity"] = "parity"
    """The task."""

    @property
    def symbols(self) -> tuple[str, ...]:
        return ("0", "1")

    @property
    def order(self) -> int:
        return 2

    def product(self, before: int, element: int) -> int:
        return before ^ element
