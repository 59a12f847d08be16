"""Tokens packed once into flat files that are memory-mapped when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.config.digest import digest
from windtunnel.data.cache import sha256_file
from windtunnel.data.config import Kind
from windtunnel.data.mixed import Mixed, named_pieces
from windtunnel.data.progress import Progress, silent
from windtunnel.data.split import Corpus, Side
from windtunnel.data.tokenizers.base import Ids, Tokenizer
from windtunnel.errors import DataError, UsageError

FORMAT = 1
SAMPLE_ENDS = np.dtype("<i8")
META = "meta.json"
SIDES: tuple[Side, Side] = ("train", "valid")


@dataclass(frozen=True)
class Counts:
    """What one side of a packed corpus holds."""

    tokens: int
    """Tokens in all, with those at the starts and ends of documents."""
    text_tokens: int
    """Tokens that stand for text."""
    text_bytes: int
    """Bytes of the UTF-8 of the text."""
    words: int
    """Words: what stands between white space."""
    documents: int
    """Documents, or pieces of them where tails are held out."""
    unknown_tokens: int
    """Tokens that stand for text outside the vocabulary."""
    vocab_used: int
    """Distinct ids that occur."""


@dataclass(frozen=True)
class TokenFile:
    """One side of a packed corpus: each document as ``[bos] tokens [eos]``, end to end; or the
    tokens of samples, without special ones, end to end."""

    path: Path
    tokens: NDArray[Any]
    """A read-only memory map, uint16 or uint32, little-endian."""
    counts: Counts
    samples: NDArray[np.int64] | None = None
    """(n, 3), of samples alone: where the prompt ends, where the truth ends, and the label (−1
    where there is none). Of a synthetic task: where the sequence ends, where its answers (place and
    id of each) end, and the number of its length."""

    def __len__(self) -> int:
        return self.counts.tokens

    @property
    def text_bytes(self) -> int:
        """Bytes of the UTF-8 of the text."""
        return self.counts.text_bytes


@dataclass(frozen=True)
class Pack:
    """Both sides as they lie in a folder."""

    sides: Mapping[Side, TokenFile]
    fingerprint: str
    notes: tuple[str, ...]
    kind: Kind
    labels: tuple[str, ...]
    parts: Mapping[str, Mapping[Side, tuple[int, int]]]
    """Of several sources, by name: the first token (or sample) of each, and the one after its
    last."""


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest of little-endian uint16 and uint32 that holds every id."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


class SideWriter:
    """Writes one side document by document and counts what it writes."""

    def __init__(self, file: IO[bytes], tokenizer: Tokenizer) -> None:
        self._file, self._tokenizer = file, tokenizer
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._sha = hashlib.sha256()
        self._used = np.zeros(tokenizer.vocab_size, dtype=np.bool_)
        self._totals = dict.fromkeys(Counts.__dataclass_fields__, 0)
        self._spelt_bytes = 0
        ends = (tokenizer.bos, tokenizer.eos)
        self._start, self._end = (np.array([] if e is None else [e], np.int64) for e in ends)

    def add(self, text: str) -> int:
        """Appends a document; returns the bytes of its text."""
        ids: Ids = self._tokenizer.encode_array(text)
        self._append(text, ids, np.concatenate([self._start, ids, self._end]))
        self._totals["documents"] += 1
        return len(text.encode("utf-8"))

    def _append(self, text: str, ids: Ids, document: Ids) -> None:
        content = document.astype(self._dtype).tobytes()
        self._file.write(content)
        self._sha.update(content)
        self._used[document] = True
        self._spelt_bytes += int(self._tokenizer.token_bytes[ids].sum())
        for name, amount in (
            ("tokens", len(document)), ("text_tokens", len(ids)),
            ("text_bytes", len(text.encode("utf-8"))), ("words", len(text.split())),
            ("unknown_tokens", self._tokenizer.count_unknown(ids)),
        ):  # fmt: skip
            self._totals[name] += amount

    def total(self, name: str) -> int:
        """How much has been written: tokens, documents, …"""
        return self._totals[name]

    def summary(self) -> dict[str, Any]:
        self._totals["vocab_used"] = int(self._used.sum())
        return {"sha256": self._sha.hexdigest(), "counts": dict(self._totals)}

    def spelling_note(self, side: Side) -> str | None:
        """That the tokens stand for other bytes than the text's, by more than a hundredth, where
        none is unknown: then bits per byte, which count those of the tokens, are not the text's."""
        written, spelt = self._totals["text_bytes"], self._spelt_bytes
        if self._totals["unknown_tokens"] or 100 * abs(spelt - written) <= written:
            return None
        return (
            f"{side}: the tokens stand for {spelt} bytes and the text has {written}: bits per byte "
            "are of what the tokens stand for, and do not compare with those of other tokenizers"
        )


def spelling_notes(writers: Mapping[Side, SideWriter]) -> tuple[str, ...]:
    """The notes of both sides."""
    notes = [writer.spelling_note(side) for side, writer in writers.items()]
    return tuple(note for note in notes if note is not None)


