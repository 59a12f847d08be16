"""A run's events: one JSON object a line, appended as things happen, never rewritten.

A death in the middle of a write leaves a torn last line; the reader leaves it out and the next
writer cuts it off. A ``resume`` event of step ``s`` supersedes every earlier event of a later step:
those steps are taken again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from windtunnel.errors import RunError
from windtunnel.runs.durable import strict_json

RESERVED = ("kind", "time")


@dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    ``time`` is in seconds since 1970; ``values`` are the event's own fields, such as ``step``.
    """

    kind: str
    time: float
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int | None:
        """Steps done when it happened; None where the event belongs to no step."""
        step = self.values.get("step")
        return step if isinstance(step, int) else None

    def to_line(self) -> str:
        return strict_json({"kind": self.kind, "time": self.time, **self.values}) + "\n"


class EventLog:
    """The writing end of an events file; one process at a time (see ``RunLock``).

    ``guard`` is asked before each write and each flush, and raises where nothing may be written.

    Raises:
        RunError: the file cannot be opened or written (a full disk, say). A line that was only
            partly written is taken back.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        guard: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self._clock = clock
        self._guard = guard or (lambda: None)
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunError(f"{path}: cannot open: {error.strerror}") from error
        self._cut_torn_end()

    def check(self) -> None:
        """Nothing, while this process may write; else the guard's error."""
        self._guard()

    def append(self, kind: str, **values: Any) -> Event:
        """Append one event, in one write; numbers that are not finite become null."""
        assert not any(name in values for name in RESERVED), "kind and time are the log's own"
        self._guard()
        event = Event(kind, self._clock(), values)
        line = event.to_line().encode()
        size = os.fstat(self._handle).st_size
        try:
            written = os.write(self._handle, line)
            while written < len(line):
                written += os.write(self._handle, line[written:])
        except OSError as error:
            os.ftruncate(self._handle, size)
            raise RunError(f"{self.path}: cannot write: {error.strerror}") from error
        return event

    def sync(self) -> None:
        """Flush to the disk: what was appended survives a power cut too."""
        self._guard()
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise RunError(f"{self.path}: cannot flush: {error.strerror}") from error

    def close(self) -> None:
        os.close(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _cut_torn_end(self) -> None:
        content = self.path.read_bytes()
        end = len(content)
        while end and not _is_whole(content[:end]):
            end = content.rfind(b"\n", 0, end - 1) + 1
        if end < len(content):
            os.ftruncate(self._handle, end)


def read_events(path: Path) -> list[Event]:
    """The events that stand: a torn last line and superseded events are left out.

    Raises:
        RunError: the file is missing, or a line before the last is damaged (named by its number).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot read: {error.strerror}") from error
    return _standing(_parse(content, path))


def read_last_events(path: Path, *, tail_bytes: int = 1 << 16) -> list[Event]:
    """The standing events in the file's last ``tail_bytes``: for a look at a long run."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(max(0, size - tail_bytes))
            content = file.read()
    except OSError as error:
        raise RunError(f"{path}: cannot read: {error.strerror}") from error
    if start:
        content = content[content.find(b"\n") + 1 :]
    return _standing(_parse(content, path))


def _standing(events: list[Event]) -> list[Event]:
    standing: list[Event] = []
    for event in events:
        if event.kind == "resume" and event.step is not None:
            reached = event.step
            standing = [old for old in standing if old.step is None or old.step <= reached]
        standing.append(event)
    return standing


def _parse(content: bytes, path: Path) -> list[Event]:
    lines = content.split(b"\n")[:-1]  # what follows the last newline is torn
    events = []
    for number, line in enumerate(lines, start=1):
        event = _decode(line)
        if event is not None:
            events.append(event)
        elif any(rest.strip() for rest in lines[number:]):
            raise RunError(f"{path}:{number}: this line is damaged; it is not the last one")
    return events


def _decode(line: bytes) -> Event | None:
    try:
        values = json.loads(line)
    except ValueError:  # undecodable bytes included
        return None
    if not isinstance(values, dict) or any(name not in values for name in RESERVED):
        return None
    kind, moment = values.pop("kind"), values.pop("time")
    return Event(kind, moment, values)


def _is_whole(content: bytes) -> bool:
    """Whether the content ends with a whole line that can be read."""
    if not content.endswith(b"\n"):
        return False
    return _decode(content[content.rfind(b"\n", 0, -1) + 1 : -1]) is not None
