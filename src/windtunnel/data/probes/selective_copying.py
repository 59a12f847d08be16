"""Selective copying: write down the symbols among the blanks, in their order."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from windtunnel.data.probe import Draw, Example, ProbeSource, register_probe


@register_probe
class SelectiveCopying(ProbeSource):
    """``. x . . x x . . > > >``: symbols at random places among blanks, then as many marks; to be
    found at the i-th mark: the i-th symbol.

    Where the symbols lie differs, so no fixed distance helps. Blind answers are right once in
    num_tokens.

    Source: Gu and Dao 2023 (Mamba, arXiv 2312.00752, section 4.1.1); MAD (arXiv 2403.17844).
    """

    levels: ClassVar[dict[str, dict[str, Any]]] = {
        "medium": {"num_copied": 8, "length": 64},
        "hard": {"num_copied": 16, "length": 256},
    }

    type: Literal["selective_copying"] = "selective_copying"
    """The task."""
    num_copied: int = Field(default=4, gt=0)
    """Symbols to write down."""
    num_tokens: int = Field(default=16, gt=1, le=2**14)
    """Symbols that they are drawn from."""
    length: int = Field(default=16, gt=0)
    """Symbols and blanks together; the marks come after them."""

    def fault(self) -> str | None:
        if self.num_copied > self.length:
            return f"num_copied {self.num_copied} is more than length {self.length}"
        return None

    @property
    def symbols(self) -> tuple[str, ...]:
        return (*(f"x{number}" for number in range(self.num_tokens)), ".", ">")

    @property
    def chance(self) -> float:
        return 1 / self.num_tokens

    @property
    def span(self) -> int:
        return self.length + self.num_copied

    def example(self, draw: Draw) -> Example:
        blank, mark = self.num_tokens, self.num_tokens + 1
        tokens, answers = [blank] * self.length, []
        for number, place in enumerate(draw.places(self.length, self.num_copied)):
            tokens[place] = draw.below(self.num_tokens)
            answers.append((self.length + number, tokens[place]))
        return Example(tokens + [mark] * self.num_copied, answers)
