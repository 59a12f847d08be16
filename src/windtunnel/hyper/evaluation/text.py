"""The text of an evaluation, in the hypernetwork's own tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from windtunnel.data.config import FilesSource, ShakespeareSource
from windtunnel.data.sources import open_source
from windtunnel.data.tokenizers import Tokenizer
from windtunnel.errors import UsageError
from windtunnel.hyper.evaluation.config import TextConfig


@dataclass(frozen=True)
class Text:
    """Token ids of each side, and how often each occurs in training."""

    train: NDArray[np.int64]
    tune: NDArray[np.int64]
    test: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def digest(self) -> str:
        """What identifies all sides."""
        total = hashlib.sha256()
        for side in (self.train, self.tune, self.test):
            total.update(f"{len(side)}:".encode() + side.tobytes())
        return total.hexdigest()

    @property
    def unigram_entropy(self) -> float:
        """The loss on the test side of the training side's frequencies (one added to each), in nats
        a token."""
        logs = np.log((self.counts + 1) / (self.counts + 1).sum())
        return float(-logs[self.test].mean())


def read_text(
    config: TextConfig,
    source: ShakespeareSource | FilesSource,
    tokenizer: Tokenizer,
) -> Text:
    """The documents of each side as one row of tokens; ``source`` is the hypernetwork's.

    Raises:
        UsageError: sides share documents, or share some with the hypernetwork's.
    """
    own = source.documents
    sides = {"train": config.train, "tune": config.tune, "test": config.test}
    _check_disjoint({"the hypernetwork": own or ":", **sides})
    rows = {}
    for name, part in sides.items():
        found: list[int] = []
        for document in open_source(source.replace(documents=part)).documents():
            found.extend(tokenizer.encode(document.text))
            if tokenizer.eos is not None:
                found.append(tokenizer.eos)
        if not found:
            raise UsageError(f"text.{name}: {part} holds no document")
        rows[name] = np.array(found, dtype=np.int64)
    counts = np.bincount(rows["train"], minlength=tokenizer.vocab_size)
    return Text(rows["train"], rows["tune"], rows["test"], counts)


def _check_disjoint(parts: dict[str, str]) -> None:
    taken: list[tuple[str, float, float]] = []
    for name, part in parts.items():
        first, _, end = part.partition(":")
        low, high = float(first or 0), float(end) if end else float("inf")
        for other, start, stop in taken:
            if low < stop and start < high:
                raise UsageError(f"text.{name}: documents {part} are also those of {other}")
        taken.append((name, low, high))
