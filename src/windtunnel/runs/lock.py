"""One writer a run: a lock that the system frees when its process dies, however it dies.

On file systems that several machines share, a :class:`~windtunnel.runs.claim.Claim` joins it.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Self

from windtunnel.errors import RunError
from windtunnel.runs.claim import Claim

ATTEMPTS = 20
PAUSE_SECONDS = 0.01
# `is_locked` holds the lock for some microseconds; that must not refuse a writer.


class RunLock:
    """Holds a lock file for as long as the ``with`` block, or the process, lives.

    ``flock`` belongs to the open file: asking from the same process does not free it (as it would
    with POSIX record locks).

    Args:
        path: the lock file, made if need be.
        claims: a folder of claims, where other machines may write too.

    Raises:
        RunError: another process holds it; the message names that process.
    """

    def __init__(self, path: Path, *, claims: Path | None = None) -> None:
        self.path = path
        self._handle: int | None = None
        self._claims = claims
        self._claim: Claim | None = None

    def acquire(self) -> None:
        assert self._handle is None, "the lock is held already"
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunError(f"{self.path}: cannot lock: {error.strerror}") from error
        for attempt in range(ATTEMPTS):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt + 1 < ATTEMPTS:
                    time.sleep(PAUSE_SECONDS)
        else:
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise RunError(
                f"{self.path.parent}: process {holder} is writing here; wait for it or stop it"
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._handle = handle
        if self._claims is not None:
            try:
                self._claim = Claim.take(self._claims)
            except RunError:
                self.release()
                raise

    def check(self) -> None:
        """Nothing, while no other machine has taken over; to be asked before each write.

        Raises:
            RunError: another process has.
        """
        if self._claim is not None:
            self._claim.check()

    def release(self) -> None:
        if self._claim is not None:
            self._claim.release()
            self._claim = None
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock file at ``path``."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