class Parts:
    """Where the sources of a corpus begin and end, as it is written."""

    def __init__(self, writers: Mapping[Side, SideWriter], unit: str) -> None:
        self._writers, self._unit = writers, unit
        self._found: dict[str, dict[Side, tuple[int, int]]] = {}

    def reached(self, name: str | None) -> None:
        """A piece of a source has been written, the last one yet; None: there is but one."""
        if name is None:
            return
        ends = {side: writer.total(self._unit) for side, writer in self._writers.items()}
        before = list(self._found.values())[-1:]
        starts = {side: before[0][side][1] if before else 0 for side in ends}
        if name in self._found:
            starts = {side: self._found[name][side][0] for side in ends}
        self._found[name] = {side: (starts[side], ends[side]) for side in ends}

    def summary(self) -> dict[str, Any]:
        """What the description of the pack says of them."""
        return {"parts": self._found} if self._found else {}


def write_pack(
    corpus: Corpus | Mixed[Corpus], tokenizer: Tokenizer, folder: Path, progress: Progress = silent
) -> None:
    """Tokenizes both sides, separately, into a folder; the description is written last.

    Raises:
        UsageError: a side would be empty.
        DataError: the source cannot be read or has changed.
    """
    done = 0
    with open(folder / "train.bin", "wb") as train, open(folder / "valid.bin", "wb") as valid:
        writers: dict[Side, SideWriter] = {
            "train": SideWriter(train, tokenizer),
            "valid": SideWriter(valid, tokenizer),
        }
        parts = Parts(writers, "tokens")
        for name, side, text in named_pieces(corpus):
            done += writers[side].add(text)
            parts.reached(name)
            progress("tokenize", done, corpus.text_bytes)
    sides = {side: writer.summary() for side, writer in writers.items()}
    notes = (*corpus.notes, *spelling_notes(writers))
    finish_pack(folder, tokenizer, sides, notes, corpus.text_bytes, **parts.summary())


def finish_pack(
    folder: Path,
    tokenizer: Tokenizer,
    sides: Mapping[Side, Mapping[str, Any]],
    notes: Sequence[str],
    text_bytes: int,
    **more: Any,
) -> None:
    """Writes the tokenizer, and then the description of what was written of both sides.

    Raises:
        UsageError: a side is empty.
    """
    for side, summary in sides.items():
        if not summary["counts"]["documents"]:
            raise UsageError(
                f"data.validation leaves the {side} side empty: the source has only "
                f"{text_bytes} bytes of text; change the share or give more text"
            )
    tokenizer.save(folder)
    body = {
        "format": FORMAT,
        "dtype": token_dtype(tokenizer.vocab_size).str,
        "tokenizer": tokenizer.digest,
        "sides": sides,
        "notes": [*notes, *_unknown_notes(sides)],
        **more,
    }
    content = {"sha256": digest(body), "pack": body}
    (folder / META).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _unknown_notes(sides: Mapping[Side, Mapping[str, Any]]) -> list[str]:
    return [
        f"{side}: {unknown} of {summary['counts']['text_tokens']} tokens are unknown characters"
        for side, summary in sides.items()
        if (unknown := summary["counts"]["unknown_tokens"])
    ]


def open_pack(folder: Path, tokenizer: Tokenizer) -> Pack:
    """Opens a packed corpus after checking every byte of it against its checksums.

    Raises:
        DataError: something is missing or damaged.
    """
    body = _read_meta(folder / META)
    if body["tokenizer"] != tokenizer.digest:
        raise DataError(f"{folder}: packed with another tokenizer")
    sides: dict[Side, TokenFile] = {}
    present = _sides(body)
    for side in present:
        path, written = folder / f"{side}.bin", body["sides"][side]
        tokens = _checked(path, written["sha256"], np.dtype(body["dtype"]))
        samples = None
        if "samples" in written:
            ends = _checked(folder / f"{side}.samples", written["samples"], SAMPLE_ENDS)
            samples = ends.reshape(-1, 3)
        sides[side] = TokenFile(path, tokens, Counts(**written["counts"]), samples)
    decides: dict[str, Any] = {side: body["sides"][side]["sha256"] for side in present}
    decides |= {"tokenizer": tokenizer.digest, "dtype": body["dtype"]}
    kind: Kind = body.get("kind", "text")
    if kind != "text":
        decides |= {f"{side} samples": body["sides"][side]["samples"] for side in present}
        decides |= {"kind": kind, "labels": body["labels"]}
    parts = {
        name: {side: (int(a), int(b)) for side, (a, b) in ends.items()}
        for name, ends in body.get("parts", {}).items()
    }
    if parts:
        decides |= {"parts": body["parts"]}
    labels = tuple(body.get("labels", ()))
    return Pack(sides, digest(decides), tuple(body["notes"]), kind, labels, parts)


def _sides(body: Mapping[str, Any]) -> tuple[Side, ...]:
    return (*SIDES, "test") if "test" in body["sides"] else SIDES


def _checked(path: Path, sha: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The memory map of a file whose bytes fit their checksum."""
    try:
        found = sha256_file(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if found != sha:
        raise DataError(f"{path}: damaged (its contents do not fit their checksum)")
    return np.memmap(path, dtype=dtype, mode="r")


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        body: dict[str, Any] = content["pack"]
        intact = content["sha256"] == digest(body)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error!r})") from error
    if not intact or body["format"] != FORMAT:
        raise DataError(f"{path}: damaged (its contents do not fit their checksum)")
    return body
