"""What the executor is given, and what it tells: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from windtunnel.runs import RunFolder


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run to be brought to its end."""

    run: RunFolder
    name: str
    steps: int
    first_step: int = 0
    """Where it begins: above 0 where it goes on from a checkpoint of another run."""
    work_per_step: float = 1.0
    """What a step takes, in a unit that all jobs share (FLOPs, say); for the time left."""
    start_seconds: float = 0.0
    """What a worker takes before its first step, where that unit is a second; else 0."""
    threads: int = 1
    """Of one process."""
    processes: int = 1
    """That train it together, under torchrun."""
    gpus: int = 0
    memory_bytes: int = 0
    """Predicted peak of its processes."""
    until: int | None = None
    """The step at which it pauses, with an evaluation and a checkpoint. None: it does not."""
    limit_bytes: int | None = None
    """What its process may take at most; a run that finds it too little is not tried again."""

    @property
    def work(self) -> float:
        """All that it takes, its start included."""
        return self.start_seconds + self.work_per_step * (self.steps - self.first_step)

    @property
    def in_seconds(self) -> bool:
        """Whether the unit of its work is a second."""
        return self.start_seconds > 0

    def work_done(self, step: int, seconds: float, begun_at: int | None = None) -> float:
        """Where it has come to a step, or is not there yet ``seconds`` after its worker began.

        Args:
            begun_at: the step from which the worker goes on, or will: its start is work once more.
                The first one when left out.
        """
        begun_at = self.first_step if begun_at is None else max(self.first_step, begun_at)
        started = min(seconds, self.start_seconds) if step <= begun_at else self.start_seconds
        return started + self.work_per_step * max(0, step - self.first_step)


Status = Literal["finished", "diverged", "failed", "paused", "passed"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended. Failed: its worker died or gave up as often as was allowed. Paused: it was
    to be trained to a step and has reached it. Passed: it was to, and another study trained it
    past that step, without an evaluation there."""

    status: Status
    reason: str = ""
    attempts: int = 0
    """Workers that were started for it; 0 where it had ended before."""
    memory_bytes: int = 0
    """What it was last expected to take: more than predicted where that was too little."""


@dataclass(frozen=True)
class Running:
    """A run that is being trained."""

    name: str
    step: int
    steps: int
    loss: float | None
    """The last validation loss, in nats a token."""


@dataclass(frozen=True)
class Progress:
    """Where a study stands."""

    runs: int
    runs_done: int
    """Ended, in whatever way."""
    failed: int
    steps: int
    steps_done: int
    fraction: float
    """Of the work, from 0 to 1."""
    running: tuple[Running, ...]
    seconds: float
    """Since the executor began."""
    seconds_left: float | None
    """By what the runs that have ended here took; before one has, by those that stood there before;
    where there are none, by the speed so far; None before anything is done."""
