"""What is told of worker processes: how they ended, what they said last, how long is left."""

from __future__ import annotations

import heapq
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from windtunnel.train.interrupts import REQUEUE_EXIT

_TORCHRUN = "torch/distributed/elastic/"
_TAIL_LINES = 12
_TAIL_BYTES = 8192


class Clock:
    """The time left, by the work done since the first step was seen."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first: tuple[float, float] | None = None

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._began

    def seconds_left(self, done: float, left: float) -> float | None:
        """None before any work was seen done."""
        now = time.monotonic()
        if self._first is None or done < self._first[1]:
            self._first = (now, done)
        since, before = self._first
        if left == 0:
            return 0.0
        return left * (now - since) / (done - before) if done > before else None


def makespan(seconds: Sequence[float], workers: int, busy: Sequence[float] = ()) -> float:
    """How long so many workers take for runs that start in this order.

    Args:
        busy: how long those take that are under way.

    >>> makespan([3.0, 1.0, 1.0, 2.0], 2), makespan([3.0], 2, busy=[1.0, 2.0])
    (4.0, 4.0)
    """
    ends = [*busy, *[0.0] * (workers - len(busy))]
    heapq.heapify(ends)
    for each in seconds:
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends, default=0.0)


def how_it_ended(code: int) -> str:
    """What a worker's exit code says."""
    names = {s.value: s.name for s in signal.Signals}
    if code < 0:
        return f"its worker was killed by {names.get(-code, f'signal {-code}')}"
    if code == REQUEUE_EXIT:
        return "its worker was asked to stop"
    if code - 128 in names:
        return f"its worker was stopped by {names[code - 128]}"
    return f"its worker gave up with exit code {code}"


def last_words(path: Path) -> str:
    """The last lines of what a worker wrote; torchrun's own report of its end is left out. Where
    they cannot be read any more, that is what is said."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    reports = (i for i, line in enumerate(lines) if _TORCHRUN in line)
    return "\n".join(lines[: next(reports, None)][-_TAIL_LINES:])
