"""Train and validation sides that never overlap."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from windtunnel.data.progress import Progress, silent
from windtunnel.data.sources import Document, Reader
from windtunnel.errors import DataError, UsageError

MIN_DOCUMENTS = 10
"""From so many distinct documents on, whole documents are held out; below, tails are cut off."""

Side: TypeAlias = Literal["train", "valid", "test"]
"""Of texts and samples there are two; a synthetic task has a test besides."""


@dataclass(frozen=True)
class Inventory:
    """What a pass over a reader found; a list of hashes, so that millions of documents fit."""

    hashes: tuple[bytes, ...]
    """The SHA-256 of each document's UTF-8, in order; documents without text are left out."""
    sizes: array[int]
    """The bytes of UTF-8 of each."""
    empty: int
    """How many documents were left out."""

    @property
    def text_bytes(self) -> int:
        return sum(self.sizes)

    @property
    def digest(self) -> str:
        return hashlib.sha256(b"".join(self.hashes)).hexdigest()


def take_inventory(reader: Reader, progress: Progress = silent) -> Inventory:
    """One pass over all documents.

    Raises:
        DataError: no document holds any text, or one cannot be read.
    """
    hashes: list[bytes] = []
    sizes = array("q")
    empty = done = 0
    for document in reader.documents():
        if not document.text.strip():
            empty += 1
            continue
        content = _utf8(document)
        hashes.append(hashlib.sha256(content).digest())
        sizes.append(len(content))
        done += len(content)
        progress("read", done, 0)
    if not hashes:
        raise DataError("the source is empty: no document holds any text")
    return Inventory(tuple(hashes), sizes, empty)


def hold_out(inventory: Inventory, fraction: float, seed: int) -> frozenset[bytes]:
    """The contents (by SHA-256) held out: nearest to ``fraction`` of the bytes, at least one.

    Contents are taken in the order of a keyed hash, so the choice depends on contents and seed
    alone; identical documents share one hash and so one side.
    """
    sizes: dict[bytes, int] = {}
    for sha, size in zip(inventory.hashes, inventory.sizes, strict=True):
        sizes[sha] = sizes.get(sha, 0) + size
    order = sorted(sizes, key=lambda sha: hashlib.sha256(b"%d:%b" % (seed, sha)).digest())
    target = fraction * inventory.text_bytes
    held: set[bytes] = set()
    taken = 0
    for sha in order[:-1]:  # one is always left to train on
        if held and abs(taken + sizes[sha] - target) >= abs(taken - target):
            break
        held.add(sha)
        taken += sizes[sha]
    return frozenset(held)


def tail_start(text: str, fraction: float) -> int:
    r"""The character at which the held-out tail begins: a line's start where one is near.

    >>> text = "one\ntwo\nthree\nfour\n"
    >>> text[tail_start(text, 0.3):]
    'four\n'
    """
    target = round(len(text) * (1 - fraction))
    after = text.find("\n", target) + 1 or len(text)
    before = text.rfind("\n", 0, target) + 1
    line = min((after, before), key=lambda place: abs(place - target))
    near = abs(line - target) <= len(text) * min(fraction, 1 - fraction) / 2
    # Text without lines (or with very long ones) is cut at the exact place.
    return line if near and 0 < line < len(text) else target


