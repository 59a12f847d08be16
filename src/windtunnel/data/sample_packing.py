"""Samples packed once: their tokens end to end, and where each ends."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from windtunnel.data.mixed import Mixed, named_pieces
from windtunnel.data.packing import (
    SAMPLE_ENDS,
    SIDES,
    Parts,
    SideWriter,
    finish_pack,
    spelling_notes,
)
from windtunnel.data.progress import Progress, silent
from windtunnel.data.sample_split import SampleCorpus
from windtunnel.data.samples import Sample
from windtunnel.data.split import Side
from windtunnel.data.tokenizers.base import Tokenizer


class _SampleWriter(SideWriter):
    """Writes the samples of one side; prompt and truth are tokenized apart, as in generation."""

    def __init__(self, file: IO[bytes], tokenizer: Tokenizer, labels: tuple[str, ...]) -> None:
        super().__init__(file, tokenizer)
        self._labels = {label: number for number, label in enumerate(labels)}
        self._ends: list[tuple[int, int, int]] = []

    def add_sample(self, sample: Sample) -> int:
        """Appends a sample; returns the bytes of its texts."""
        label = self._labels.get(sample.truth, -1)
        prompt_end = self._add_text(sample.prompt)
        end = prompt_end if self._labels else self._add_text(sample.truth)
        self._ends.append((prompt_end, end, label if self._labels else -1))
        self._totals["documents"] += 1
        return len(sample.prompt.encode("utf-8")) + len(sample.truth.encode("utf-8"))

    def write_ends(self, path: Path) -> dict[str, Any]:
        """Writes where the samples end; the summary of the side."""
        content = np.array(self._ends, dtype=SAMPLE_ENDS).reshape(-1, 3).tobytes()
        path.write_bytes(content)
        return self.summary() | {"samples": hashlib.sha256(content).hexdigest()}

    def _add_text(self, text: str) -> int:
        ids = self._tokenizer.encode_array(text)
        self._append(text, ids, ids)
        return self._totals["tokens"]


def write_samples(
    corpus: SampleCorpus | Mixed[SampleCorpus],
    tokenizer: Tokenizer,
    folder: Path,
    progress: Progress = silent,
) -> None:
    """Tokenizes the samples of both sides into a folder; the description is written last.

    Raises:
        UsageError: a side would be empty.
        DataError: the source cannot be read or has changed.
    """
    done = 0
    with open(folder / "train.bin", "wb") as train, open(folder / "valid.bin", "wb") as valid:
        writers: dict[Side, _SampleWriter] = {
            "train": _SampleWriter(train, tokenizer, corpus.labels),
            "valid": _SampleWriter(valid, tokenizer, corpus.labels),
        }
        parts = Parts(writers, "documents")
        for name, side, sample in named_pieces(corpus):
            done += writers[side].add_sample(sample)
            parts.reached(name)
            progress("tokenize", done, corpus.text_bytes)
    sides = {side: writers[side].write_ends(folder / f"{side}.samples") for side in SIDES}
    notes = (*corpus.notes, *spelling_notes(writers))
    finish_pack(
        folder, tokenizer, sides, notes, corpus.text_bytes,
        kind=corpus.kind, labels=list(corpus.labels), **parts.summary(),
    )  # fmt: skip
