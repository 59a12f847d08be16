"""Worker processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass

from windtunnel.study.engines.engine import THREAD_VARIABLES, Capacity, Ended, Handle, Task
from windtunnel.study.machine import free_memory_bytes, usable_cores
from windtunnel.study.workers import last_words


class LocalEngine:
    """Starts workers as child processes, each in a session of its own."""

    name = "local"

    def capacity(self) -> Capacity:
        """The cores that this process may use, and the memory that is free now."""
        return Capacity(usable_cores(), free_memory_bytes())

    def start(self, task: Task) -> Handle:
        threads = dict.fromkeys(THREAD_VARIABLES, str(task.threads))
        with task.out.open("wb") as out, task.errors.open("wb") as errors:
            try:
                process = subprocess.Popen(
                    task.command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=errors,
                    env={**os.environ, **threads},
                    start_new_session=True,  # a terminal's Ctrl-C reaches this process alone
                )
            except OSError as error:
                return NeverStarted(f"its worker cannot be started: {error.strerror}")
        return _LocalHandle(process, task)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class NeverStarted:
    """A worker that could not be started."""

    reason: str

    def poll(self) -> Ended:
        return Ended(code=None, lost=self.reason)

    def stop(self, signum: int) -> None:
        pass

    def kill(self) -> None:
        pass


@dataclass(frozen=True)
class _LocalHandle:
    process: subprocess.Popen[bytes]
    task: Task

    def poll(self) -> Ended | None:
        code = self.process.poll()
        return None if code is None else Ended(code=code, words=last_words(self.task.errors))

    def stop(self, signum: int) -> None:
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signum)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)
        self.process.wait()
