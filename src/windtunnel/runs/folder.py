"""A run's folder: everything about one run, and all that its status is derived from.

    run.json        key, name and time of creation
    config.yaml     the resolved config
    events.jsonl    what happened, append-only
    checkpoints/    written by the trainer
    record.json     written once, when the run ends as finished or diverged, or was imported; it is
                    final
    tags.json       names that people gave the run
    run.lock        held by the process that writes the run
    claims/         which process of which machine may write

The status is never stored: a record says how the run ended; without one, a held lock (or a living
claim of another machine) means running, a free one that the run failed (its last event says so) or
was interrupted.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

from windtunnel.errors import RunError, UsageError
from windtunnel.runs.claim import is_claimed_elsewhere
from windtunnel.runs.durable import strict_json, sync_folder, write_atomic
from windtunnel.runs.events import Event, EventLog, read_events, read_last_events
from windtunnel.runs.lock import RunLock, is_locked
from windtunnel.runs.tags import read_tags

Status = Literal["running", "finished", "diverged", "failed", "interrupted", "imported"]
FINAL: tuple[Status, ...] = ("finished", "diverged", "imported")
IDENTITY = "run.json"
RECORD = "record.json"


@dataclass(frozen=True)
class RunSummary:
    """One line of a listing. ``loss`` is the last validation loss in nats a token."""

    path: Path
    key: str
    name: str
    status: Status
    created: float
    step: int = 0
    loss: float | None = None
    params: int | None = None
    tokens: int | None = None
    train_seconds: float | None = None
    tags: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path), "tags": list(self.tags)}


class RunFolder:
    """An existing run on the disk; see the module for its files."""

    def __init__(self, path: Path, *, key: str, name: str, created: float) -> None:
        self.path = path
        self.key = key
        self.name = name
        self.created = created

    @classmethod
    def create(
        cls, path: Path, *, key: str, name: str, config: Mapping[str, Any] | str
    ) -> RunFolder:
        """Make a new run folder, whole or not at all.

        Args:
            path: must not exist; missing parents are made.
            key: the run's digest (``run_key``).
            name: any text for people.
            config: the resolved config, as YAML text or as a plain tree.

        Raises:
            UsageError: the path exists already, or cannot be written.
        """
        if path.exists():
            raise UsageError(f"{path}: already exists; resume it or choose another folder")
        created = time.time()
        identity = {"key": key, "name": name, "created": created}
        draft = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
        try:
            draft.mkdir(parents=True)
            (draft / "checkpoints").mkdir()
            (draft / "events.jsonl").touch()
            write_atomic(draft / "config.yaml", _as_yaml(config))
            write_atomic(draft / IDENTITY, strict_json(identity, indent=2) + "\n")
            os.rename(draft, path)  # fails where another process was first
            sync_folder(path.parent)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            if path.exists():
                raise UsageError(f"{path}: was just made by another process") from error
            raise UsageError(f"{path}: cannot be made: {error.strerror}") from error
        return cls(path, key=key, name=name, created=created)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The run at ``path``.

        Raises:
            RunError: there is no run, or its ``run.json`` is damaged.
        """
        try:
            identity = json.loads((path / IDENTITY).read_bytes())
            key, name, created = identity["key"], identity["name"], identity["created"]
        except OSError as error:
            raise RunError(f"{path}: is not a run folder: {error.strerror}: {IDENTITY}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path / IDENTITY}: is damaged") from error
        return cls(path, key=str(key), name=str(name), created=float(created))

    def has_begun(self) -> bool:
        """Whether it holds anything of a run: an event, a checkpoint or a record."""
        events = self.path / "events.jsonl"
        kept = self.checkpoints.is_dir() and any(self.checkpoints.iterdir())
        return (
            kept or (self.path / RECORD).exists() or (events.exists() and events.stat().st_size > 0)
        )

    def remake(self, *, key: str, name: str, config: Mapping[str, Any] | str) -> RunFolder:
        """The folder as another run's; hold the lock. Nothing is lost: it has not begun.

        Raises:
            UsageError: it has begun, or cannot be written.
        """
        if self.has_begun():
            raise UsageError(f"{self.path}: this run has begun, and is another one")
        created = time.time()
        identity = {"key": key, "name": name, "created": created}
        try:
            self.checkpoints.mkdir(exist_ok=True)
            write_atomic(self.config_path, _as_yaml(config))
            write_atomic(self.path / IDENTITY, strict_json(identity, indent=2) + "\n")
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written: {error.strerror}") from error
        return RunFolder(self.path, key=key, name=name, created=created)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def status(self) -> Status:
        """How the run stands now.

        Raises:
            RunError: the record is damaged.
        """
        return self.summary().status

    def lock(self) -> RunLock:
        """The right to write this run: ``with folder.lock(): …``."""
        return RunLock(self.path / "run.lock", claims=self.path / "claims")

    def open_events(self, lock: RunLock | None = None) -> EventLog:
        """The writing end of the events; take the lock first, and give it here, so that a process
        that another machine took for dead writes no more."""
        return EventLog(self.path / "events.jsonl", guard=None if lock is None else lock.check)

    def read_events(self) -> list[Event]:
        """The events that stand, oldest first."""
        return read_events(self.path / "events.jsonl")

    def read_start(self) -> Mapping[str, Any] | None:
        """The values of the start event; None while the run has not begun."""
        starts = (event.values for event in self.read_events() if event.kind == "start")
        return next(starts, None)

    def read_record(self) -> dict[str, Any] | None:
        """The final record; None while the run has not ended.

        Raises:
            RunError: the record is damaged.
        """
        path = self.path / RECORD
        try:
            record = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(f"{path}: cannot read: {error.strerror}") from error
        except ValueError as error:
            raise RunError(f"{path}: is damaged") from error
        if not isinstance(record, dict) or record.get("status") not in FINAL:
            raise RunError(f"{path}: is damaged: its status is none of {', '.join(FINAL)}")
        return cast("dict[str, Any]", record)

    def write_record(
        self, record: Mapping[str, Any], *, guard: Callable[[], None] | None = None
    ) -> None:
        """Write the record, once; it is final.

        Args:
            guard: see ``write_atomic``.

        Raises:
            RunError: there is one already, or the disk is full.
        """
        path = self.path / RECORD
        assert record["status"] in FINAL, f"{record['status']!r} is not final"
        if path.exists():
            raise RunError(f"{path}: exists already; a record is never rewritten")
        try:
            write_atomic(path, strict_json(record, indent=2) + "\n", guard=guard)
        except OSError as error:
            raise RunError(f"{path}: cannot write: {error.strerror}") from error

    def summary(self) -> RunSummary:
        """What a listing says of this run.

        Raises:
            RunError: a file of the run is damaged.
        """
        # The lock is asked first: a run that ends meanwhile writes its record before it lets go.
        locked = is_locked(self.path / "run.lock") or is_claimed_elsewhere(self.path / "claims")
        record = self.read_record()
        if record is not None:
            return self._of_record(record)
        events = read_last_events(self.path / "events.jsonl")
        return self._of_events(events, running=locked)

    def _of_record(self, record: Mapping[str, Any]) -> RunSummary:
        final = record.get("final") or {}
        return RunSummary(
            self.path,
            self.key,
            self.name,
            record["status"],
            self.created,
            step=record.get("steps") or 0,
            loss=final.get("loss"),
            params=record.get("params"),
            tokens=record.get("tokens"),
            train_seconds=record.get("train_seconds"),
            tags=read_tags(self.path),
        )

    def _of_events(self, events: list[Event], *, running: bool) -> RunSummary:
        def last(*kinds: str) -> Mapping[str, Any]:
            found = [event.values for event in events if event.kind in kinds]
            return found[-1] if found else {}

        failed = bool(events) and events[-1].kind == "end" and last("end")["status"] == "failed"
        reached = last("step", "eval", "resume")
        return RunSummary(
            self.path,
            self.key,
            self.name,
            "running" if running else "failed" if failed else "interrupted",
            self.created,
            step=reached.get("step", 0),
            loss=last("eval").get("loss"),
            params=last("start").get("params"),
            tokens=reached.get("tokens"),
            train_seconds=reached.get("seconds"),
            tags=read_tags(self.path),
        )


def _as_yaml(config: Mapping[str, Any] | str) -> str:
    if isinstance(config, str):
        return config
    import yaml  # only a writer needs it: listings stay fast

    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
