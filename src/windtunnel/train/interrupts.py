"""Being asked to stop: SIGINT, SIGTERM and SIGUSR1 set a flag that is looked at between steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

from windtunnel.errors import RunError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
REQUEUE_EXIT = 75
"""Start the same command again: EX_TEMPFAIL of sysexits.h, "try again later"."""

PAUSE_EXIT = 3
"""The run has come as far as it was asked to, and is not at its end."""


def exit_code_of(signum: int) -> int:
    """Ctrl-C: 130, as shells have it. What a scheduler sends (SIGTERM, or SIGUSR1 ahead of a time
    limit): :data:`REQUEUE_EXIT`."""
    return 128 + signum if signum == signal.SIGINT else REQUEUE_EXIT


class Interrupted(RunError):
    """The run stopped on a signal, after a checkpoint; see :func:`exit_code_of`."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_code = exit_code_of(signum)


class Paused(RunError):
    """The run has reached the step up to which it was to be trained, and has saved."""

    exit_code = PAUSE_EXIT


class StopRequest:
    """While it is entered, a first such signal is only noted in ``signum``.

    A second Ctrl-C raises KeyboardInterrupt at once. Outside the main thread signals cannot be
    caught, so there nothing changes.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signum is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = number
