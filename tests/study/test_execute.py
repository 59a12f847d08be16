"""Workers that die, fail, hang or are stopped, and a study that goes on regardless.

On every engine: local workers, and (slow) tasks of a Ray cluster.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from windtunnel.runs import RunStore
from windtunnel.study.engines import Engine
from windtunnel.study.execute import Job, Outcome, Progress, StudyInterrupted, execute

FAKE = Path(__file__).with_name("fake_worker.py")
STEPS = 20


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    (tmp_path / "log").mkdir()
    return RunStore(tmp_path / "runs")


def make_job(store: RunStore, name: str, memory_bytes: int = 0) -> Job:
    run = store.create(key=f"key-{name}", name=name, config={})
    return Job(run=run, name=name, steps=STEPS, memory_bytes=memory_bytes)


def command(troubles: dict[str, str]) -> Callable[[Job], list[str]]:
    return lambda job: [
        sys.executable,
        str(FAKE),
        str(job.run.path),
        str(job.steps),
        troubles.get(job.name, "never"),
    ]


Run = Callable[..., dict[str, Outcome]]


@pytest.fixture
def run_all(engine: Engine) -> Run:
    """``run_jobs`` on the test's engine."""

    def run(*arguments: object, **options: object) -> dict[str, Outcome]:
        return run_jobs(*arguments, engine=engine, **options)  # type: ignore[arg-type]

    return run


def run_jobs(
    jobs: list[Job],
    tmp_path: Path,
    troubles: dict[str, str] | None = None,
    *,
    engine: Engine,
    workers: int = 2,
    memory_bytes: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
    grace_seconds: float = 10.0,
) -> dict[str, Outcome]:
    return execute(
        jobs,
        command=command(troubles or {}),
        workers=workers,
        log=tmp_path / "log",
        engine=engine,
        memory_bytes=memory_bytes,
        on_progress=on_progress,
        on_notice=on_notice,
        poll_seconds=0.02,
        grace_seconds=grace_seconds,
    )


def test_every_run_ends_with_its_record_and_its_threads(
    run_all: Run, store: RunStore, tmp_path: Path
) -> None:
    jobs = [make_job(store, name) for name in "abc"]
    seen: list[Progress] = []
    outcomes = run_all(jobs, tmp_path, {"c": "diverge"}, on_progress=seen.append)
    assert [outcomes[job.run.key].status for job in jobs] == ["finished", "finished", "diverged"]
    assert all(job.run.read_events()[0].values["threads"] == "1" for job in jobs)
    assert max(len(progress.running) for progress in seen) == 2
    last = seen[-1]
    assert (last.runs_done, last.steps_done, last.fraction) == (3, 3 * STEPS, 1.0)
    assert last.seconds_left == 0.0


def test_the_time_left_is_that_of_runs_that_have_ended(
    run_all: Run, store: RunStore, tmp_path: Path
) -> None:
    """Predicted were 0.2 s a run, most of it the worker's start; in truth it takes far longer."""
    jobs = [
        replace(make_job(store, name), work_per_step=0.005, start_seconds=0.1) for name in "abc"
    ]
    seen: list[Progress] = []
    slow = dict.fromkeys("abc", "slow")
    run_all(jobs, tmp_path, slow, workers=1, on_progress=seen.append)
    first = next(progress for progress in seen if progress.runs_done == 1)
    assert first.seconds > 20 * 0.05
    assert first.seconds_left == pytest.approx(2 * first.seconds, rel=0.2)
    shares = [progress.fraction for progress in seen]
    assert shares == sorted(shares)


def test_the_start_of_a_worker_is_work_too(store: RunStore) -> None:
    job = replace(make_job(store, "a"), work_per_step=0.5, start_seconds=4.0, first_step=10)
    assert job.work == 4.0 + 10 * 0.5
    assert [job.work_done(0, seconds) for seconds in (0.0, 3.0, 30.0)] == [0.0, 3.0, 4.0]
    assert job.work_done(10, 5.0) == 4.0  # where it branches from another run: no step of its own
    assert job.work_done(15, 6.0) == 4.0 + 5 * 0.5
    assert job.work_done(STEPS, 9.0) == job.work


