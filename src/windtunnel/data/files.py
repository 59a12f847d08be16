"""Files as they are named: expanded, opened, decoded; every fault is told with its place."""

from __future__ import annotations

import glob
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from windtunnel.config.nearest import nearest
from windtunnel.errors import DataError, SourceError


def find_files(paths: Sequence[str], suffixes: Sequence[str]) -> tuple[list[Path], tuple[str, ...]]:
    """The files of some kinds that paths stand for, and notes on what was left out.

    A file reached by two paths stands once.

    Raises:
        SourceError: a path that does not exist, or no file of those kinds.
    """
    found: dict[Path, Path] = {}
    other: list[Path] = []
    for path in paths:
        for file in _expand(path, other, suffixes):
            found.setdefault(file.resolve(), file)
    if not found:
        allowed = ", ".join(suffixes)
        raise SourceError(f"no file to read in {', '.join(paths)} (allowed: {allowed})")
    if not other:
        return list(found.values()), ()
    kinds = ", ".join(sorted({path.suffix or path.name for path in other}))
    note = f"files of other kinds, left out: {len(other)} ({kinds})"
    return list(found.values()), (note,)


def _expand(path: str, other: list[Path], suffixes: Sequence[str]) -> Iterator[Path]:
    """The files that a path stands for, sorted; other kinds of file in folders go to ``other``."""
    plain = Path(path).expanduser()
    if plain.exists():
        matches = [plain]
    else:
        matches = [Path(match) for match in sorted(glob.glob(str(plain), recursive=True))]
        if not matches:
            raise missing(path)
    for match in matches:
        if match.is_dir():
            for file in _walk(match):
                if _is_of_kind(file, suffixes):
                    yield file
                else:
                    other.append(file)
        elif _is_of_kind(match, suffixes):
            yield match
        elif match == plain:
            allowed = ", ".join(suffixes)
            raise SourceError(f"{match}: not a kind of file that is read (allowed: {allowed})")
        else:
            other.append(match)


def missing(path: str) -> SourceError:
    """That a path does not exist, with the nearest name in its folder."""
    before, slash, name = path.rstrip("/").rpartition("/")
    try:
        names = sorted(os.listdir(Path(before + slash or ".").expanduser()))
    except OSError:
        names = []
    near = nearest(name, names)
    hint = "" if near is None else f"; did you mean {before + slash + near!r}?"
    return SourceError(f"{path}: no such file or folder{hint}")


def _walk(folder: Path) -> list[Path]:
    """All files below a folder by their path, links to folders followed; hidden files and folders
    are no data."""
    files: list[Path] = []
    seen: set[str] = set()  # links may lead back up
    with told(folder):
        for root, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
            place = os.path.realpath(root)
            if place in seen:
                folders.clear()
                continue
            seen.add(place)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            files += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(files, key=lambda file: file.relative_to(folder).parts)


def _raise(error: OSError) -> None:
    raise error


def inner_suffix(file: Path) -> str:
    """The suffix without `.gz`."""
    suffix = file.suffix.lower()
    return Path(file.stem).suffix.lower() if suffix == ".gz" else suffix


def _is_of_kind(file: Path, suffixes: Sequence[str]) -> bool:
    # Whatever else lies in a .gz is taken for text; what is not UTF-8 is an error later.
    return file.suffix.lower() in suffixes


@contextmanager
def told(file: Path) -> Iterator[None]:
    """Tells faults of reading a file as a `DataError` that names it."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file}: damaged gzip file ({error})") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error


def opened(file: Path) -> gzip.GzipFile | io.BufferedReader:
    """The bytes of a file; those inside of a `.gz`."""
    return gzip.open(file) if file.suffix.lower() == ".gz" else open(file, "rb")


def decoded(content: bytes, file: Path, offset: int = 0) -> str:
    """UTF-8 that begins at byte ``offset`` of a file, without a byte order mark."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{file}: not UTF-8 at byte {offset + error.start} ({error.reason})"
        ) from error
    # A byte order mark at the start of a file is a sign of its encoding, not text.
    return text.removeprefix("\ufeff") if offset == 0 else text


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Each line of a file with its number, from 1, and with its end.

    Raises:
        DataError: the file cannot be read, or a line is no UTF-8, told with its place.
    """
    offset = 0
    with told(file), opened(file) as stream:
        for number, line in enumerate(stream, start=1):
            yield number, decoded(line, file, offset)
            offset += len(line)


def json_object(line: str, place: str) -> dict[str, Any]:
    """The object in a line of JSON.

    Raises:
        SourceError: it is none, or a key stands twice in it.
    """
    try:
        value = json.loads(line, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{place}: not a line of JSON ({error})") from error
    if not isinstance(value, _Pairs):
        raise SourceError(f"{place}: expected a JSON object, not {type(value).__name__}")
    if value.twice is not None:
        raise SourceError(f"{place}: the key {value.twice!r} stands twice")
    return value


def no_key(name: str, record: Mapping[str, Any], place: str, setting: str) -> SourceError:
    """That a record lacks a key, with those it has; ``setting`` of the source names the key."""
    keys = ", ".join(list(record)[:8]) or "none"
    near = nearest(name, record)
    hint = "" if near is None else f"; did you mean {near!r}?"
    return SourceError(f"{place}: no key {name!r} (keys: {keys}){hint or ';'} set `{setting}`")


class _Pairs(dict[str, Any]):
    """A JSON object, and the first key that stands twice in it."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.twice = twice([key for key, _ in pairs])


def twice(names: Sequence[str]) -> str | None:
    """The first name that stands twice."""
    if len(set(names)) == len(names):
        return None
    return next(name for place, name in enumerate(names) if name in names[:place])
