"""Induction: what came after this symbol when it came before?"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from windtunnel.data.probe import Draw, Example, ProbeSource, register_probe


@register_probe
class Induction(ProbeSource):
    """``a f c h b … c h b``: different symbols in random order, then a stretch of them again, from
    a random place on; to be found at each place of the stretch: the symbol that follows.

    Any symbol may be asked for, so that each must be bound to the one before it; how far back it
    lies differs from sequence to sequence. Two layers of attention can do it, one cannot. Blind
    answers are right once in num_tokens; any symbol of the sequence is right about once in
    ``length``.

    Source: Olsson et al. 2022 (arXiv 2209.11895, repeated random sequences); Gu and Dao 2023 (arXiv
    2312.00752, section 4.1.2), with one symbol that is asked for and one answer.
    """

    levels: ClassVar[dict[str, dict[str, Any]]] = {
        "medium": {"num_tokens": 32, "length": 24, "num_answers": 8},
        "hard": {"num_tokens": 128, "length": 96, "num_answers": 16},
    }

    type: Literal["induction"] = "induction"
    """The task."""
    num_tokens: int = Field(default=12, gt=1, le=2**14)
    """Symbols that the sequence is drawn from."""
    length: int = Field(default=10, gt=1)
    """Symbols before the stretch."""
    num_answers: int = Field(default=5, gt=0)
    """Symbols of the stretch."""

    def fault(self) -> str | None:
        if self.length > self.num_tokens:
            return f"length {self.length} is more than num_tokens {self.num_tokens}: all differ"
        if self.num_answers >= self.length:
            return f"num_answers {self.num_answers} must be less than length {self.length}"
        return None

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(f"x{number}" for number in range(self.num_tokens))

    @property
    def chance(self) -> float:
        return 1 / self.num_tokens

    @property
    def span(self) -> int:
        return self.length + self.num_answers

    def example(self, draw: Draw) -> Example:
        tokens, n = draw.distinct(self.num_tokens, self.length), self.length
        start = draw.below(n - self.num_answers)
        stretch = tokens[start : start + self.num_answers + 1]
        answers = [(n + place, following) for place, following in enumerate(stretch[1:])]
        return Example(tokens + stretch[:-1], answers)