def test_a_killed_worker_is_taken_over_from_its_checkpoint(
    run_all: Run, store: RunStore, tmp_path: Path
) -> None:
    jobs = [make_job(store, "a"), make_job(store, "b")]
    notices: list[str] = []
    outcomes = run_all(jobs, tmp_path, {"a": "kill-once"}, on_notice=notices.append)
    assert outcomes["key-a"] == Outcome("finished", "", 2)
    assert outcomes["key-b"] == Outcome("finished", "", 1)
    resumes = [e.step for e in jobs[0].run.read_events() if e.kind == "resume"]
    assert resumes == [STEPS // 2]
    assert len([e for e in jobs[0].run.read_events() if e.kind == "step"]) == STEPS
    assert notices == [
        f"a: its worker was killed by SIGKILL; taken over at step {STEPS // 2} (attempt 2 of 3)"
    ]


def test_kill_9_from_outside_is_survived(run_all: Run, store: RunStore, tmp_path: Path) -> None:
    jobs = [make_job(store, "a")]
    killed: list[int] = []

    def kill_once(progress: Progress) -> None:
        if not killed and progress.running and progress.running[0].step > 2:
            killed.append(int((jobs[0].run.path / "run.lock").read_text()))
            os.kill(killed[0], signal.SIGKILL)

    outcomes = run_all(jobs, tmp_path, {"a": "slow"}, on_progress=kill_once)
    assert killed
    assert outcomes["key-a"] == Outcome("finished", "", 2)


@pytest.mark.parametrize(
    ("trouble", "attempts", "reason"),
    [
        ("kill", 3, "its worker was killed by SIGKILL"),
        ("fail", 3, "its worker gave up with exit code 1: cannot train a"),
        ("usage", 1, "its worker gave up with exit code 2: cannot train a"),
        ("silent", 3, "it ended without a record"),
    ],
)
def test_a_run_that_cannot_be_trained_fails_and_the_others_go_on(
    run_all: Run, store: RunStore, tmp_path: Path, trouble: str, attempts: int, reason: str
) -> None:
    jobs = [make_job(store, "a"), make_job(store, "b")]
    outcomes = run_all(jobs, tmp_path, {"a": trouble})
    assert outcomes["key-a"] == Outcome("failed", reason, attempts)
    assert outcomes["key-b"].status == "finished"


def test_the_first_line_of_a_reason_names_the_error(
    run_all: Run, store: RunStore, tmp_path: Path
) -> None:
    reason = run_all([make_job(store, "a")], tmp_path, {"a": "raise"})["key-a"].reason
    first, *more = reason.splitlines()
    assert first == "its worker gave up with exit code 1: RuntimeError: its own fault"
    assert more[0].startswith("Traceback")
    assert more[-1] == "RuntimeError: its own fault"


def test_a_run_whose_folder_is_deleted_fails_at_once(
    run_all: Run, store: RunStore, tmp_path: Path
) -> None:
    jobs = [make_job(store, "a"), make_job(store, "b")]

    def delete(progress: Progress) -> None:
        if any(one.name == "a" and one.step > 2 for one in progress.running):
            shutil.rmtree(jobs[0].run.path, ignore_errors=True)

    outcomes = run_all(jobs, tmp_path, {"a": "slow"}, on_progress=delete)
    assert outcomes["key-a"] == Outcome("failed", f"{jobs[0].run.path} is not there any more", 1)
    assert outcomes["key-b"].status == "finished"


def test_a_run_that_another_process_ends_after_our_worker_died(
    run_all: Run, store: RunStore, tmp_path: Path
) -> None:
    job = make_job(store, "a")

    def take(notice: str) -> None:
        if "taken over" in notice:
            other = subprocess.Popen(command({"a": "slow"})(job))
            while job.run.status != "running":
                time.sleep(0.01)
            threading.Thread(target=other.wait).start()

    outcomes = run_all([job], tmp_path, {"a": "kill-once"}, on_notice=take)
    assert outcomes["key-a"] == Outcome("finished", "", 1)


def test_a_command_that_does_not_exist_fails_every_run(
    engine: Engine, store: RunStore, tmp_path: Path
) -> None:
    outcomes = execute(
        [make_job(store, "a")],
        command=lambda job: [str(tmp_path / "nothing")],
        workers=1,
        log=tmp_path / "log",
        engine=engine,
        poll_seconds=0.01,
    )
    assert outcomes["key-a"].status == "failed"
    assert "No such file" in outcomes["key-a"].reason


def test_finished_runs_are_not_trained_again(run_all: Run, store: RunStore, tmp_path: Path) -> None:
    jobs = [make_job(store, "a"), make_job(store, "b")]
    run_all(jobs[:1], tmp_path)
    before = (jobs[0].run.path / "events.jsonl").read_bytes()
    outcomes = run_all(jobs, tmp_path)
    assert outcomes["key-a"] == Outcome("finished", "", 0)
    assert outcomes["key-b"].attempts == 1
    assert (jobs[0].run.path / "events.jsonl").read_bytes() == before


def test_memory_limits_how_many_run_at_once(run_all: Run, store: RunStore, tmp_path: Path) -> None:
    jobs = [make_job(store, name, memory_bytes=600) for name in "abc"]
    seen: list[Progress] = []
    run_all(jobs, tmp_path, workers=3, memory_bytes=1000, on_progress=seen.append)
    assert max(len(progress.running) for progress in seen) == 1
    assert seen[-1].runs_done == 3


def test_a_signal_stops_every_worker_gently_and_the_study_goes_on_later(
    run_all: Run, store: RunStore, tmp_path: Path
) -> None:
    jobs = [make_job(store, "a"), make_job(store, "b")]

    def stop(progress: Progress) -> None:
        if progress.steps_done > 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StudyInterrupted) as caught:
        run_all(jobs, tmp_path, {"a": "slow", "b": "slow"}, on_progress=stop)
    assert caught.value.exit_code == 75
    assert [job.run.status for job in jobs] == ["interrupted", "interrupted"]
    reached = [job.run.summary().step for job in jobs]
    outcomes = run_all(jobs, tmp_path)
    assert {outcome.status for outcome in outcomes.values()} == {"finished"}
    resumed = [[e.step for e in job.run.read_events() if e.kind == "resume"] for job in jobs]
    assert resumed == [[step] if step else [] for step in reached]


