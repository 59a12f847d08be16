"""Tokens packed once into flat files that are memory-mapped when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.config.digest import digest
from windtunnel.data.cache import sha256_file
from windtunnel.data.progress import Progress, silent
from windtunnel.data.split import Corpus, Side
from windtunnel.data.tokenizers.base import Ids, Tokenizer
from windtunnel.errors import DataError, UsageError

FORMAT = 1
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
    """One side of a packed corpus: each document as ``[bos] tokens [eos]``, end to end."""

    path: Path
    tokens: NDArray[Any]
    """A read-only memory map, uint16 or uint32, little-endian."""
    counts: Counts

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


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest of little-endian uint16 and uint32 that holds every id."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


class _SideWriter:
    """Writes one side document by document and counts what it writes."""

    def __init__(self, file: IO[bytes], tokenizer: Tokenizer) -> None:
        self._file, self._tokenizer = file, tokenizer
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._sha = hashlib.sha256()
        self._used = np.zeros(tokenizer.vocab_size, dtype=np.bool_)
        self._totals = dict.fromkeys(Counts.__dataclass_fields__, 0)
        ends = (tokenizer.bos, tokenizer.eos)
        self._start, self._end = (np.array([] if e is None else [e], np.int64) for e in ends)

    def add(self, text: str) -> int:
        """Appends a document; returns the bytes of its text."""
        ids: Ids = self._tokenizer.encode_array(text)
        document = np.concatenate([self._start, ids, self._end])
        content = document.astype(self._dtype).tobytes()
        self._file.write(content)
        self._sha.update(content)
        self._used[document] = True
        text_bytes = len(text.encode("utf-8"))
        for name, amount in (
            ("tokens", len(document)), ("text_tokens", len(ids)), ("text_bytes", text_bytes),
            ("words", len(text.split())), ("documents", 1),
            ("unknown_tokens", self._tokenizer.count_unknown(ids)),
        ):  # fmt: skip
            self._totals[name] += amount
        return text_bytes

    def summary(self) -> dict[str, Any]:
        self._totals["vocab_used"] = int(self._used.sum())
        return {"sha256": self._sha.hexdigest(), "counts": dict(self._totals)}


def write_pack(
    corpus: Corpus, tokenizer: Tokenizer, folder: Path, progress: Progress = silent
) -> None:
    """Tokenizes both sides, separately, into a folder; the description is written last.

    Raises:
        UsageError: a side would be empty.
        DataError: the source cannot be read or has changed.
    """
    done = 0
    with open(folder / "train.bin", "wb") as train, open(folder / "valid.bin", "wb") as valid:
        writers: dict[Side, _SideWriter] = {
            "train": _SideWriter(train, tokenizer),
            "valid": _SideWriter(valid, tokenizer),
        }
        for side, text in corpus.pieces():
            done += writers[side].add(text)
            progress("tokenize", done, corpus.text_bytes)
    sides = {side: writer.summary() for side, writer in writers.items()}
    for side, summary in sides.items():
        if not summary["counts"]["documents"]:
            raise UsageError(
                f"data.validation leaves the {side} side empty: the source has only "
                f"{corpus.text_bytes} bytes of text; change the share or give more text"
            )
    tokenizer.save(folder)
    body = {
        "format": FORMAT,
        "dtype": token_dtype(tokenizer.vocab_size).str,
        "tokenizer": tokenizer.digest,
        "sides": sides,
        "notes": [*corpus.notes, *_unknown_notes(sides)],
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
    for side in SIDES:
        path, written = folder / f"{side}.bin", body["sides"][side]
        try:
            found = sha256_file(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
        if found != written["sha256"]:
            raise DataError(f"{path}: damaged (its contents do not fit their checksum)")
        tokens = np.memmap(path, dtype=np.dtype(body["dtype"]), mode="r")
        sides[side] = TokenFile(path, tokens, Counts(**written["counts"]))
    contents = {side: body["sides"][side]["sha256"] for side in SIDES}
    fingerprint = digest(contents | {"tokenizer": tokenizer.digest, "dtype": body["dtype"]})
    return Pack(sides, fingerprint, tuple(body["notes"]))


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
