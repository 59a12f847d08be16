"""Multi-query associative recall: pairs of key and value, and later some keys again."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from windtunnel.data.probe import Draw, Example, ProbeSource, register_probe


@register_probe
class MQAR(ProbeSource):
    """``k v k v … . . k . k . .``: D pairs, then each key once more among fillers; to be found at
    each repeated key: its value, which is not shown again.

    Keys are different from each other, values too. How far into the second part a key comes is
    drawn with weights g^(a − 1) for the g-th free place, a = ``gap_power``: mostly early, as
    repeated words of a text do. Blind answers are right once in num_values; any value of the
    sequence is right once in num_pairs.

    Source: Arora et al. 2023 (arXiv 2312.04927, appendix E). Here any free place may be taken,
    there every second one; fillers are one symbol.
    """

    levels: ClassVar[dict[str, dict[str, Any]]] = {
        "medium": {"num_pairs": 8, "length": 32, "num_keys": 16, "num_values": 16},
        "hard": {"num_pairs": 16, "length": 64, "num_keys": 64, "num_values": 64},
    }

    type: Literal["mqar"] = "mqar"
    """The task."""
    num_pairs: int = Field(default=4, gt=0)
    """D, the pairs to remember."""
    num_keys: int = Field(default=8, gt=0, le=2**14)
    """Symbols that keys are drawn from."""
    num_values: int = Field(default=8, gt=1, le=2**14)
    """Symbols that values are drawn from."""
    length: int = Field(default=16, gt=0)
    """Tokens of a sequence: at least three for each pair."""
    gap_power: float = Field(default=0.01, gt=0, le=1)
    """How evenly the repeated keys lie: 1 is evenly, near 0 mostly early."""

    def fault(self) -> str | None:
        if self.num_pairs > min(self.num_keys, self.num_values):
            return f"num_pairs {self.num_pairs} is more than num_keys or num_values"
        if self.length < 3 * self.num_pairs:
            return f"length {self.length} is less than 3 × num_pairs = {3 * self.num_pairs}"
        return None

    @property
    def symbols(self) -> tuple[str, ...]:
        keys = tuple(f"k{number}" for number in range(self.num_keys))
        return (*keys, *(f"v{number}" for number in range(self.num_values)), ".")

    @property
    def chance(self) -> float:
        return 1 / self.num_values

    @property
    def span(self) -> int:
        return self.length

    def example(self, draw: Draw) -> Example:
        keys = draw.distinct(self.num_keys, self.num_pairs)
        values = [self.num_keys + v for v in draw.distinct(self.num_values, self.num_pairs)]
        tokens = [token for pair in zip(keys, values, strict=True) for token in pair]
        start, answers = len(tokens), []
        tokens += [len(self.symbols) - 1] * (self.length - start)
        for pair, gap in zip(draw.shuffled(range(self.num_pairs)), self._gaps(draw), strict=True):
            tokens[start + gap] = keys[pair]
            answers.append((start + gap, values[pair]))
        return Example(tokens, answers)

    def _gaps(self, draw: Draw) -> list[int]:
        """Places of the second part, drawn with weights, without repeats (Efraimidis and Spirakis
        2006: the largest of u^(1/w))."""
        free = self.length - 2 * self.num_pairs
        marks = [draw.share() ** ((g + 1) ** (1 - self.gap_power)) for g in range(free)]
        return sorted(sorted(range(free), key=lambda g: -marks[g])[: self.num_pairs])
