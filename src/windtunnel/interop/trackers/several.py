"""Telling trackers of all runs of a study, several of which are under way at once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from windtunnel.errors import RunError
from windtunnel.interop.trackers.follow import Following, Warn, alike
from windtunnel.interop.trackers.members import Member, Members
from windtunnel.interop.trackers.names import named
from windtunnel.interop.trackers.open import PROJECT, open_tracker
from windtunnel.runs import Event, RunFolder, RunLock, write_atomic

FINAL = ("finished", "diverged")
HANDED = "handed.json"
LOCK = "handed.lock"
Opener = Callable[..., Any]


def track_study(
    members: Members,
    names: Sequence[str],
    *,
    folder: Path,
    warn: Warn,
    project: str = PROJECT,
    follow: bool = False,
    poll_seconds: float = 2.0,
    sleep: Callable[[float], None] = time.sleep,
    opener: Opener = open_tracker,
) -> int:
    """Hands what stands of a study's runs to trackers; how many runs had anything new.

    What was handed on is written down (``handed.json``), so that it is not handed on twice.

    Args:
        names: of the trackers. One that fails is told once to ``warn`` and left alone; what it has
            not got is handed on the next time.
        folder: for what the trackers write and what is known of them.
        follow: go on until no process conducts the study any more.

    Raises:
        RunError: another process hands on the same, or the folder cannot be written.
        StudyError: the study's files are damaged.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made: {error.strerror}") from error
    with RunLock(folder / LOCK):
        several = _Several(names, folder, project, warn, opener)
        try:
            while True:
                going = members.is_running  # before the look: what comes until it ends is seen
                now = members.now()
                found = members.find(now)
                for member in now:
                    if member.key in found:
                        several.look(found[member.key], member)
                if not (follow and going and several.names):
                    if lost := members.lost(now, found):
                        warn(f"runs of the study that are not there any more: {', '.join(lost)}")
                    return several.count
                sleep(poll_seconds)
        finally:
            several.close()


@dataclass
class _Open:
    """A run that a tracker is being told of."""

    following: Following
    handed: list[Event] = field(default_factory=list)


class _Several:
    def __init__(
        self, names: Sequence[str], folder: Path, project: str, warn: Warn, opener: Opener
    ) -> None:
        self.names = list(dict.fromkeys(names))
        self._folder, self._project, self._warn, self._opener = folder, project, warn, opener
        self._handed = _Handed(folder / HANDED)
        self._open: dict[tuple[str, str], _Open] = {}
        self._sizes: dict[str, int] = {}
        """Of each run's events, when they were last read."""
        self._told: set[str] = set()
        self._touched: set[str] = set()

    @property
    def count(self) -> int:
        """Runs that were handed on."""
        return len(self._touched)

    def look(self, run: RunFolder, member: Member) -> None:
        """Hands on what is new of a run."""
        of = member.label.id
        names = [name for name in self.names if not self._handed.is_final(name, of)]
        if not names or not run.has_begun():
            return
        try:
            status = run.status  # before the events: what is written until it ends is seen
            size = (run.path / "events.jsonl").stat().st_size
            stands = not any((name, of) in self._open for name in names) and status not in FINAL
            if stands and self._sizes.get(of) == size:
                return
            events = run.read_events()
        except (RunError, OSError) as error:
            if of not in self._told:
                self._told.add(of)
                self._warn(f"{member.label.name}: {error}")
            return
        for name in names:
            self._hand(name, run, member, events)
            if status != "running":
                self._end(name, of, status)
        self._sizes[of] = size

    def _hand(self, name: str, run: RunFolder, member: Member, events: list[Event]) -> None:
        of = member.label.id
        one = self._open.get((name, of))
        if one is None:
            known = self._handed.step(name, of)
            after = -1 if known is None else known  # the first evaluation is that of step 0
            fresh = [event for event in events if named(event) and (event.step or 0) > after]
            if not fresh:
                return
            one = self._opened(name, run, member, known or 0)
            if one is None:
                return
        else:
            fresh = events[alike(one.handed, events) :]
        for event in fresh:
            one.following.event(event)
        one.handed = events
        self._touched.add(of)
        self._drop_if_failed(name, of, one)

    def _opened(self, name: str, run: RunFolder, member: Member, step: int) -> _Open | None:
        place = self._folder / name
        try:
            tracker = self._opener(
                name, run, folder=place / member.place if name == "tensorboard" else place,
                project=self._project, step=step, label=member.label,
            )  # fmt: skip
        # Whatever a tracker raises (no network, a full disk) must not end a study's other ones.
        except Exception as error:
            self._warn(f"the tracker {name} cannot be opened and is left alone: {error}")
            self.names.remove(name)
            return None
        one = _Open(Following({name: tracker}, self._warn))
        self._open[name, member.label.id] = one
        return one

    def _drop_if_failed(self, name: str, of: str, one: _Open) -> bool:
        """Whether the tracker has failed: then it is asked no more, for any run."""
        if one.following.names:
            return False
        del self._open[name, of]
        if name in self.names:
            self.names.remove(name)
        return True

    def _end(self, name: str, of: str, status: str) -> None:
        one = self._open.get((name, of))
        if one is None:
            if name in self.names and status in FINAL:
                self._handed.put(name, of, self._handed.step(name, of) or 0, status)
            return
        last = max((event.step or 0 for event in one.handed), default=0)
        if one.following.close(status):
            self._handed.put(name, of, last, status)
            del self._open[name, of]
        else:
            self._drop_if_failed(name, of, one)

    def close(self) -> None:
        """Ends what is open: the follower stops, the runs may go on."""
        for name, of in list(self._open):
            if (name, of) in self._open:
                self._end(name, of, "running")


class _Handed:
    """What each tracker has got: the last step of each run, and how that stood."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, dict[str, Any]]] = {}
        try:
            self._known = _checked(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read ({error}); delete it to begin anew") from error

    def step(self, name: str, of: str) -> int | None:
        """None for a run that was never handed on."""
        step: int | None = self._known.get(name, {}).get(of, {}).get("step")
        return step

    def is_final(self, name: str, of: str) -> bool:
        return self._known.get(name, {}).get(of, {}).get("status") in FINAL

    def put(self, name: str, of: str, step: int, status: str) -> None:
        self._known.setdefault(name, {})[of] = {"step": step, "status": status}
        try:
            write_atomic(self._path, json.dumps(self._known, indent=1) + "\n")
        except OSError as error:
            raise RunError(f"{self._path}: cannot write: {error.strerror}") from error


def _checked(tree: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """By tracker and run. Raises ValueError for anything else."""
    if not isinstance(tree, dict) or not all(isinstance(runs, dict) for runs in tree.values()):
        raise ValueError("expected the runs of each tracker")
    for run in (run for runs in tree.values() for run in runs.values()):
        if not isinstance(run, dict) or not isinstance(run.get("step"), int):
            raise ValueError("expected the last step of each run")
    return tree
