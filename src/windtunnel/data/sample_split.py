"""Train and validation sides of samples; nothing of the one is found in the other."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator

from windtunnel.data.config import Kind
from windtunnel.data.progress import Progress, silent
from windtunnel.data.samples import Sample, SampleReader
from windtunnel.data.split import Inventory, Side, hold_out
from windtunnel.errors import DataError, UsageError


class SampleCorpus:
    """The samples of both sides, read again on every pass.

    Samples of equal prompts (or equal labelled texts) stand on one side. A fraction holds out so
    much of the samples, in an order keyed by ``seed``. With validation files, samples of the
    training files whose prompt is in them are left out of training, and counted.

    Raises:
        UsageError: a side would be empty.
        DataError: a side cannot be read, is empty, or validation has a label that training lacks.
    """

    def __init__(
        self,
        reader: SampleReader,
        validation: float | SampleReader | None,
        seed: int,
        kind: Kind,
        progress: Progress = silent,
    ) -> None:
        self.kind = kind
        self._readers = [_Pass.over(reader, progress)]
        self.notes = reader.notes
        prompts = self._readers[0].prompts
        if validation is None:
            self._held, self._rule = frozenset[bytes](), "nothing"
        elif isinstance(validation, float):
            self._held = _held_out(prompts, validation, seed)
            self._rule = hashlib.sha256(b"".join(sorted(self._held))).hexdigest()
        else:
            self._readers.append(_Pass.over(validation, progress))
            self.notes += validation.notes
            self._held = frozenset(self._readers[1].prompts)
            self._rule = f"files {self._readers[1].digest}"
            self._tell_of_both(prompts)
        if not set(prompts) - self._held:
            raise UsageError("data.validation leaves the train side empty")
        self.text_bytes = sum(found.text_bytes for found in self._readers)
        if blank := sum(found.blank for found in self._readers):
            missing = "text or label" if kind == "labels" else "prompt or truth"
            self.notes += (f"samples without a {missing}, left out: {blank}",)
        self.labels: tuple[str, ...] = self._learned() if kind == "labels" else ()

    def contents(self, side: Side) -> frozenset[bytes]:
        """The prompts (by the SHA-256 of their UTF-8) of one side."""
        return self._held if side == "valid" else frozenset(self._readers[0].prompts) - self._held

    def identity(self) -> dict[str, str]:
        """What the contents of the sides depend on."""
        samples = self._readers[0].digest
        return {"samples": samples, "validation": self._rule, "kind": self.kind}

    def pieces(self) -> Iterator[tuple[Side, Sample]]:
        """Every sample with its side, in the order of the source."""
        by_files = len(self._readers) == 2
        for found, sha in self._readers[0].again():
            if sha not in self._held:
                yield "train", found
            elif not by_files:
                yield "valid", found
        if by_files:
            for found, _ in self._readers[1].again():
                yield "valid", found

    def train_texts(self) -> Iterator[str]:
        """The texts that a tokenizer may learn from."""
        for side, found in self.pieces():
            if side == "train":
                yield found.prompt
                if self.kind == "pairs":
                    yield found.truth

    def _tell_of_both(self, prompts: tuple[bytes, ...]) -> None:
        if both := sum(sha in self._held for sha in prompts):
            what = "text" if self.kind == "labels" else "prompt"
            self.notes += (
                f"training samples whose {what} stands in validation too, left out: {both}",
            )

    def _learned(self) -> tuple[str, ...]:
        """The labels of the training side, sorted."""
        known = {found.truth for side, found in self.pieces() if side == "train"}
        for side, found in self.pieces():
            if side == "valid" and found.truth not in known:
                shown = ", ".join(repr(label) for label in sorted(known)[:8])
                raise DataError(
                    f"{found.name}: the label {found.truth!r} is not among those of the training "
                    f"side ({shown})"
                )
        return tuple(sorted(known))


class _Pass:
    """What a first pass over a reader found: hashes alone, so that millions of samples fit."""

    def __init__(self, reader: SampleReader) -> None:
        self.reader = reader
        self.text_bytes = self.blank = 0
        self.prompts: tuple[bytes, ...] = ()
        self._wholes: tuple[bytes, ...] = ()

    @classmethod
    def over(cls, reader: SampleReader, progress: Progress) -> _Pass:
        found = cls(reader)
        prompts: list[bytes] = []
        wholes: list[bytes] = []
        for sample in reader.samples():
            if sample.blank:
                found.blank += 1
                continue
            prompt, whole, size = _hashes(sample)
            prompts.append(prompt)
            wholes.append(whole)
            found.text_bytes += size
            progress("read", found.text_bytes, 0)
        if not prompts:
            raise DataError("the source is empty: no sample holds any text")
        found.prompts, found._wholes = tuple(prompts), tuple(wholes)
        return found

    @property
    def digest(self) -> str:
        return hashlib.sha256(b"".join(self._wholes)).hexdigest()

    def again(self) -> Iterator[tuple[Sample, bytes]]:
        """The samples once more, found unchanged, each with the hash of its prompt."""
        expected = iter(self._wholes)
        for sample in self.reader.samples():
            if sample.blank:
                continue
            prompt, whole, _ = _hashes(sample)
            if whole != next(expected, None):
                raise DataError(f"{sample.name} changed while it was being read; try again")
            yield sample, prompt
        if next(expected, None) is not None:
            raise DataError("a sample vanished while the source was being read; try again")


def _hashes(sample: Sample) -> tuple[bytes, bytes, int]:
    """The SHA-256 of the prompt and of the whole, and the bytes of both texts."""
    try:
        prompt, truth = sample.prompt.encode("utf-8"), sample.truth.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{sample.name}: a lone surrogate at character {error.start} is no text"
        ) from error
    first = hashlib.sha256(prompt).digest()
    whole = hashlib.sha256(first + hashlib.sha256(truth).digest()).digest()
    return first, whole, len(prompt) + len(truth)


def _held_out(prompts: tuple[bytes, ...], fraction: float, seed: int) -> frozenset[bytes]:
    if len(set(prompts)) < 2:
        raise UsageError(
            "data.validation: a share cannot be held out of samples of one prompt; give more "
            "samples, or files to validate on"
        )
    return hold_out(Inventory(prompts, array("q", [1]) * len(prompts), 0), fraction, seed)
