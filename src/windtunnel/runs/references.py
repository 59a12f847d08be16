"""Which studies need which runs of a store: ``STORE/studies/*.json``, one file for each study.

A study lies anywhere and its runs in a store; before its first run starts it leaves a note here, so
that nobody who clears the store up takes a run from under it. A note counts for as long as the
study's folder is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from windtunnel.errors import RunError
from windtunnel.runs.durable import strict_json, write_atomic

STUDIES = "studies"


@dataclass(frozen=True)
class Reference:
    """A study's note."""

    path: Path
    """The note's own file."""
    study: Path
    """The study's folder."""
    keys: frozenset[str]
    """Of the runs that it needs."""
    ended: bool
    """Whether it has its results: then it needs its runs, but no checkpoints in their middle."""

    @property
    def stands(self) -> bool:
        return self.study.is_dir()


def refer(root: Path, study: Path, keys: Collection[str], *, ended: bool = False) -> None:
    """Notes that a study needs runs of the store at ``root``, besides those it noted before.

    Raises:
        RunError: the note cannot be written.
    """
    where = study.resolve()
    folder = root / STUDIES
    path = folder / f"{hashlib.sha256(str(where).encode()).hexdigest()[:16]}.json"
    before = _read(path) if path.exists() else None
    all_of_them = sorted({*keys, *(before.keys if before is not None else ())})
    note = {"study": str(where), "ended": ended, "keys": all_of_them}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, strict_json(note, indent=2) + "\n")
    except OSError as error:
        raise RunError(f"{path}: cannot write: {error.strerror}") from error


def references(root: Path) -> list[Reference]:
    """The notes in the store at ``root``.

    Raises:
        RunError: a note cannot be read.
    """
    return [_read(path) for path in sorted((root / STUDIES).glob("*.json"))]


def _read(path: Path) -> Reference:
    try:
        note = json.loads(path.read_bytes())
        return Reference(path, Path(note["study"]), frozenset(note["keys"]), bool(note["ended"]))
    except OSError as error:
        raise RunError(f"{path}: cannot read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: is damaged") from error
