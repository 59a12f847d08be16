"""Fuzzy recall: keys and values are of several symbols, and not all equally long."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from windtunnel.data.probe import Draw, Example, ProbeSource, register_probe


@register_probe
class FuzzyRecall(ProbeSource):
    """``K V K V … K V K V``: pairs, then each pair once more in another order; to be found in the
    second part: the symbols of each value, from the last symbol of its key on.

    A key has 1 to ``key_len`` symbols, a value 1 to ``value_len``, each length equally likely. No
    key begins with another one, so it is known where a key ends. The symbols of a value are drawn
    evenly, so blind answers are right once in num_values; a value's own earlier symbols are
    shown while it is being found.

    Source: MAD, Poli et al. 2024 (arXiv 2403.17844, section 3.1, fuzzy in-context recall). There
    a key may begin with another one.
    """

    levels: ClassVar[dict[str, dict[str, Any]]] = {
        "medium": {"num_pairs": 8, "key_len": 3, "value_len": 3},
        "hard": {"num_pairs": 16, "key_len": 3, "value_len": 3, "num_keys": 32, "num_values": 32},
    }

    type: Literal["fuzzy_recall"] = "fuzzy_recall"
    """The task."""
    num_pairs: int = Field(default=4, gt=0)
    """Pairs to remember."""
    num_keys: int = Field(default=16, gt=0, le=2**14)
    """Symbols that keys are made of."""
    num_values: int = Field(default=16, gt=1, le=2**14)
    """Symbols that values are made of."""
    key_len: int = Field(default=2, gt=0, le=16)
    """Symbols of a key, at most."""
    value_len: int = Field(default=2, gt=0, le=16)
    """Symbols of a value, at most."""

    def fault(self) -> str | None:
        if self.num_pairs > self.num_keys:  # each key may take a first symbol for itself
            return f"num_pairs {self.num_pairs} is more than num_keys {self.num_keys}"
        return None

    @property
    def symbols(self) -> tuple[str, ...]:
        keys = tuple(f"k{number}" for number in range(self.num_keys))
        return (*keys, *(f"v{number}" for number in range(self.num_values)))

    @property
    def chance(self) -> float:
        return 1 / self.num_values

    @property
    def span(self) -> int:
        return 2 * self.num_pairs * (self.key_len + self.value_len) - 1

    def example(self, draw: Draw) -> Example:
        keys = self._keys(draw)
        values = [
            [self.num_keys + draw.below(self.num_values) for _ in range(self._some(draw, "value"))]
            for _ in keys
        ]
        tokens = [t for key, value in zip(keys, values, strict=True) for t in (*key, *value)]
        answers: list[tuple[int, int]] = []
        for pair in draw.shuffled(range(self.num_pairs)):
            tokens += keys[pair]
            answers += [(len(tokens) - 1 + i, token) for i, token in enumerate(values[pair])]
            tokens += values[pair]
        return Example(tokens[:-1], answers)  # nothing follows from the last one

    def _some(self, draw: Draw, of: Literal["key", "value"]) -> int:
        return 1 + draw.below(self.key_len if of == "key" else self.value_len)

    def _keys(self, draw: Draw) -> list[list[int]]:
        found: list[list[int]] = []
        while len(found) < self.num_pairs:
            key = [draw.below(self.num_keys) for _ in range(self._some(draw, "key"))]
            shared = (min(len(key), len(other)) for other in found)
            if all(key[:n] != other[:n] for n, other in zip(shared, found, strict=True)):
                found.append(key)
        return found