def test_a_worker_that_does_not_listen_is_killed(
    run_all: Run, store: RunStore, tmp_path: Path
) -> None:
    job = make_job(store, "a")

    def stop(progress: Progress) -> None:
        if progress.steps_done > 2:
            os.kill(os.getpid(), signal.SIGTERM)

    began = time.monotonic()
    with pytest.raises(StudyInterrupted):
        run_all([job], tmp_path, {"a": "deaf"}, on_progress=stop, grace_seconds=0.2)
    assert time.monotonic() - began < 5
    assert job.run.status == "interrupted"


def test_an_error_in_the_caller_leaves_no_worker_behind(
    run_all: Run, store: RunStore, tmp_path: Path
) -> None:
    job = make_job(store, "a")

    def fail(progress: Progress) -> None:
        if progress.steps_done > 1:
            raise ValueError("the caller's own")

    with pytest.raises(ValueError, match="the caller's own"):
        run_all([job], tmp_path, {"a": "slow"}, on_progress=fail)
    assert job.run.status == "interrupted"


def test_a_run_of_another_process_is_waited_for(
    run_all: Run, store: RunStore, tmp_path: Path
) -> None:
    job = make_job(store, "a")
    other = subprocess.Popen(command({"a": "slow"})(job))
    while job.run.status != "running":
        time.sleep(0.01)
    notices: list[str] = []
    threading.Thread(target=other.wait).start()  # so that it does not stay as a zombie
    outcomes = run_all([job], tmp_path, on_notice=notices.append)
    assert outcomes["key-a"] == Outcome("finished", "", 0)
    assert notices == ["a: another process is training it; waiting for that"]


