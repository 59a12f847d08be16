"""What a Ray task does on its node: the very command that the local engine starts, as a process.

The task looks after the process and trains nothing itself: so a worker's memory, threads and
signals are those of a process of its own, on a cluster as here.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.study.engines.engine import Ended, Task
from windtunnel.study.workers import last_words

POLL_SECONDS = 0.2
GRACE_SECONDS = 60.0
_USAGE_EXIT = 2


class Switchboard:
    """An actor beside the study: where tasks ask whether their workers are to be stopped."""

    def __init__(self) -> None:
        self._begun: set[str] = set()
        self._signals: dict[str, int] = {}

    def begin(self, name: str) -> int | None:
        """A task has found a place; the signal that it was sent before."""
        self._begun.add(name)
        return self._signals.get(name)

    def signal(self, name: str) -> int | None:
        """The last signal for a task's worker."""
        return self._signals.get(name)

    def send(self, name: str, signum: int) -> bool:
        """Leaves a signal; whether the task has begun, so that somebody will look."""
        self._signals[name] = signum
        return name in self._begun


@dataclass(frozen=True, kw_only=True)
class Errand:
    """A task, with what it needs to know on its node."""

    task: Task
    name: str
    """On the switchboard."""
    folder: str
    """Where the command is to run."""
    python: str
    """The study's interpreter, for which the node's own stands in."""
    variables: Mapping[str, str]


def run_errand(errand: Errand, switchboard: Any) -> Ended:
    """Starts the worker, hands signals on to it, and tells how it ended."""
    import ray

    task = errand.task
    problem = unreachable(task)
    if problem is not None:
        return Ended(code=_USAGE_EXIT, words=problem)
    stopped = ray.get(switchboard.begin.remote(errand.name))
    if stopped is not None:
        return Ended(code=-stopped)
    process = _start(errand)
    told: int | None = None
    try:
        while (code := _wait(process, POLL_SECONDS)) is None:
            signum = ray.get(switchboard.signal.remote(errand.name))
            if signum is not None and signum != told:
                told = signum
                _send(process, signum)
        return Ended(code=code, words=last_words(task.errors))
    finally:  # the study or its switchboard is gone
        _end(process)


def unreachable(task: Task) -> str | None:
    """Why the run cannot be trained on this node; None where it can."""
    try:
        key = json.loads((task.run / "run.json").read_bytes())["key"]
    except (OSError, ValueError, KeyError, TypeError):
        key = None
    if key == task.key and task.log.is_dir():
        return None
    missing = task.log if key == task.key else task.run
    return (
        f"{missing} is not there on the node {platform.node()}: runs and studies must lie on "
        "storage that every node reaches at the same path; give such a place to --runs and --out"
    )


def _start(errand: Errand) -> subprocess.Popen[bytes]:
    task = errand.task
    command = [sys.executable if word == errand.python else word for word in task.command]
    with task.out.open("wb") as out, task.errors.open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "windtunnel.study.tied", str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            cwd=errand.folder if Path(errand.folder).is_dir() else None,
            env={**os.environ, **errand.variables},
            start_new_session=True,
        )


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    with suppress(subprocess.TimeoutExpired):
        return process.wait(seconds)
    return None


def _send(process: subprocess.Popen[bytes], signum: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signum)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Gently, then not."""
    if process.poll() is None:
        _send(process, signal.SIGTERM)
        if _wait(process, GRACE_SECONDS) is None:
            _send(process, signal.SIGKILL)
            process.wait()
