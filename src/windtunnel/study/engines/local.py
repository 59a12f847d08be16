"""Worker processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

from windtunnel.study.engines.engine import THREAD_VARIABLES, Capacity, Ended, Handle, Task
from windtunnel.study.machine import free_memory_bytes, usable_cores, visible_gpus
from windtunnel.study.workers import last_words


class LocalEngine:
    """Starts workers as child processes, each in a session of its own."""

    name = "local"

    def __init__(self) -> None:
        self._on_gpus: list[tuple[_LocalHandle, tuple[str, ...]]] = []

    def capacity(self) -> Capacity:
        """The cores and GPUs that this process may use, and the memory that is free now."""
        return Capacity(usable_cores(), free_memory_bytes(), len(visible_gpus()))

    def _least_used(self, count: int) -> tuple[str, ...]:
        """So many GPUs: those that the fewest of our workers are using."""
        self._on_gpus = [entry for entry in self._on_gpus if entry[0].poll() is None]
        used = Counter(name for _, names in self._on_gpus for name in names)
        return tuple(sorted(visible_gpus(), key=lambda name: used[name])[:count])

    def start(self, task: Task) -> Handle:
        variables = dict.fromkeys(THREAD_VARIABLES, str(task.threads))
        gpus = self._least_used(task.gpus) if task.gpus else ()
        if gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        try:
            with task.out.open("wb") as out, task.errors.open("wb") as errors:
                process = subprocess.Popen(
                    task.command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=errors,
                    env={**os.environ, **variables},
                    start_new_session=True,  # a terminal's Ctrl-C reaches this process alone
                )
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            return NeverStarted(f"its worker cannot be started: {place}{error.strerror}")
        handle = _LocalHandle(process, task)
        if gpus:
            self._on_gpus.append((handle, gpus))
        return handle

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
