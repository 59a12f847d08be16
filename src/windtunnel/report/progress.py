"""Progress of a training or a study: bars in a terminal, a line now and then elsewhere.

    with open_progress() as progress:
        progress.start("llama-0", "llama, seed 0", total=400)
        for step in range(400):
            ...
            progress.update("llama-0", step + 1, note="loss 2.31")
        progress.finish("llama-0", "finished, loss 2.31")

The time left is measured here, by the pace of the last seconds; a caller that knows better starts
the task with ``knows_left`` and tells it with each update:

    progress.start("study", "runs", total=12, knows_left=True)
    progress.update("study", 3.4, left=95.0)

Both displays go to stderr, so that a command's own output can be piped.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text

from windtunnel.report.units import duration_text

Clock = Callable[[], float]

_LINE_EVERY_FRACTION = 0.1
_LINE_AT_LEAST_EVERY_SECONDS = 30.0
_LINE_AT_MOST_EVERY_SECONDS = 3.0
_PACE_SECONDS = 30.0
_PACE_POINTS = 512


class ProgressDisplay(Protocol):
    """Shows several tasks at once; each has a key of the caller's. Safe to call from threads."""

    def start(
        self, key: str, label: str, total: float, *, done: float = 0.0, knows_left: bool = False
    ) -> None:
        """Show a task of `total` units of which `done` are done (more than none after a resume).
        Whose updates know the time left, gets none measured."""

    def update(self, key: str, done: float, *, note: str = "", left: float | None = None) -> None:
        """Say how much is done; the note stands behind the bar, and then the seconds left, where
        the task was started so. AssertionError: unknown key."""

    def finish(self, key: str, note: str) -> None:
        """Take the task off the display and leave one line that says how it ended."""

    def say(self, line: str) -> None:
        """Print a line above the bars."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def open_progress(console: Console | None = None, clock: Clock = time.monotonic) -> ProgressDisplay:
    """Bars when the console (stderr unless given) is a terminal, sparse plain lines otherwise."""
    shown = console if console is not None else Console(stderr=True)
    return BarDisplay(shown, clock) if shown.is_terminal else LineDisplay(shown, clock)


class Pace:
    """How fast a task goes, measured over its last seconds, and so when it will be over; or when it
    will be by what was told last, where the caller knows."""

    def __init__(self, total: float, done: float, now: float, *, knows_left: bool = False) -> None:
        self.total = total
        self._knows_left = knows_left
        self._left: float | None = None
        self._points = deque([(now, done)], maxlen=_PACE_POINTS)

    @property
    def done(self) -> float:
        return self._points[-1][1]

    @property
    def fraction(self) -> float:
        """From 0 to 1; a task with nothing to do is done."""
        return min(1.0, self.done / self.total) if self.total > 0 else 1.0

    def add(self, now: float, done: float, left: float | None = None) -> None:
        """A new point; points older than the window are left, as long as two stay."""
        self._left = left
        self._points.append((now, done))
        while len(self._points) > 2 and self._points[1][0] <= now - _PACE_SECONDS:
            self._points.popleft()

    def remaining_seconds(self, now: float) -> float | None:
        """Seconds until done, as told or at the measured pace; None before anything is known."""
        if self._knows_left:
            since = now - self._points[-1][0]
            return None if self._left is None else max(0.0, self._left - since)
        (start, done_then), (last, done_now) = self._points[0], self._points[-1]
        if done_now <= done_then or last <= start:
            return None
        rate = (done_now - done_then) / (last - start)
        # Time that passed since the last point counts: the estimate falls between updates.
        return max(0.0, (self.total - done_now) / rate - (now - last))

    def eta_text(self, now: float) -> str:
        """``3 min 20 s left``, or nothing while nothing is known."""
        seconds = self.remaining_seconds(now)
        if seconds is None:
            return ""
        return f"{duration_text(seconds) if seconds >= 9.5 else f'{seconds:.0f} s'} left"


class LineDisplay:
    """For logs and pipes: a line at each tenth or half minute of a task, never in quick series."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console, self._clock = console, clock
        self._tasks: dict[str, _LineTask] = {}
        self._lock = threading.Lock()

    def start(
        self, key: str, label: str, total: float, *, done: float = 0.0, knows_left: bool = False
    ) -> None:
        with self._lock:
            now = self._clock()
            self._tasks[key] = _LineTask(label, Pace(total, done, now, knows_left=knows_left), now)
            self._print(f"{label}: started" + (f" at {done:g} of {total:g}" if done else ""))

    def update(self, key: str, done: float, *, note: str = "", left: float | None = None) -> None:
        with self._lock:
            assert key in self._tasks, f"no task {key!r} was started"
            task, now = self._tasks[key], self._clock()
            task.pace.add(now, done, left)
            if task.is_due(now):
                parts = [f"{done:g}/{task.pace.total:g}", note, task.pace.eta_text(now)]
                told = ", ".join(part for part in parts if part)
                self._print(f"{task.label}: {100 * task.pace.fraction:3.0f}%  {told}")

    def finish(self, key: str, note: str) -> None:
        with self._lock:
            task = self._tasks.pop(key)
            took = duration_text(self._clock() - task.began)
            self._print(f"{task.label}: {note} ({took})")

    def say(self, line: str) -> None:
        with self._lock:
            self._print(line)

    def _print(self, line: str) -> None:
        # soft_wrap: in a log, one message is one line whatever the width.
        self._console.print(Text(line), soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None


class _LineTask:
    """A task with what was last told of it."""

    def __init__(self, label: str, pace: Pace, now: float) -> None:
        self.label, self.pace, self.began = label, pace, now
        self._told_at, self._told_fraction = now, pace.fraction

    def is_due(self, now: float) -> bool:
        """Whether a line should be printed now; remembers that it was."""
        waited = now - self._told_at
        moved = self.pace.fraction - self._told_fraction >= _LINE_EVERY_FRACTION - 1e-9
        if waited < _LINE_AT_MOST_EVERY_SECONDS:
            return False
        if not moved and waited < _LINE_AT_LEAST_EVERY_SECONDS:
            return False
        self._told_at, self._told_fraction = now, self.pace.fraction
        return True


class _EtaColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        pace, clock = task.fields["pace"], task.fields["clock"]
        return Text(pace.eta_text(clock()), style="cyan")


class _PercentColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{100 * task.fields['pace'].fraction:3.0f}%")


class _TextColumn(ProgressColumn):
    """A field of the task as it stands: labels and notes are no markup."""

    def __init__(self, name: str, style: str) -> None:
        super().__init__()
        self._name, self._style = name, style

    def render(self, task: Task) -> Text:
        return Text(task.fields[self._name], style=self._style, overflow="ellipsis", no_wrap=True)


class BarDisplay:
    """For terminals: one bar a task, with its note and the time left."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console, self._clock = console, clock
        self._tasks: dict[str, tuple[Task, float]] = {}
        self._lock = threading.Lock()
        self._progress = Progress(
            _TextColumn("label", "bold"),
            BarColumn(bar_width=24),
            _PercentColumn(),
            _TextColumn("note", "dim"),
            _EtaColumn(),
            console=console,
            refresh_per_second=4,
        )

    def start(
        self, key: str, label: str, total: float, *, done: float = 0.0, knows_left: bool = False
    ) -> None:
        now = self._clock()
        pace = Pace(total, done, now, knows_left=knows_left)
        identity = self._progress.add_task(
            "", total=max(total, 1e-9), label=label, note="", pace=pace, clock=self._clock
        )
        self._progress.update(identity, completed=done)
        with self._lock:
            self._tasks[key] = (next(t for t in self._progress.tasks if t.id == identity), now)

    def update(self, key: str, done: float, *, note: str = "", left: float | None = None) -> None:
        with self._lock:
            assert key in self._tasks, f"no task {key!r} was started"
            task, _ = self._tasks[key]
            task.fields["pace"].add(self._clock(), done, left)
        self._progress.update(task.id, completed=done, note=note)

    def finish(self, key: str, note: str) -> None:
        with self._lock:
            task, began = self._tasks.pop(key)
        self._progress.remove_task(task.id)
        took = duration_text(self._clock() - began)
        self.say(f"{task.fields['label']}: {note} ({took})")

    def say(self, line: str) -> None:
        self._progress.console.print(Text(line))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