class Corpus:
    """The documents of both sides, read again on every pass.

    ``validation`` is a fraction of the bytes, the reader of explicit validation files, or None:
    then all is for training.

    Raises:
        UsageError: an explicit validation document has the text of a training document.
        DataError: a side cannot be read or is empty.
    """

    def __init__(
        self,
        reader: Reader,
        validation: float | Reader | None,
        seed: int,
        progress: Progress = silent,
    ) -> None:
        self._reader = reader
        self._inventory = take_inventory(reader, progress)
        self._validation: tuple[Reader, Inventory] | None = None
        self.notes = reader.notes
        self._split: _Splitter = _whole
        self._rule = "nothing"
        if isinstance(validation, float):
            self._split, self._rule, told = _splitter(self._inventory, validation, seed)
            self.notes += told
        elif validation is not None:
            held = take_inventory(validation, progress)
            self._validation, self._rule = (validation, held), held.digest
            self.notes += validation.notes
            _refuse_overlap(reader, self._inventory, validation, held)
        inventories = [self._inventory] + ([self._validation[1]] if self._validation else [])
        self.text_bytes = sum(inventory.text_bytes for inventory in inventories)
        if empty := sum(inventory.empty for inventory in inventories):
            self.notes += (f"documents without text, left out: {empty}",)

    def contents(self, side: Side) -> frozenset[bytes]:
        """The contents (by SHA-256 of the UTF-8) of the documents that one side has a piece of."""
        found = frozenset(
            hashlib.sha256(_utf8(document)).digest()
            for document in _again(self._reader, self._inventory)
            if self._split(document.text)[side == "valid"]
        )
        held = self._validation[1].hashes if self._validation and side == "valid" else ()
        return found | frozenset(held)

    def identity(self) -> dict[str, str]:
        """What the contents of the sides depend on."""
        return {"documents": self._inventory.digest, "validation": self._rule}

    def pieces(self) -> Iterator[tuple[Side, str]]:
        """Every piece of text with its side, in the order of the source."""
        for document in _again(self._reader, self._inventory):
            train, valid = self._split(document.text)
            if train:
                yield "train", train
            if valid:
                yield "valid", valid
        if self._validation is not None:
            for document in _again(*self._validation):
                yield "valid", document.text

    def train_texts(self) -> Iterator[str]:
        """The texts that a tokenizer may learn from."""
        return (text for side, text in self.pieces() if side == "train")


_Splitter: TypeAlias = Callable[[str], tuple[str, str]]


def _whole(text: str) -> tuple[str, str]:
    return text, ""


def _splitter(
    inventory: Inventory, fraction: float, seed: int
) -> tuple[_Splitter, str, tuple[str, ...]]:
    """How a document is divided into its train and validation parts, the name of the rule, and
    what there is to be told of it."""
    if len(set(inventory.hashes)) >= MIN_DOCUMENTS:
        held = hold_out(inventory, fraction, seed)

        def choose(text: str) -> tuple[str, str]:
            is_held = hashlib.sha256(text.encode("utf-8")).digest() in held
            return ("", text) if is_held else (text, "")

        rule = hashlib.sha256(b"".join(sorted(held))).hexdigest()
        if told := _uneven(inventory, held, fraction):
            rule += f" for {fraction!r}"  # which is in what is told, and that lies with the pack
        return choose, rule, told

    def cut(text: str) -> tuple[str, str]:
        start = tail_start(text, fraction)
        return text[:start], text[start:]

    return cut, f"tails of {fraction!r}", ()


def _uneven(inventory: Inventory, held: frozenset[bytes], fraction: float) -> tuple[str, ...]:
    """A note where the held-out share is more than twice what was asked for, or less than half."""
    pairs = zip(inventory.hashes, inventory.sizes, strict=True)
    share = sum(size for sha, size in pairs if sha in held) / inventory.text_bytes
    if fraction / 2 <= share <= 2 * fraction:
        return ()
    return (
        f"{share:.1%} of the text is held out, not {fraction:.1%}: whole documents are, and these "
        "are of unequal sizes or few; data.seed chooses others",
    )


def _utf8(document: Document) -> bytes:
    try:
        return document.text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{document.name}: a lone surrogate at character {error.start} is no text"
        ) from error


def _again(reader: Reader, inventory: Inventory) -> Iterator[Document]:
    """The documents of the inventory, read once more and found unchanged."""
    expected = iter(inventory.hashes)
    for document in reader.documents():
        if not document.text.strip():
            continue
        if hashlib.sha256(_utf8(document)).digest() != next(expected, None):
            raise DataError(f"{document.name} changed while it was being read; try again")
        yield document
    if next(expected, None) is not None:
        raise DataError("a document vanished while the source was being read; try again")


def _refuse_overlap(
    train_reader: Reader, train: Inventory, valid_reader: Reader, valid: Inventory
) -> None:
    if not (both := set(train.hashes) & set(valid.hashes)):
        return
    sha = next(sha for sha in valid.hashes if sha in both)
    more = f" (and {len(both) - 1} more)" if len(both) > 1 else ""
    raise UsageError(
        f"validation would overlap training: {_name(valid_reader, sha)} has the same text as "
        f"{_name(train_reader, sha)}{more}; leave it out of one of them"
    )


def _name(reader: Reader, sha: bytes) -> str:
    return next(
        document.name
        for document in reader.documents()
        if hashlib.sha256(_utf8(document)).digest() == sha
    )
