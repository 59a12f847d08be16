"""Compression: keep a whole sequence, and give back any part of it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from windtunnel.data.probe import Draw, Example, ProbeSource, register_probe


@register_probe
class Compression(ProbeSource):
    """``x x x x p3 p0 p2 p1``: n random symbols, then the numbers of their places in random order;
    to be found at each number: the symbol of that place.

    n·log₂(num_tokens) bits must be kept, no regularity helps, and which of them is asked for is not
    known before. Blind answers are right once in num_tokens.

    Source: MAD, Poli et al. 2024 (arXiv 2403.17844, section 3.1, compression). There one token is
    decoded by an MLP that is given the place; here the model itself answers, and an attention may
    look back: it need not compress, which its state size shows.
    """

    levels: ClassVar[dict[str, dict[str, Any]]] = {
        "medium": {"num_kept": 16},
        "hard": {"num_kept": 32, "num_tokens": 32},
    }

    type: Literal["compression"] = "compression"
    """The task."""
    num_kept: int = Field(default=8, gt=0, le=2**14)
    """n, the symbols to keep."""
    num_tokens: int = Field(default=16, gt=1, le=2**14)
    """Symbols that they are drawn from."""

    @property
    def symbols(self) -> tuple[str, ...]:
        kept = tuple(f"x{number}" for number in range(self.num_tokens))
        return (*kept, *(f"p{number}" for number in range(self.num_kept)))

    @property
    def chance(self) -> float:
        return 1 / self.num_tokens

    @property
    def span(self) -> int:
        return 2 * self.num_kept

    def example(self, draw: Draw) -> Example:
        n = self.num_kept
        kept = [draw.below(self.num_tokens) for _ in range(n)]
        asked = draw.distinct(n, n)
        tokens = kept + [self.num_tokens + place for place in asked]
        return Example(tokens, [(n + i, kept[place]) for i, place in enumerate(asked)])
