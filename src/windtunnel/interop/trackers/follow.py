"""Telling trackers of events: as they happen, or from a run's file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from windtunnel.interop.trackers.names import named
from windtunnel.interop.trackers.tracker import Tracker
from windtunnel.runs import Event, RunFolder

Warn = Callable[[str], None]


class Following:
    """Tells several trackers of a run's events; one that fails is told once to ``warn``, and asked
    no more."""

    def __init__(self, trackers: dict[str, Tracker], warn: Warn) -> None:
        self._trackers = dict(trackers)
        self._warn = warn

    def event(self, event: Event) -> None:
        """Hands on the event's numbers, and the end."""
        values = named(event)
        if values and event.step is not None:
            step, moment = event.step, event.time
            self._each(lambda tracker: tracker.log(values, step=step, time=moment))

    @property
    def names(self) -> tuple[str, ...]:
        """Of those that have not failed."""
        return tuple(self._trackers)

    def close(self, status: str) -> bool:
        """Tells the trackers that nothing more comes; whether none has failed at that."""
        before = len(self._trackers)
        self._each(lambda tracker: tracker.close(status))
        whole = len(self._trackers) == before
        self._trackers.clear()
        return whole

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                act(tracker)
            # Whatever a tracker raises (no network, a full disk) must not end a run.
            except Exception as error:
                del self._trackers[name]
                self._warn(f"the tracker {name} failed and is left alone: {error}")


def track_run(
    run: RunFolder,
    trackers: dict[str, Tracker],
    *,
    warn: Warn,
    follow: bool = False,
    poll_seconds: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Hands a run's standing events to trackers; how many.

    With ``follow`` it goes on until the run is not running any more.

    Raises:
        RunError: the run's files cannot be read.
    """
    following = Following(trackers, warn)
    handed: list[Event] = []
    while True:
        status = run.status  # before the events: what is written until it ends is seen
        events = run.read_events()
        for event in events[alike(handed, events) :]:
            following.event(event)
        handed = events
        if not follow or status != "running":
            break
        sleep(poll_seconds)
    following.close(status)
    return len(handed)


def alike(before: Sequence[Event], now: Sequence[Event]) -> int:
    """How many events both begin with: a resume takes back those of the steps it takes again."""
    pairs = enumerate(zip(before, now, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(before), len(now)))
