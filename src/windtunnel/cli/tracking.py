"""Trackers from the command line: beside a run, or afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from windtunnel.cli.options import note
from windtunnel.config import suggestion
from windtunnel.errors import RunError, UsageError
from windtunnel.interop.trackers import TRACKERS, Following, open_tracker, track_run
from windtunnel.interop.trackers.open import PROJECT
from windtunnel.interop.trackers.tracker import Tracker
from windtunnel.runs import Event, RunFolder, RunStore


def check_names(names: Sequence[str]) -> None:
    """Raises UsageError for a tracker that does not exist, before anything is done."""
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f"--track: unknown {name!r}{suggestion(name, TRACKERS)}")


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


def track_verb(
    runs: Path, run: str, names: Sequence[str], *, out: Path | None, project: str, follow: bool
) -> None:
    """Hands a run's events to trackers.

    Raises:
        RunError: a tracker failed, and what it said; the others have all there is.
    """
    folder = RunFolder.open(Path(run)) if Path(run).is_dir() else RunStore(runs).select(run)
    failures: list[str] = []
    trackers = _opened(folder, names, out, failures.append, project=project)
    count = track_run(folder, trackers, warn=failures.append, follow=follow)
    if failures:
        raise RunError("; ".join(failures))
    note(f"{folder.path}: {count} events handed to {', '.join(names)}")


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
