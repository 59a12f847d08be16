"""Where documents come from. A reader can be read again: memory holds one document at a time."""

from __future__ import annotations

import glob
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from windtunnel.data.config import FilesSource, ShakespeareSource
from windtunnel.data.packages import PLAYS, obtain, read_members
from windtunnel.data.plays import plain_text
from windtunnel.data.progress import Progress, silent
from windtunnel.errors import DataError

TEXT_SUFFIXES = (".txt", ".md")
LINES_SUFFIX = ".jsonl"


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
        DataError: a path that does not exist, no file to read, or a corpus that cannot be had.
    """
    if isinstance(source, FilesSource):
        return FilesReader.of(source.paths, source.field)
    return PlaysReader(obtain(PLAYS, cache, progress))


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
        found: dict[Path, Path] = {}
        other: list[Path] = []
        for path in paths:
            for file in _expand(path, other):
                found.setdefault(file.resolve(), file)
        if not found:
            raise DataError(f"no file to read in {', '.join(paths)} (allowed: {_allowed()})")
        notes: tuple[str, ...] = ()
        if other:
            kinds = ", ".join(sorted({path.suffix or path.name for path in other}))
            notes = (f"files of other kinds, left out: {len(other)} ({kinds})",)
        return cls(tuple(found.values()), field, notes)

    def documents(self) -> Iterator[Document]:
        for file in self.files:
            if _inner_suffix(file) == LINES_SUFFIX:
                yield from _read_lines(file, self.field)
            else:
                yield Document(str(file), _read_text(file))


def _expand(path: str, other: list[Path]) -> Iterator[Path]:
    """The files that a path stands for, sorted; other kinds of file in folders go to ``other``."""
    plain = Path(path).expanduser()
    if plain.exists():
        matches = [plain]
    else:
        matches = [Path(match) for match in sorted(glob.glob(str(plain), recursive=True))]
        if not matches:
            raise DataError(f"{path}: no such file or folder")
    for match in matches:
        if match.is_dir():
            for file in _walk(match):
                if _is_readable_kind(file):
                    yield file
                else:
                    other.append(file)
        elif _is_readable_kind(match):
            yield match
        elif match == plain:
            raise DataError(f"{match}: not a kind of file that is read (allowed: {_allowed()})")
        else:
            other.append(match)


def _walk(folder: Path) -> list[Path]:
    """All files below a folder by their path; hidden files and folders are no data."""
    files: list[Path] = []
    with _told(folder):
        for root, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            files += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(files, key=lambda file: file.relative_to(folder).parts)


def _raise(error: OSError) -> None:
    raise error


def _inner_suffix(file: Path) -> str:
    suffix = file.suffix.lower()
    return Path(file.stem).suffix.lower() if suffix == ".gz" else suffix


def _is_readable_kind(file: Path) -> bool:
    # Whatever else lies in a .gz is taken for text; what is not UTF-8 is an error later.
    return file.suffix.lower() in (*TEXT_SUFFIXES, LINES_SUFFIX, ".gz")


def _allowed() -> str:
    return ", ".join((*TEXT_SUFFIXES, LINES_SUFFIX, ".gz"))


@contextmanager
def _told(file: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file}: damaged gzip file ({error})") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error


def _open(file: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(file) if file.suffix.lower() == ".gz" else open(file, "rb")


def _decode(content: bytes, file: Path, offset: int = 0) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: not UTF-8 at byte {offset + error.start} ({error.reason})"
        ) from error
    # A byte order mark at the start of a file is a sign of its encoding, not text.
    return text.removeprefix("\ufeff") if offset == 0 else text


def _read_text(file: Path) -> str:
    with _told(file), _open(file) as stream:
        content = stream.read()
    return _decode(content, file)


def _read_lines(file: Path, field: str) -> Iterator[Document]:
    offset = 0
    with _told(file), _open(file) as stream:
        for number, line in enumerate(stream, start=1):
            text = _decode(line, file, offset)
            offset += len(line)
            if text.strip():
                yield Document(f"{file}:{number}", _field(text, field, f"{file}:{number}"))


def _field(line: str, field: str, place: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not a line of JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{place}: expected a JSON object with the key {field!r}")
    if field not in value:
        keys = ", ".join(list(value)[:8]) or "none"
        raise DataError(f"{place}: no key {field!r} (keys: {keys}); set `field`")
    text = value[field]
    if not isinstance(text, str):
        raise DataError(f"{place}: {field!r} holds no text but {type(text).__name__}")
    return text
