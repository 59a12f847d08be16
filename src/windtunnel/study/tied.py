"""``python -m windtunnel.study.tied PARENT COMMAND…``: the command, told to stop when PARENT dies.

A worker of a cluster belongs to the task that started it. Where that is killed (by the cluster, or
with the study that asked for it), the worker gets SIGTERM, saves, and leaves. Linux only: elsewhere
it trains on, and the next worker of its run waits for it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
CANNOT_START = 127


def tie(signum: int) -> None:
    """Lets the system send this process a signal when the process that started it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)


def main(arguments: list[str]) -> int:
    """Does not return where the command can be started."""
    parent, command = int(arguments[0]), arguments[1:]
    tie(signal.SIGTERM)
    if os.getppid() != parent:  # it died before this process was tied to it
        return 128 + signal.SIGTERM
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"its worker cannot be started: {error.strerror}: {command[0]}", file=sys.stderr)
    return CANNOT_START


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
