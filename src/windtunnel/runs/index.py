"""The index of a store: a cache in SQLite that spares reading the record of every ended run.

The folders are the truth. A row holds the summary of a run whose record is final, with the stamp
of that record file and of the run's tags; a missing, damaged or foreign index is made anew, and one
that cannot be written is done without. Both are logged.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from windtunnel.runs.folder import RunSummary

log = logging.getLogger(__name__)

VERSION = 2
SCHEMA = "CREATE TABLE IF NOT EXISTS runs (folder TEXT PRIMARY KEY, stamp TEXT, summary TEXT)"
Row = tuple[str, RunSummary]
"""The stamp of a record and its tags, and the summary made from them."""


class RunIndex:
    """The rows of one index file, by folder name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, Row]:
        """All rows; none where the index is missing, damaged or cannot be opened."""
        if not self.path.exists():
            return {}
        try:
            with self._connect() as connection:
                rows = connection.execute("SELECT folder, stamp, summary FROM runs").fetchall()
            return {name: (stamp, self._summary(name, text)) for name, stamp, text in rows}
        except sqlite3.OperationalError as error:
            log.warning("%s: not used (%s); the folders are read instead", self.path, error)
        except (sqlite3.DatabaseError, ValueError, TypeError, KeyError) as error:
            log.warning("%s: damaged (%s); made anew from the folders", self.path, error)
            self._try_to_remove()
        return {}

    def update(self, changed: Mapping[str, Row], gone: Iterable[str]) -> None:
        """Write the changed rows and drop those of folders that are gone."""
        rows = [(name, stamp, self._text(row)) for name, (stamp, row) in changed.items()]
        try:
            with self._connect() as connection, connection:
                connection.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", rows)
                connection.executemany("DELETE FROM runs WHERE folder = ?", [(n,) for n in gone])
        except sqlite3.Error as error:
            log.warning("%s: not updated (%s)", self.path, error)

    def _try_to_remove(self) -> None:
        try:
            self.remove()
        except OSError as error:
            log.warning("%s: cannot be deleted (%s)", self.path, error.strerror)

    def remove(self) -> None:
        """Delete the index; the next listing makes it anew.

        Raises:
            OSError: it cannot be deleted.
        """
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=5.0)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != VERSION:
                with connection:
                    connection.execute("DROP TABLE IF EXISTS runs")
                    connection.execute(SCHEMA)
                    connection.execute(f"PRAGMA user_version={VERSION}")
            yield connection

    def _summary(self, name: str, text: str) -> RunSummary:
        values: dict[str, Any] = json.loads(text)
        tags = tuple(values["tags"])
        return RunSummary(**{**values, "path": self.path.parent / name, "tags": tags})

    def _text(self, summary: RunSummary) -> str:
        names = [field.name for field in fields(RunSummary) if field.name != "path"]
        return json.dumps({name: getattr(summary, name) for name in names})
