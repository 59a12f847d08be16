"""How long a study still takes: by what its runs took, where any has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from windtunnel.errors import RunError
from windtunnel.study.jobs import Job
from windtunnel.study.workers import makespan

MOST_RECALLED = 32
"""Runs that had ended before and whose events are read: a large study has thousands."""


class Took:
    """What runs took, for the work that was expected of them. One of these goes through all rounds
    of a study, so that a later one begins with what the earlier ones have shown.

    What ended here counts alone, once there is any: what stood there before the study was begun (or
    resumed) may have had the machine to itself, or less of it.
    """

    def __init__(self) -> None:
        self._here: dict[bool, tuple[float, float]] = {}
        self._before: dict[bool, tuple[float, float]] = {}
        self._recalled = 0

    def add(self, job: Job, seconds: float, work: float) -> None:
        """One worker here has brought a run over so much of its work."""
        _add(self._here, job, seconds, work)

    def recall(self, job: Job) -> None:
        """A run that had ended before: as its own events tell, and with the start of its worker.
        One that was resumed, or whose events cannot be read, tells nothing."""
        if self._recalled == MOST_RECALLED:
            return
        self._recalled += 1
        seconds = span_seconds(job)
        if seconds is not None:
            _add(self._before, job, seconds + job.start_seconds, job.work)

    def rate(self, job: Job) -> float | None:
        """Seconds for a unit of the job's work; None where no run of that unit has ended."""
        found = self._here.get(job.in_seconds) or self._before.get(job.in_seconds)
        return found[0] / found[1] if found else None


def _add(into: dict[bool, tuple[float, float]], job: Job, seconds: float, work: float) -> None:
    if work > 0:
        before = into.get(job.in_seconds, (0.0, 0.0))
        into[job.in_seconds] = (before[0] + seconds, before[1] + work)


def span_seconds(job: Job) -> float | None:
    """From the first event of a job's run to that of its last step; None where it did not go there
    at once."""
    try:
        events = job.run.read_events()
    except RunError:
        return None
    within = [e for e in events if e.step is None or e.step <= job.steps]
    if not within or within[0].kind != "start" or any(e.kind == "resume" for e in within):
        return None
    return within[-1].time - within[0].time


def seconds_left(
    took: Took,
    left: Mapping[str, float],
    active: Sequence[Job],
    waiting: Sequence[Job],
    workers: int,
) -> float | None:
    """Until the last of the jobs ends, with so many workers; None where a rate is not known.

    Args:
        left: the work that is left, by the run's key.
        waiting: in the order in which they are to start.
    """
    rates = {job.in_seconds: took.rate(job) for job in (*active, *waiting)}
    if None in rates.values():
        return None
    busy, later = (
        [left[job.run.key] * (rates[job.in_seconds] or 0.0) for job in jobs]
        for jobs in (active, waiting)
    )
    return makespan(later, max(workers, len(busy)), busy)
