"""Trackers from the command line: beside a run or a study, or afterwards."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from windtunnel.cli.options import note
from windtunnel.config import suggestion
from windtunnel.errors import RunError, UsageError
from windtunnel.interop.trackers import (
    TRACKERS,
    Following,
    Members,
    Tracker,
    check_installed,
    open_tracker,
    track_run,
    track_study,
)
from windtunnel.interop.trackers.open import PROJECT
from windtunnel.report.units import amount
from windtunnel.runs import Event, RunFolder, RunStore
from windtunnel.study.folder import PLAN, QUESTION, StudyFolder
from windtunnel.study.workers import last_words

PATIENCE_SECONDS = 60.0
"""For trackers to take the rest, once their study has ended."""
_LOG = "trackers.err"


def check_names(names: Sequence[str], option: str = "--track") -> None:
    """Raises UsageError for a tracker that does not exist, before anything is done."""
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f"{option}: unknown {name!r}{suggestion(name, TRACKERS)}")


def check_trackers(names: Sequence[str], option: str = "--track") -> None:
    """As ``check_names``, and raises UsageError where what a tracker needs is not installed."""
    check_names(names, option)
    for name in names:
        check_installed(name)


@contextmanager
def tracked(
    folder: RunFolder, names: Sequence[str], warn: Callable[[str], None]
) -> Iterator[Callable[[Event], None]]:
    """Trackers that are told of a run's events, and of its end however it comes."""
    following = Following(_opened(folder, names, None, warn, step=folder.summary().step), warn)
    try:
        yield following.event
    finally:
        status = folder.status
        following.close("interrupted" if status == "running" else status)


@contextmanager
def tracked_study(
    out: Path, names: Sequence[str], runs: Path, say: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """What begins, when it is called the first time, to hand the study's runs to trackers.

    A process of its own does it (``runs track STUDY --follow``): a tracker that hangs or dies takes
    nothing with it. It ends when the study's folder is free again.
    """
    followers: list[subprocess.Popen[bytes]] = []
    asked = list(names)

    def begin() -> None:
        if asked:
            asked.clear()
            try:
                followers.append(_follower(out, names, runs))
            except OSError as error:  # too many processes, a full disk
                say(f"warning: the trackers are not told: {error.strerror}; {_again(out, names)}")

    try:
        yield begin
    finally:
        for follower in followers:
            _see_off(follower, out, names, say)


def _follower(out: Path, names: Sequence[str], runs: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "windtunnel", "runs", "track", str(out), "--follow"]
    command += _to(names)
    with (StudyFolder(out).log / _LOG).open("wb") as log:
        return subprocess.Popen(
            [*command, "--runs", str(runs)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,  # a terminal's Ctrl-C is the study's; this takes the rest
        )  # fmt: skip


def _see_off(
    follower: subprocess.Popen[bytes], out: Path, names: Sequence[str], say: Callable[[str], None]
) -> None:
    """Waits until the trackers have the rest, and tells where they have not."""
    try:
        code = follower.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        follower.kill()
        follower.wait()
        say(f"warning: the trackers did not take all in time; {_again(out, names)}")
        return
    if code != 0:
        words = last_words(StudyFolder(out).log / _LOG).splitlines() or [f"exit code {code}"]
        say(f"warning: {words[-1]}; {_again(out, names)}")


def _again(out: Path, names: Sequence[str]) -> str:
    words = ["windtunnel", "runs", "track", str(out), *_to(names)]
    return f"what is missing is handed on by: {shlex.join(words)}"


def _to(names: Sequence[str]) -> list[str]:
    return [word for name in names for word in ("--to", name)]


def track_verb(
    runs: Path, run: str, names: Sequence[str], *, out: Path | None, project: str, follow: bool
) -> None:
    """Hands the events of a run, or of all runs of a study, to trackers.

    Raises:
        RunError: a tracker failed, and what it said; the others have all there is.
    """
    check_names(names, "--to")
    failures: list[str] = []
    if any((Path(run) / name).is_file() for name in (PLAN, QUESTION)):
        check_trackers(names, "--to")
        members = Members(Path(run), RunStore(runs))
        count = track_study(
            members, names, folder=out or Path(run) / "trackers", warn=failures.append,
            project=project, follow=follow,
        )  # fmt: skip
        told = f"{run}: {amount(count, 'run')} handed to {', '.join(names)}, group {members.group}"
    else:
        folder = RunStore(runs).select(run)
        trackers = _opened(folder, names, out, failures.append, project=project)
        count = track_run(folder, trackers, warn=failures.append, follow=follow)
        told = f"{folder.path}: {amount(count, 'event')} handed to {', '.join(names)}"
    if failures:
        raise RunError("; ".join(failures))
    note(told)


def _opened(
    folder: RunFolder,
    names: Sequence[str],
    out: Path | None,
    warn: Callable[[str], None],
    *,
    project: str = PROJECT,
    step: int = 0,
) -> dict[str, Tracker]:
    """The trackers by name; one that cannot be opened is told and left out."""
    trackers: dict[str, Tracker] = {}
    for name in dict.fromkeys(names):
        place = None if out is None else out / name
        try:
            trackers[name] = open_tracker(name, folder, folder=place, project=project, step=step)
        except UsageError:  # a name that is none, or what is not installed
            raise
        # As later on: whatever a tracker raises must not keep a run from beginning.
        except Exception as error:
            warn(f"the tracker {name} cannot be opened and is left alone: {error}")
    return trackers
