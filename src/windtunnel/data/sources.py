"""Where documents come from. A reader can be read again: memory holds one document at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from windtunnel.data.config import FilesSource, ShakespeareSource
from windtunnel.data.files import (
    decoded,
    find_files,
    inner_suffix,
    json_object,
    no_key,
    numbered_lines,
    opened,
    told,
)
from windtunnel.data.packages import PLAYS, obtain, read_members
from windtunnel.data.plays import plain_text
from windtunnel.data.progress import Progress, silent
from windtunnel.errors import SourceError

TEXT_SUFFIXES = (".txt", ".md")
LINES_SUFFIX = ".jsonl"
KINDS = (*TEXT_SUFFIXES, LINES_SUFFIX, ".gz")


@dataclass(frozen=True)
class Document:
    """One text; ``name`` says where it stands (file, or file:line) and is for messages only."""

    name: str
    text: str


class Reader(Protocol):
    """Documents in a fixed order, the same on every pass."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, in words."""
        ...

    def documents(self) -> Iterator[Document]: ...


def open_source(
    source: ShakespeareSource | FilesSource,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Reader:
    """The reader of a source.

    Raises:
        SourceError: a path that does not exist, or no file to read.
        DataError: a corpus that cannot be had.
    """
    reader: Reader
    if isinstance(source, FilesSource):
        reader = FilesReader.of(source.paths, source.field)
    else:
        reader = PlaysReader(obtain(PLAYS, cache, progress))
    if source.documents is None:
        return reader
    first, _, end = source.documents.partition(":")
    return SomeDocuments(reader, int(first or 0), int(end) if end else None)


@dataclass(frozen=True)
class SomeDocuments:
    """The documents of a reader from one number to another, counted from 0."""

    reader: Reader
    first: int
    end: int | None

    @property
    def notes(self) -> tuple[str, ...]:
        return self.reader.notes

    def documents(self) -> Iterator[Document]:
        yield from islice(self.reader.documents(), self.first, self.end)


@dataclass(frozen=True)
class PlaysReader:
    """The default corpus, one document a play, sorted by path."""

    folder: Path
    notes: tuple[str, ...] = ()

    def documents(self) -> Iterator[Document]:
        for name, content in read_members(PLAYS, self.folder).items():
            yield Document(Path(name).stem, plain_text(content.decode("utf-8")))


@dataclass(frozen=True)
class FilesReader:
    """Text files (one document each) and JSON-lines files (one document a line)."""

    files: tuple[Path, ...]
    field: str
    notes: tuple[str, ...]

    @classmethod
    def of(cls, paths: Sequence[str], field: str) -> FilesReader:
        """Finds the files now; a file reached by two paths is read once."""
        files, notes = find_files(paths, KINDS)
        return cls(tuple(files), field, notes)

    def documents(self) -> Iterator[Document]:
        for file in self.files:
            if inner_suffix(file) == LINES_SUFFIX:
                yield from _read_lines(file, self.field)
            else:
                yield Document(str(file), _read_text(file))


def _read_text(file: Path) -> str:
    with told(file), opened(file) as stream:
        content = stream.read()
    return decoded(content, file)


def _read_lines(file: Path, field: str) -> Iterator[Document]:
    for number, text in numbered_lines(file):
        if text.strip():
            yield Document(f"{file}:{number}", _field(text, field, f"{file}:{number}"))


def _field(line: str, field: str, place: str) -> str:
    value = json_object(line, place)
    if field not in value:
        raise no_key(field, value, place, "field")
    text = value[field]
    if not isinstance(text, str):
        raise SourceError(f"{place}: {field!r} holds no text but {type(text).__name__}")
    return text
