"""Runs on worker processes: started, watched, taken over when they die, stopped gently.

The executor knows run folders only. What a worker does is the caller's command, where it runs the
engine's; that it has ended well, and how far it is, is read from its run's folder.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from windtunnel.errors import RunError, StudyError
from windtunnel.runs import RunSummary
from windtunnel.study.engines import Ended, Engine, Handle, LocalEngine, Task
from windtunnel.study.jobs import Job, Outcome, Progress, Running, Status
from windtunnel.study.standing import standing_of
from windtunnel.study.time_left import Took, seconds_left
from windtunnel.study.workers import Clock
from windtunnel.train.interrupts import StopRequest, exit_code_of

__all__ = ["Job", "Outcome", "Progress", "Running", "Status", "StudyInterrupted", "execute"]

ATTEMPTS = 3
GRACE_SECONDS = 60.0
"""From asking a worker to stop (it finishes its step and saves) to killing it."""
POLL_SECONDS = 0.2
USAGE_EXIT = 2
OUT_OF_MEMORY = "out of memory"
"""What a worker says on standard error when memory has run out."""
SIGNS_OF_ANOTHER = ("is writing here", "writes this run (", "has just claimed this run")
"""What it says where another process took the run a moment earlier: ``RunLock`` and ``Claim``."""
_SIGNS_OF_MEMORY = ("bad_alloc", "cannot allocate memory", "memoryerror")
_MEMORY_GROWTH = 1.5
"""A run that did not fit is expected to take so many times what was predicted."""


class StudyInterrupted(StudyError):
    """Stopped by a signal; every worker has saved. The same command goes on from there."""

    def __init__(self, signum: int) -> None:
        super().__init__("stopped; the same command goes on from here")
        self.exit_code = exit_code_of(signum)


def execute(
    jobs: Sequence[Job],
    *,
    command: Callable[[Job], Sequence[str]],
    workers: int,
    log: Path,
    engine: Engine | None = None,
    memory_bytes: int | None = None,
    attempts: int = ATTEMPTS,
    on_progress: Callable[[Progress], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
    before_start: Callable[[], None] = lambda: None,
    took: Took | None = None,
    poll_seconds: float = POLL_SECONDS,
    grace_seconds: float = GRACE_SECONDS,
) -> dict[str, Outcome]:
    """Brings every job to its end; the outcome of each by its run's key.

    Args:
        jobs: in the order in which they are to start; one for each key.
        command: the worker of a job. It must go on from the run's newest checkpoint, write the
            record at the end, and save and leave on SIGTERM.
        workers: processes side by side, at most.
        log: a folder for what the workers print.
        engine: where they run; this machine when left out.
        memory_bytes: what all workers may take together; a job waits while the predicted peaks of
            those running leave no room for it. One may always run. Runs that other processes
            train already (workers of a study that was killed) take room and places too.
        attempts: workers for one run before it counts as failed. The last attempt runs alone.
        on_progress: told at each look.
        on_notice: told, in words, of deaths and takeovers.
        before_start: asked before each worker, and where one has died. What it raises ends the
            study as a signal does.
        took: what runs of the study took before; those that end here are added. For the time left.

    Raises:
        StudyInterrupted: on SIGINT, SIGTERM or SIGUSR1, after all workers have stopped.
    """
    engine = engine or LocalEngine()
    executor = _Executor(
        jobs, command, workers, log, engine, memory_bytes, attempts, on_notice, before_start,
        took or Took(),
    )  # fmt: skip
    with StopRequest() as stop, executor.stopping(grace_seconds):
        while executor.advance():
            if stop.signum is not None:
                raise StudyInterrupted(stop.signum)
            if on_progress is not None:
                on_progress(executor.progress())
            time.sleep(poll_seconds)
        if on_progress is not None:
            on_progress(executor.progress())
    return executor.outcomes


@dataclass
class _Worker:
    job: Job
    handle: Handle


class _Executor:
    def __init__(
        self,
        jobs: Sequence[Job],
        command: Callable[[Job], Sequence[str]],
        workers: int,
        log: Path,
        engine: Engine,
        memory_bytes: int | None,
        attempts: int,
        on_notice: Callable[[str], None] | None,
        before_start: Callable[[], None],
        took: Took,
    ) -> None:
        assert len({job.run.key for job in jobs}) == len(jobs), "a key is trained once"
        self.jobs = tuple(jobs)
        self.outcomes: dict[str, Outcome] = {}
        self._command, self._workers, self._log, self._engine = command, workers, log, engine
        self._memory, self._attempts, self._on_notice = memory_bytes, attempts, on_notice
        self._before_start, self._took = before_start, took
        self._waiting: list[Job] = []
        self._elsewhere: list[Job] = []
        self._running: list[_Worker] = []
        self._tries: dict[str, int] = {}
        self._seen = {job.run.key: _look(job) for job in jobs}
        self._clock = Clock()
        self._began: dict[str, tuple[float, int]] = {}
        """When the last worker of a run was started, and at which step it went on."""
        for job in jobs:  # what other processes train is known before a place is given away
            if self._has_ended(job):  # so that the time left counts no run that is over
                continue
            if self._is_elsewhere(job):
                self._leave_elsewhere(job)
            else:
                self._waiting.append(job)

    def advance(self) -> bool:
        """One look: ended workers are told apart, free places filled. False when all is done."""
        for worker in list(self._running):
            ended = worker.handle.poll()
            if ended is not None:
                self._running.remove(worker)
                self._settle(worker.job, ended)
        for job in [j for j in self._elsewhere if not self._is_elsewhere(j)]:
            self._elsewhere.remove(job)
            self._waiting.insert(0, job)
        while (ready := self._next()) is not None:
            self._waiting.remove(ready)
            self._begin(ready)
        return bool(self._waiting or self._running or self._elsewhere)

    def progress(self) -> Progress:
        active = self._active()
        for job in active:
            self._seen[job.run.key] = _look(job)
        steps = {job.run.key: self._steps_of(job) for job in self.jobs}
        work = sum(job.work for job in self.jobs)
        done = sum(self._work_done(job, steps[job.run.key]) for job in self.jobs)
        return Progress(
            runs=len(self.jobs),
            runs_done=len(self.outcomes),
            failed=sum(outcome.status == "failed" for outcome in self.outcomes.values()),
            steps=sum(job.steps for job in self.jobs),
            steps_done=sum(steps.values()),
            fraction=done / work if work else 1.0,
            running=tuple(
                Running(job.name, steps[job.run.key], job.steps, self._loss_of(job))
                for job in active
            ),
            seconds=self._clock.seconds,
            seconds_left=self._seconds_left(done, work - done),
        )

    def _work_done(self, job: Job, step: int) -> float:
        if job.run.key in self.outcomes:
            return job.work
        if job.run.key in self._began:
            began, begun_at = self._began[job.run.key]
            return job.work_done(step, time.monotonic() - began, begun_at)
        # Its worker is still to be started; one that runs elsewhere has been.
        return job.work_done(step, 0.0, None if job in self._elsewhere else step)

    def _seconds_left(self, done: float, left: float) -> float | None:
        """As runs took that have ended; where none has, by the work done so far."""
        by_speed = self._clock.seconds_left(done, left)
        if left <= 0:
            return by_speed
        active = self._active()
        each = {
            job.run.key: job.work - self._work_done(job, self._steps_of(job))
            for job in (*active, *self._waiting)
        }
        by_runs = seconds_left(self._took, each, active, self._waiting, self._workers)
        return by_speed if by_runs is None else by_runs

    @contextmanager
    def stopping(self, grace_seconds: float) -> Iterator[None]:
        """Leaves no worker behind: each is asked to stop, and killed when it does not."""
        try:
            yield
        finally:
            try:
                for worker in self._running:
                    worker.handle.stop(signal.SIGTERM)
                self._wait(grace_seconds)
            finally:  # a second Ctrl-C ends the waiting
                for worker in self._running:
                    worker.handle.kill()

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if all(worker.handle.poll() is not None for worker in self._running):
                return
            time.sleep(0.02)

    def _active(self) -> list[Job]:
        return [*(worker.job for worker in self._running), *self._elsewhere]

    def _next(self) -> Job | None:
        """The first waiting job that may start now."""
        active = self._active()
        if len(active) >= self._workers or any(self._last(worker.job) for worker in self._running):
            return None
        used = sum(job.memory_bytes for job in active)
        for job in self._waiting:
            if not active:
                return job
            fits = self._memory is None or used + job.memory_bytes <= self._memory
            if fits and not self._last(job):
                return job
        return None

    def _last(self, job: Job) -> bool:
        """Whether only one attempt is left: it runs alone, in case memory was what failed."""
        return self._attempts > 1 and self._tries.get(job.run.key, 0) >= self._attempts - 1

    def _begin(self, job: Job) -> None:
        if self._has_ended(job):
            return
        if self._is_elsewhere(job):
            self._leave_elsewhere(job)
            return
        self._before_start()
        attempt = self._tries[job.run.key] = self._tries.get(job.run.key, 0) + 1
        task = Task(
            command=tuple(self._command(job)), run=job.run.path, key=job.run.key, log=self._log,
            stem=f"{job.run.path.name}.{attempt}", threads=job.threads, processes=job.processes,
            gpus=job.gpus, memory_bytes=job.memory_bytes,
        )  # fmt: skip
        self._began[job.run.key] = (time.monotonic(), self._steps_of(job))
        self._running.append(_Worker(job, self._engine.start(task)))

    def _leave_elsewhere(self, job: Job) -> None:
        self._notice(f"{job.name}: another process is training it; waiting for that")
        self._elsewhere.append(job)

    def _is_elsewhere(self, job: Job) -> bool:
        """Whether a process that is not ours trains the run."""
        seen = _look(job)
        return seen is not None and seen.status == "running"

    def _has_ended(self, job: Job) -> bool:
        """Whether nothing of it is left to be trained here; notes the outcome."""
        try:
            found = standing_of(job.run, job.until)
        except RunError as error:
            self._ended(job, "failed", f"{error}; {_way_out(job)}")
            return True
        if found is None:
            return False
        self._ended(job, found.status, str(found.values.get("reason") or ""))
        return True

    def _settle(self, job: Job, ended: Ended) -> None:
        if self._has_ended(job):
            return
        if any(sign in ended.words for sign in SIGNS_OF_ANOTHER):  # this was no attempt
            self._tries[job.run.key] -= 1
            del self._began[job.run.key]
            self._waiting.insert(0, job)
            return
        if not job.run.path.is_dir():
            self._died(job, f"{job.run.path} is not there any more", again=False)
            return
        self._before_start()  # it may have died of that, and would again
        how = "it ended without a record" if ended.code == 0 else ended.how
        if ended.code == 1 and _has_checkpoints(job):
            how += f" (should its checkpoints be damaged: {_way_out(job)})"
        full = says_out_of_memory(ended.words)
        if full and job.limit_bytes is None:
            job = self._expecting_more(job)
        # A usage error is there again at every attempt, and so is too tight a limit.
        again = ended.code != USAGE_EXIT and not (full and job.limit_bytes is not None)
        self._died(job, told_of_end(how, ended.words), again=again)

    def _expecting_more(self, job: Job) -> Job:
        """The job with a larger prediction of its memory, so that it waits for more room."""
        more = replace(job, memory_bytes=round(job.memory_bytes * _MEMORY_GROWTH))
        self._notice(
            f"{job.name}: out of memory; it is now expected to take {more.memory_bytes:,} bytes, "
            f"not {job.memory_bytes:,}"
        )
        return more

    def _died(self, job: Job, reason: str, *, again: bool) -> None:
        attempt = self._tries[job.run.key]
        if again and attempt < self._attempts:
            self._seen[job.run.key] = _look(job)
            step = self._steps_of(job)
            first = reason.splitlines()[0]
            del self._began[job.run.key]
            self._notice(
                f"{job.name}: {first}; taken over at step {step} "
                f"(attempt {attempt + 1} of {self._attempts})"
            )
            self._waiting.insert(0, job)
            return
        self._ended(job, "failed", reason)

    def _ended(self, job: Job, status: Status, why: str) -> None:
        tries = self._tries.get(job.run.key, 0)
        if status in ("finished", "paused"):
            self._note_time(job, tries)
        self.outcomes[job.run.key] = Outcome(status, why, tries, job.memory_bytes)
        if status not in ("finished", "paused"):
            first = why.splitlines()[0] if why else ""
            self._notice(f"{job.name}: {status}" + (f": {first}" if first else ""))

    def _note_time(self, job: Job, tries: int) -> None:
        """What the run took, for the time that the others will. Of work in FLOPs, the start of a
        worker is no part: there only whole runs tell how long the others take."""
        if tries == 0:
            self._took.recall(job)
        elif tries == 1 and job.run.key in self._began:  # else its end came from elsewhere
            began, begun_at = self._began[job.run.key]
            if job.in_seconds or begun_at <= job.first_step:
                work = job.work - job.work_done(begun_at, 0.0, begun_at)
                self._took.add(job, time.monotonic() - began, work)

    def _notice(self, text: str) -> None:
        if self._on_notice is not None:
            self._on_notice(text)

    def _steps_of(self, job: Job) -> int:
        if job.run.key in self.outcomes:
            return job.steps
        seen = self._seen[job.run.key]
        return min(job.steps, seen.step) if seen is not None else 0

    def _loss_of(self, job: Job) -> float | None:
        seen = self._seen[job.run.key]
        return seen.loss if seen is not None else None


def told_of_end(how: str, words: str) -> str:
    """How a worker ended, with its very last line, which names the error; below it what it said.

    >>> told_of_end("exit code 1", "File x, line 3\\nRuntimeError: no")
    'exit code 1: RuntimeError: no\\nFile x, line 3\\nRuntimeError: no'
    """
    lines = words.strip().splitlines()
    if not lines:
        return how
    return "\n".join([f"{how}: {lines[-1].strip()}", *(lines if len(lines) > 1 else [])])


def says_out_of_memory(words: str) -> bool:
    """Whether a worker's last words are about memory: its own, or those of the libraries below it,
    which may end the process before Python hears of it."""
    text = words.lower()
    return any(sign in text for sign in (OUT_OF_MEMORY, *_SIGNS_OF_MEMORY))


def _way_out(job: Job) -> str:
    return f"delete or move {job.run.path} to train it again"


def _has_checkpoints(job: Job) -> bool:
    return job.run.checkpoints.is_dir() and any(job.run.checkpoints.iterdir())


def _look(job: Job) -> RunSummary | None:
    """How far the run is; None where its events cannot be read (its worker will say so)."""
    try:
        return job.run.summary()
    except RunError:
        return None
