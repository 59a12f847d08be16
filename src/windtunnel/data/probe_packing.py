"""The examples of a synthetic task, made once and packed: train, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.config.digest import digest
from windtunnel.data.packing import SAMPLE_ENDS, finish_pack, token_dtype
from windtunnel.data.probe import Draw, Example, ProbeSource, code_of
from windtunnel.data.progress import Progress, silent
from windtunnel.data.split import Side
from windtunnel.data.tokenizers.symbols import SymbolTokenizer
from windtunnel.errors import UsageError

_ATTEMPTS = 200
_WITHOUT_EFFECT = {"samples", "held_samples", "test_lengths"}
"""Settings that say how many examples there are, not which ones come first."""


class ProbeCorpus:
    """The examples of a task, by side.

    Example ``number`` of a side depends on the task, the seed, the side and the number alone, so
    more samples begin with the same ones. Of a disjoint task a sequence belongs to a side by its
    own hash (half of all to training, a quarter each to validation and test): whatever is asked of
    one side is never on another.

    Raises:
        UsageError: the task has so few different sequences that a side has none.
    """

    def __init__(self, task: ProbeSource, seed: int) -> None:
        self.task, self.seed = task, seed
        self._what = digest(task.model_dump(mode="json", exclude=_WITHOUT_EFFECT))

    def identity(self) -> dict[str, Any]:
        """What the examples depend on."""
        return {"task": self.task.model_dump(mode="json"), "seed": self.seed} | {
            "code": code_of(self.task)
        }

    def count(self, side: Side) -> int:
        """Examples of a side."""
        if side == "train":
            return self.task.samples
        lengths = 1 + len(self.task.test_lengths) if side == "test" else 1
        return self.task.held_samples * lengths

    def examples(self, side: Side) -> Iterator[tuple[int, Example]]:
        """Each example of a side, after the number of its length: 0, and 1, 2, … for the
        longer ones of the test."""
        count = self.task.samples if side == "train" else self.task.held_samples
        for number in range(count):
            yield 0, self.example(side, number)
        for group, length in enumerate(self.task.test_lengths if side == "test" else (), start=1):
            for number in range(count):
                draw = Draw(self.seed, self._what, side, length, number)
                yield group, self.task.longer_example(draw, length)

    def example(self, side: Side, number: int) -> Example:
        """One example of the own length."""
        for attempt in range(_ATTEMPTS):
            found = self.task.example(Draw(self.seed, self._what, side, number, attempt))
            if not self.task.disjoint or _side_of(found) == side:
                return found
        raise UsageError(
            f"data.source: {self.task.type} has too few different sequences to keep some for "
            f"{side} alone; make it longer, or give it more symbols"
        )


def _side_of(example: Example) -> Side:
    bucket = hashlib.sha256(",".join(map(str, example.tokens)).encode()).digest()[0] % 4
    sides: tuple[Side, ...] = ("valid", "test", "train", "train")
    return sides[bucket]


def write_probe(
    corpus: ProbeCorpus, tokenizer: SymbolTokenizer, folder: Path, progress: Progress = silent
) -> None:
    """Writes the examples of all sides into a folder; the description is written last.

    An example lies there as its tokens, and then its answers, place and id of each. Where both
    end stands in a file of its own, with the number of its length.
    """
    dtype = token_dtype(max(tokenizer.vocab_size, corpus.task.longest))
    sides: dict[Side, dict[str, Any]] = {}
    all_sides: tuple[Side, ...] = ("train", "valid", "test")
    done, total = 0, sum(corpus.count(side) for side in all_sides)
    for side in all_sides:
        content: list[int] = []
        ends: list[tuple[int, int, int]] = []
        tokens, used = 0, set[int]()
        for group, example in corpus.examples(side):
            content += example.tokens
            middle = len(content)
            content += [number for answer in example.answers for number in answer]
            ends.append((middle, len(content), group))
            tokens += len(example.tokens)
            used |= {*example.tokens, *(answer for _, answer in example.answers)}
            done += 1
            progress("generate", done, total)
        packed = np.array(content, dtype=dtype)
        packed_ends = np.array(ends, dtype=SAMPLE_ENDS)
        (folder / f"{side}.bin").write_bytes(packed.tobytes())
        (folder / f"{side}.samples").write_bytes(packed_ends.tobytes())
        sides[side] = {
            "sha256": hashlib.sha256(packed.tobytes()).hexdigest(),
            "samples": hashlib.sha256(packed_ends.tobytes()).hexdigest(),
            "counts": _counts(len(ends), tokens, len(used)),
        }
    finish_pack(folder, tokenizer, sides, (), 0, kind="probe", labels=[], dtype=dtype.str)


def _counts(examples: int, tokens: int, vocab_used: int) -> dict[str, int]:
    return {
        "tokens": tokens, "text_tokens": tokens, "text_bytes": 0, "words": 0,
        "documents": examples, "unknown_tokens": 0, "vocab_used": vocab_used,
    }  # fmt: skip
