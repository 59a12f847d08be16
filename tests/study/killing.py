"""Studies killed by −9 at random points and started again: for the tests of every verb.

    killed = kill_study(["compare", "a.yaml", "b.yaml", "--out", "study"], cwd=workplace, seed=0)
    assert killed.code == 0 and killed.kills == 4

``kill_study`` starts the command, kills it at a random point, starts it again, and so on; in the
end it lets the command finish. At half of the points the workers are killed too, at the others they
live on and the next study finds them. Whatever was finished at a kill must never be trained again:
that is checked here, by the bytes of records and events.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE_SECONDS = 600.0
WORDS = ("-m", "windtunnel")


@dataclass
class Killed:
    """What came of it."""

    code: int = 0
    """The exit code of the last start, which nobody disturbed."""
    out: str = ""
    errors: str = ""
    """Of that start."""
    kills: int = 0
    """Starts that were killed before they had ended."""
    finished: dict[Path, tuple[bytes, bytes]] = field(default_factory=dict)
    """Record and events of each run that had ended at some kill."""


def kill_study(
    command: Sequence[str],
    *,
    cwd: Path,
    seed: int,
    kills: int = 3,
    spread: int = 40,
    program: Sequence[str] = (sys.executable, *WORDS),
) -> Killed:
    """Kills a study so many times, then lets it finish.

    Args:
        command: of ``windtunnel``; the same each time. Its runs must lie below ``cwd``.
        kills: starts to be killed; fewer where the study ends before.
        spread: a point is so many signs of life (files and lines of events) after the start, at
            most; the last ones are before any worker has begun, in the plan.
        program: what runs the command.
    """
    source, killed = random.Random(seed), Killed()
    for number in range(kills):
        process = _start([*program, *command], cwd)
        if not _live(process, cwd, _signs(cwd) + source.randint(0, spread)):
            process.communicate()
            break
        process.kill()  # the study alone; its workers have sessions of their own
        process.communicate()
        if number % 2:
            _kill_workers(cwd)
        killed.kills += 1
        _remember(killed, cwd)
    process = _start([*program, *command], cwd)
    killed.out, killed.errors = process.communicate(timeout=PATIENCE_SECONDS)
    killed.code = process.returncode
    for path, before in killed.finished.items():
        assert _result(path) == before, f"{path.name} had ended, and was trained again"
    return killed


def _start(command: list[str], cwd: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def _live(process: "subprocess.Popen[str]", cwd: Path, signs: int) -> bool:
    """Waits for so many signs of life; False where the study ends before."""
    end = time.monotonic() + PATIENCE_SECONDS
    while _signs(cwd) < signs:
        if process.poll() is not None:
            return False
        assert time.monotonic() < end, "the study shows no sign of life"
        time.sleep(0.005)
    return process.poll() is None


def _signs(cwd: Path) -> int:
    """Files of studies and runs, and lines of events."""
    count = 0
    for folder, _, names in os.walk(cwd):
        count += len(names)
        if "events.jsonl" in names:
            with suppress(OSError):
                count += (Path(folder) / "events.jsonl").read_bytes().count(b"\n")
    return count


def _kill_workers(cwd: Path) -> None:
    """Those that hold a run of this study."""
    for lock in cwd.rglob("run.lock"):
        with suppress(OSError, ValueError):
            pid = int(lock.read_text())
            if str(lock.parent) in Path(f"/proc/{pid}/cmdline").read_text() or _names(pid, lock):
                os.kill(pid, signal.SIGKILL)


def _names(pid: int, lock: Path) -> bool:
    """Whether a process's command names the run by its folder's name."""
    return lock.parent.name in Path(f"/proc/{pid}/cmdline").read_text()


def _remember(killed: Killed, cwd: Path) -> None:
    for record in cwd.rglob("record.json"):
        killed.finished.setdefault(record.parent, _result(record.parent))


def _result(run: Path) -> tuple[bytes, bytes]:
    return (run / "record.json").read_bytes(), (run / "events.jsonl").read_bytes()
