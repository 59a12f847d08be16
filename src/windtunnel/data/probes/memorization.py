"""Memorization: facts that stand nowhere in the sequence, only in the weights."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from windtunnel.data.probe import Draw, Example, ProbeSource, register_probe


@lru_cache(maxsize=8)
def facts(task: Memorization, seed: int | str) -> tuple[tuple[tuple[int, ...], int], ...]:
    """The facts of a seed: keys, as ids of their symbols, and the number of the value of each."""
    draw = Draw("facts", task.num_keys, task.key_len, task.num_values, seed)
    numbers = draw.distinct(task.num_keys**task.key_len, task.num_facts)
    found = []
    for number in numbers:
        key = []
        for place in range(task.key_len):
            number, symbol = divmod(number, task.num_keys)
            key.append(place * task.num_keys + symbol)
        found.append((tuple(key), draw.below(task.num_values)))
    return tuple(found)


@register_probe
class Memorization(ProbeSource):
    """``a3 b7 a0 b2 …``: keys of some symbols each; to be found at the last of each: the value that
    the key always has.

    The facts, drawn once from ``data.seed``, are the same in training and test, and no sequence
    shows one: only weights can hold them, num_facts·log₂(num_values) bits. Train and test are by
    definition not disjoint. A key of one symbol needs an embedding alone; of two, somebody must put
    them together. Blind answers are right once in num_values, but for what 1 value has more of
    the facts than another one.

    Source: MAD, Poli et al. 2024 (arXiv 2403.17844, section 3.1, memorization), with keys of one
    symbol and a symbol after each where the value is to be found.
    """

    levels: ClassVar[dict[str, dict[str, Any]]] = {
        "medium": {"num_facts": 1024},
        "hard": {"num_facts": 4096, "num_keys": 128, "num_values": 128},
    }
    disjoint: ClassVar[bool] = False

    type: Literal["memorization"] = "memorization"
    """The task."""
    num_facts: int = Field(default=256, gt=0, le=2**20)
    """Keys that have a value."""
    num_keys: int = Field(default=32, gt=0, le=2**12)
    """Symbols at each place of a key."""
    key_len: int = Field(default=2, gt=0, le=4)
    """Symbols of a key."""
    num_values: int = Field(default=32, gt=1, le=2**14)
    """Symbols that values are drawn from."""
    length: int = Field(default=8, gt=0)
    """Keys in a sequence."""

    def fault(self) -> str | None:
        if self.num_facts > self.num_keys**self.key_len:
            keys = f"num_keys ** key_len = {self.num_keys**self.key_len}"
            return f"num_facts {self.num_facts} is more than there are keys, {keys}"
        return None

    @property
    def symbols(self) -> tuple[str, ...]:
        keys = [
            f"{'abcd'[p]}{number}" for p in range(self.key_len) for number in range(self.num_keys)
        ]
        return (*keys, *(f"v{number}" for number in range(self.num_values)))

    @property
    def chance(self) -> float:
        return 1 / self.num_values

    @property
    def span(self) -> int:
        return self.length * self.key_len

    def example(self, draw: Draw) -> Example:
        known = facts(self, draw.key[0])
        first_value = self.key_len * self.num_keys
        tokens: list[int] = []
        answers = []
        for _ in range(self.length):
            key, value = known[draw.below(len(known))]
            tokens += key
            answers.append((len(tokens) - 1, first_value + value))
        return Example(tokens, answers)
