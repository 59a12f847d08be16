"""Samples and their readers: a prompt and what is to be written for it, or a text and its label."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

from windtunnel.data.config import AnySource, LabelsSource, PairsSource, ParallelSource
from windtunnel.data.files import (
    find_files,
    inner_suffix,
    json_object,
    missing,
    no_key,
    numbered_lines,
    twice,
)
from windtunnel.data.tokenizers.base import Tokenizer
from windtunnel.errors import SourceError, UsageError

_LONGEST_FIELD = 2**31 - 1
"""Characters of a field of CSV: as many as there are; by itself Python stops at 131,072."""
KINDS = (".jsonl", ".csv", ".gz")


@dataclass(frozen=True)
class Sample:
    """``name`` says where it stands (file:line) and is for messages only."""

    name: str
    prompt: str
    """What is read: the prompt, or the text that has the label."""
    truth: str
    """What is to be found: the text to write, or the label."""

    @property
    def blank(self) -> bool:
        """Whether there is nothing to read, or nothing to find."""
        return not self.prompt.strip() or not self.truth.strip()


class SampleReader(Protocol):
    """Samples in a fixed order, the same on every pass."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, in words."""
        ...

    def samples(self) -> Iterator[Sample]: ...


def open_samples(source: AnySource) -> SampleReader:
    """The reader of a source of pairs or labels.

    Raises:
        SourceError: a path that does not exist, or no file to read.
    """
    if isinstance(source, PairsSource):
        keys = _Keys(source.prompt, source.truth, ("prompt", "truth"))
        return TableReader.of(source.paths, keys, source.separator)
    if isinstance(source, LabelsSource):
        keys = _Keys(source.text, source.label, ("text", "label"), numbers=True)
        return TableReader.of(source.paths, keys, "")
    assert isinstance(source, ParallelSource), f"{source.type} holds no samples"
    for path in (source.source, source.target):
        if not Path(path).expanduser().exists():
            raise missing(path)
    first, second = Path(source.source).expanduser(), Path(source.target).expanduser()
    return ParallelReader(first, second, source.separator)


@dataclass(frozen=True)
class Marks:
    """The ids around a sample."""

    begin: int
    end: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Marks:
        """bos and eos; eos for both where there is no bos.

        Raises:
            UsageError: the tokenizer has no eos: nothing would say where a sample ends.
        """
        if tokenizer.eos is None:
            raise UsageError(
                "data.tokenizer: samples end with eos, and specials has none; add eos to it"
            )
        return cls(tokenizer.eos if tokenizer.bos is None else tokenizer.bos, tokenizer.eos)


def prompt_text(source: AnySource, prompt: str) -> str:
    """A prompt as its source gives it, with the separator that ends it: for generation."""
    return prompt + getattr(source, "separator", "")


@dataclass(frozen=True)
class _Keys:
    first: str
    second: str
    settings: tuple[str, str]
    """The source's own keys, under which these names are written."""
    numbers: bool = False
    """Whether the second may be a whole number, or true or false."""


@dataclass(frozen=True)
class TableReader:
    """JSON lines and CSV files with a header: one sample a record."""

    files: tuple[Path, ...]
    keys: _Keys
    separator: str
    notes: tuple[str, ...]

    @classmethod
    def of(cls, paths: Sequence[str], keys: _Keys, separator: str) -> TableReader:
        """Finds the files now."""
        files, notes = find_files(paths, KINDS)
        for file in files:
            if inner_suffix(file) not in (".jsonl", ".csv"):
                raise SourceError(f"{file}: samples are read from .jsonl and .csv, gzipped or not")
        return cls(tuple(files), keys, separator, notes)

    def samples(self) -> Iterator[Sample]:
        for file in self.files:
            records = _json_records if inner_suffix(file) == ".jsonl" else _csv_records
            for place, record in records(file):
                first, second = self.keys.settings
                prompt = _text(record, self.keys.first, place, first)
                truth = _text(record, self.keys.second, place, second, numbers=self.keys.numbers)
                yield Sample(place, prompt + self.separator if prompt.strip() else "", truth)


@dataclass(frozen=True)
class ParallelReader:
    """Two files of equally many lines."""

    source: Path
    target: Path
    separator: str
    notes: tuple[str, ...] = ()

    def samples(self) -> Iterator[Sample]:
        counts = [0, 0]
        for pair in zip_longest(_lines(self.source), _lines(self.target)):
            for side, found in enumerate(pair):
                counts[side] += found is not None
            first, second = pair
            if first is not None and second is not None and counts[0] == counts[1]:
                prompt = first[1] + self.separator if first[1].strip() else ""
                yield Sample(f"{self.source}:{first[0]}", prompt, second[1])
        if counts[0] != counts[1]:
            raise SourceError(
                f"{self.source} has {counts[0]} lines, but {self.target} has {counts[1]}: "
                "line n of the one belongs to line n of the other"
            )


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Each line with its number, without its end."""
    return ((number, text.rstrip("\r\n")) for number, text in numbered_lines(file))


def _json_records(file: Path) -> Iterator[tuple[str, Any]]:
    for number, line in _lines(file):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        yield place, json_object(line, place)


def _csv_records(file: Path) -> Iterator[tuple[str, Any]]:
    header: list[str] | None = None
    for line, row in _csv_rows(file):
        if header is None:
            header = row
            if (name := twice(header)) is not None:
                raise SourceError(f"{file}:{line}: the column {name!r} stands twice in the header")
        elif len(row) != len(header):
            raise SourceError(f"{file}:{line}: not as many fields as the header has")
        else:
            yield f"{file}:{line}", dict(zip(header, row, strict=True))


def _csv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with the number of the line it begins in."""
    # Line ends stand inside of quoted fields, so they are kept for the reader of CSV.
    csv.field_size_limit(_LONGEST_FIELD)
    rows = csv.reader((text for _, text in numbered_lines(file)), strict=True)
    line = 1
    try:
        for row in rows:
            if row:
                yield line, row
            line = rows.line_num + 1
    except csv.Error as error:
        raise SourceError(f"{file}:{line}: not CSV ({error})") from error


def _text(
    record: dict[str, Any], key: str, place: str, setting: str, *, numbers: bool = False
) -> str:
    if key not in record:
        raise no_key(key, record, place, setting)
    value = record[key]
    if numbers and isinstance(value, bool | int):
        return json.dumps(value)
    if not isinstance(value, str):
        raise SourceError(f"{place}: {key!r} holds no text but {type(value).__name__}")
    return value
