"""Claims on a run that several machines can reach: numbered, kept alive, and fenced.

A file lock tells the processes of one machine apart; on a shared file system it may tell nothing,
and a machine that stood still for an hour still believes that it holds it. So whoever writes a run
also makes a claim: the file ``claims/00000007``, made only if it does not exist, touched every few
seconds. A claim that was not touched for a while may be taken over by making the next number. The
earlier owner looks before each write whether its claim is still the newest, and stops if it is not.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from windtunnel.errors import RunError

LEASE_SECONDS = 120.0
"""How long a claim stands without a sign of life."""
_BEAT_SECONDS = LEASE_SECONDS / 8
_BOOT, _PROCESSES = Path("/proc/sys/kernel/random/boot_id"), "/proc/self/ns/pid"
_LET_GO = 1.0
"""The time of last life of a claim that is not wanted any more: long ago."""


class Claim:
    """The right to write a run, for as long as no other process has made a newer claim."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stopped = threading.Event()
        self._touching = threading.Lock()
        threading.Thread(target=self._beat, name="claim", daemon=True).start()

    @classmethod
    def take(cls, folder: Path, *, lease_seconds: float = LEASE_SECONDS) -> Claim:
        """The next claim in ``folder``, which is made if need be.

        A claim of this very machine counts as let go: the file lock has told already that its
        process is gone. Names of machines may be equal, in containers above all; so the machine's
        start and the processes that it can see must be the same too.

        Raises:
            RunError: a process of another machine showed a sign of life within the lease, or was
                faster; or the folder cannot be written.
        """
        try:
            folder.mkdir(exist_ok=True)
            newest = max(_numbers(folder), default=0)
            if newest:
                _refuse_alive(folder, newest, lease_seconds)
            path = _path(folder, newest + 1)
            _make(path)
            _clear(folder, newest)
        except FileExistsError as error:
            raise RunError(f"{folder.parent}: another process has just claimed this run") from error
        except OSError as error:
            raise RunError(f"{folder}: cannot be claimed: {error.strerror}") from error
        return cls(path)

    def check(self) -> None:
        """Nothing, while this is the newest claim.

        Raises:
            RunError: another process has taken the run over; nothing more may be written.
        """
        following = _path(self.path.parent, int(self.path.name) + 1)
        if not self.path.parent.parent.is_dir():
            raise RunError(
                f"{self.path.parent.parent}: the run's folder is not there any more; nothing more "
                "is written"
            )
        if following.exists() or not self.path.exists():
            raise RunError(
                f"{self.path.parent.parent}: another process has taken this run over, since this "
                "one showed no sign of life; nothing more is written here"
            )

    def release(self) -> None:
        """Lets the run go: the next claim need not wait for the lease to end."""
        with self._touching:  # no sign of life may come after it
            self._stopped.set()
            _touch(self.path, _LET_GO)

    def _beat(self) -> None:
        while not self._stopped.wait(_BEAT_SECONDS):
            with self._touching:
                if not self._stopped.is_set():
                    _touch(self.path, None)


def is_claimed_elsewhere(folder: Path, *, lease_seconds: float = LEASE_SECONDS) -> bool:
    """Whether a process of another machine has shown a sign of life within the lease. Nothing is
    written, so the age is by this machine's clock."""
    try:
        newest = max(_numbers(folder), default=0)
        path = _path(folder, newest)
        touched = path.stat().st_mtime
        here = _is_here(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return False
    lives = touched != _LET_GO and time.time() - touched <= lease_seconds
    return lives and not here


def _clear(folder: Path, newest: int) -> None:
    """Deletes old claims, but for the one before, so that its owner sees two; and drafts of
    processes that died in the middle of making one."""
    for number in _numbers(folder):
        if number < newest:
            _path(folder, number).unlink(missing_ok=True)
    for draft in folder.glob(".0*-*"):
        if draft.name[1:9].isdigit() and int(draft.name[1:9]) <= newest:
            draft.unlink(missing_ok=True)


def _make(path: Path) -> None:
    """Makes the claim, with what it says, in one stroke; FileExistsError where there is one."""
    # Not named by the process: another machine, or container, may have one of the same number.
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    with draft.open("x") as file:
        json.dump({**_machine(), "process": os.getpid()}, file)
    try:
        os.link(draft, path)
    except FileNotFoundError as error:  # whoever was faster has cleared it away
        raise FileExistsError(path) from error
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()


def _machine() -> dict[str, str]:
    """What tells this machine from others, as far as it says so: its name, its present start, and
    the processes that are seen from here (containers of one machine share the rest)."""
    found = {"host": socket.gethostname()}
    with suppress(OSError):
        found["boot"] = _BOOT.read_text(encoding="ascii").strip()
    with suppress(OSError):
        found["processes"] = os.readlink(_PROCESSES)
    return found


def _is_here(owner: dict[str, Any]) -> bool:
    """Whether a claim was made on this machine; an older one says only the name."""
    mine = _machine()
    return owner["host"] == mine["host"] and all(
        key not in owner or owner[key] == mine.get(key) for key in ("boot", "processes")
    )


def _refuse_alive(folder: Path, number: int, lease_seconds: float) -> None:
    path = _path(folder, number)
    try:
        owner = json.loads(path.read_bytes())
        host, process, here = str(owner["host"]), owner["process"], _is_here(owner)
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        host, process, here = "unknown", "unknown", False
    touched = path.stat().st_mtime
    age = _now(folder) - touched
    if here or touched == _LET_GO or age > lease_seconds:
        return
    raise RunError(
        f"{folder.parent}: process {process} of {host} writes this run (a sign of life "
        f"{max(0.0, age):.0f} s ago); wait for it, or {lease_seconds:.0f} s after it has died"
    )


def _now(folder: Path) -> float:
    """The time by the clock of the machine that holds the files, which dates the claims."""
    with tempfile.NamedTemporaryFile(prefix=".clock-", dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def _numbers(folder: Path) -> list[int]:
    return [int(entry.name) for entry in os.scandir(folder) if entry.name.isdigit()]


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}"


def _touch(path: Path, moment: float | None) -> None:
    """Sets the time of last life; a claim that is gone has been taken over."""
    with suppress(OSError):  # the next write finds out, and says so
        os.utime(path, None if moment is None else (moment, moment))
