"""Recall among noise: pairs of key and value, torn apart by symbols that mean nothing."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from windtunnel.data.probe import Draw, Example, ProbeSource, register_probe


@register_probe
class NoisyRecall(ProbeSource):
    """``k v ~ k v ~ ~ k v … k ~ k``: pairs, then their keys again, and between them noise; to be
    found at each repeated key: its value.

    A value follows its key at once. Noise symbols are drawn evenly from an alphabet of their own.
    Blind answers are right once in num_values; any value of the sequence is right once in
    num_pairs.

    Source: MAD, Poli et al. 2024 (arXiv 2403.17844, section 3.1, noisy in-context recall). There
    keys and values go on alternating; here each key comes twice, and its value once.
    """

    levels: ClassVar[dict[str, dict[str, Any]]] = {
        "medium": {"num_pairs": 8, "num_keys": 16, "num_values": 16},
        "hard": {"num_pairs": 16, "num_keys": 64, "num_values": 64, "noise": 0.75},
    }

    type: Literal["noisy_recall"] = "noisy_recall"
    """The task."""
    num_pairs: int = Field(default=4, gt=0)
    """Pairs to remember."""
    num_keys: int = Field(default=8, gt=0, le=2**14)
    """Symbols that keys are drawn from."""
    num_values: int = Field(default=8, gt=1, le=2**14)
    """Symbols that values are drawn from."""
    num_noise: int = Field(default=8, gt=0, le=2**14)
    """Symbols that noise is drawn from."""
    noise: float = Field(default=0.5, ge=0, lt=1)
    """The share of tokens that are noise, rounded to whole tokens."""

    def fault(self) -> str | None:
        if self.num_pairs > min(self.num_keys, self.num_values):
            return f"num_pairs {self.num_pairs} is more than num_keys or num_values"
        return None

    @property
    def symbols(self) -> tuple[str, ...]:
        names = (("k", self.num_keys), ("v", self.num_values), ("n", self.num_noise))
        return tuple(f"{name}{number}" for name, count in names for number in range(count))

    @property
    def chance(self) -> float:
        return 1 / self.num_values

    @property
    def span(self) -> int:
        return round(3 * self.num_pairs / (1 - self.noise))

    def example(self, draw: Draw) -> Example:
        count, first_noise = self.num_pairs, self.num_keys + self.num_values
        keys = draw.distinct(self.num_keys, count)
        values = [self.num_keys + v for v in draw.distinct(self.num_values, count)]
        units = [[k, v] for k, v in zip(keys, values, strict=True)]
        again = draw.shuffled(range(count))
        units += [[keys[pair]] for pair in again]
        noises = self.span - 3 * count
        wanted = set(draw.places(len(units) + noises, len(units)))
        tokens: list[int] = []
        answers: list[tuple[int, int]] = []
        coming = iter(enumerate(units))
        for place in range(len(units) + noises):
            if place not in wanted:
                tokens.append(first_noise + draw.below(self.num_noise))
                continue
            number, unit = next(coming)
            if number >= count:
                answers.append((len(tokens), values[again[number - count]]))
            tokens += unit
        return Example(tokens, answers)
