"""What an engine is: it starts a worker's process somewhere, and tells how that ended.

An engine decides nothing. Which run comes next, how often it is tried again, what memory leaves
room for and what is said of it: all that is the executor's, so a study comes out the same whatever
the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from windtunnel.study.workers import how_it_ended

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A worker that is to be started, and what it is expected to take."""

    command: tuple[str, ...]
    run: Path
    """The run's folder."""
    key: str
    """The run's key: a folder that does not hold this run is not the right one."""
    log: Path
    """The folder for what the worker prints."""
    stem: str
    """The name of those files, without what follows the last dot; unique in a study."""
    threads: int = 1
    """Of one process."""
    processes: int = 1
    """That the worker starts: more than one under torchrun."""
    gpus: int = 0
    """That it takes, whichever they are; 0 also where it names its own."""
    memory_bytes: int = 0

    @property
    def cores(self) -> int:
        return self.threads * self.processes

    @property
    def out(self) -> Path:
        return self.log / f"{self.stem}.out"

    @property
    def errors(self) -> Path:
        return self.log / f"{self.stem}.err"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a worker's process has ended."""

    code: int | None
    """Its exit code, below zero for a signal; None where it never ran or is lost."""
    words: str = ""
    """The last lines that it wrote on standard error."""
    lost: str = ""
    """Where there is no code: why."""

    @property
    def how(self) -> str:
        """In words."""
        return self.lost if self.code is None else how_it_ended(self.code)


@dataclass(frozen=True)
class Capacity:
    """What an engine has for all workers together."""

    cores: int
    memory_bytes: int | None
    """None: not known."""
    gpus: int | None = None
    """None: not known, or nothing that workers are to be counted by."""


class Handle(Protocol):
    """A worker that was started."""

    def poll(self) -> Ended | None:
        """How it has ended; None while it lives (or waits for a place on the cluster)."""

    def stop(self, signum: int) -> None:
        """Hands the signal to the worker and all that it has started. Gone already is fine."""

    def kill(self) -> None:
        """Ends it at once, and returns when it is gone."""


class Engine(Protocol):
    """A place where workers run."""

    @property
    def name(self) -> str: ...

    def capacity(self) -> Capacity: ...

    def start(self, task: Task) -> Handle:
        """Starts a worker. One that cannot be started is a handle that has ended already.

        Raises:
            StudyError: no worker of that kind can ever run here.
        """

    def close(self) -> None:
        """Lets go of what the engine holds; workers have ended before."""