def test_workers_of_a_killed_study_take_places(
    run_all: Run, store: RunStore, tmp_path: Path
) -> None:
    jobs = [make_job(store, name) for name in "abc"]
    others = [subprocess.Popen(command(dict.fromkeys("bc", "slow"))(job)) for job in jobs[1:]]
    while any(job.run.status != "running" for job in jobs[1:]):
        time.sleep(0.01)
    for other in others:
        threading.Thread(target=other.wait).start()
    seen: list[Progress] = []
    outcomes = run_all(jobs, tmp_path, workers=2, on_progress=seen.append)
    assert max(len(progress.running) for progress in seen) == 2
    assert {outcome.status for outcome in outcomes.values()} == {"finished"}


def test_a_worker_that_gives_up_on_its_checkpoints_names_the_way_out(
    run_all: Run, store: RunStore, tmp_path: Path
) -> None:
    job = make_job(store, "a")
    (job.run.checkpoints / "step").write_text("4")
    reason = run_all([job], tmp_path, {"a": "fail"})["key-a"].reason
    assert f"delete or move {job.run.path} to train it again" in reason.splitlines()[0]


def test_a_damaged_record_fails_its_run_alone(
    run_all: Run, store: RunStore, tmp_path: Path
) -> None:
    jobs = [make_job(store, "a"), make_job(store, "b")]
    (jobs[0].run.path / "record.json").write_text("{")
    outcomes = run_all(jobs, tmp_path)
    assert outcomes["key-a"].status == "failed"
    assert "damaged" in outcomes["key-a"].reason
    assert f"delete or move {jobs[0].run.path} to" in outcomes["key-a"].reason
    assert outcomes["key-b"].status == "finished"


def test_the_last_attempt_runs_alone(run_all: Run, store: RunStore, tmp_path: Path) -> None:
    jobs = [make_job(store, name) for name in "abcd"]
    alone: list[bool] = []

    def watch(progress: Progress) -> None:
        third = (tmp_path / "log" / f"{jobs[0].run.path.name}.3.err").exists()
        if third and any(running.name == "a" for running in progress.running):
            alone.append(len(progress.running) == 1)

    troubles = {"a": "fail", "b": "slow", "c": "slow", "d": "slow"}
    outcomes = run_all(jobs, tmp_path, troubles, on_progress=watch)
    assert outcomes["key-a"].attempts == 3
    assert alone
    assert all(alone)
    assert sum(outcome.status == "finished" for outcome in outcomes.values()) == 3


def test_memory_that_ran_out_corrects_what_is_expected(
    run_all: Run, store: RunStore, tmp_path: Path
) -> None:
    """It is an outcome of that run alone; the next attempt waits for more room."""
    jobs = [make_job(store, name, memory_bytes=100) for name in "abc"]
    notices: list[str] = []
    outcomes = run_all(
        jobs, tmp_path, {"a": "memory-once", "b": "memory"}, workers=1, memory_bytes=250,
        on_notice=notices.append,
    )  # fmt: skip
    found = {job.name: outcomes[job.run.key] for job in jobs}
    assert [found[name].status for name in "abc"] == ["finished", "failed", "finished"]
    assert (found["a"].memory_bytes, found["c"].memory_bytes) == (150, 100)
    assert found["b"].attempts == 3
    assert found["b"].memory_bytes > 300
    assert "out of memory" in found["b"].reason
    assert any("expected to take 150 bytes, not 100" in notice for notice in notices)
