"""Trackers from the command line: beside a run, or afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from windtunnel.cli.options import note
from windtunnel.config import suggestion
from windtunnel.errors import UsageError
from windtunnel.interop.trackers import TRACKERS, Following, open_tracker, track_run
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
    step = folder.summary().step
    trackers: dict[str, Tracker] = {}
    for name in dict.fromkeys(names):
        try:
            trackers[name] = open_tracker(name, folder, step=step)
        except UsageError:
            raise
        # As later on: whatever a tracker raises must not keep a run from beginning.
        except Exception as error:
            warn(f"the tracker {name} cannot be opened and is left alone: {error}")
    following = Following(trackers, warn)
    try:
        yield following.event
    finally:
        status = folder.status
        following.close("interrupted" if status == "running" else status)


def track_verb(
    runs: Path, run: str, names: Sequence[str], *, out: Path | None, project: str, follow: bool
) -> None:
    """Hands a run's events to trackers."""
    folder = RunFolder.open(Path(run)) if Path(run).is_dir() else RunStore(runs).select(run)
    trackers = _opened(folder, names, out, project=project)
    count = track_run(folder, trackers, warn=note, follow=follow)
    note(f"{folder.path}: {count} events handed to {', '.join(names)}")


def _opened(
    folder: RunFolder,
    names: Sequence[str],
    out: Path | None,
    *,
    project: str = "windtunnel",
) -> dict[str, Tracker]:
    return {
        name: open_tracker(name, folder, folder=out and out / name, project=project)
        for name in dict.fromkeys(names)
    }
