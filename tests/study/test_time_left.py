"""How long a study still takes, and that this is what its display shows."""

import io
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from windtunnel.cli.conducting import follower
from windtunnel.cli.searching import _speed
from windtunnel.report import progress as progress_module
from windtunnel.report.progress import LineDisplay
from windtunnel.report.units import duration_text
from windtunnel.runs import EventLog, RunStore
from windtunnel.study import starts
from windtunnel.study.arms import Ground
from windtunnel.study.conduct import conduct
from windtunnel.study.execute import Job, Progress, execute
from windtunnel.study.folder import StudyFolder
from windtunnel.study.planning import plan_compare
from windtunnel.study.time_left import Took, span_seconds
from windtunnel.train.run_config import LoadedRun

FAKE = Path(__file__).with_name("fake_worker.py")
STEPS = 20
Load = Callable[..., LoadedRun]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    (tmp_path / "log").mkdir()
    return RunStore(tmp_path / "runs")


def make_job(store: RunStore, name: str, **more: float) -> Job:
    run = store.create(key=f"key-{name}", name=name, config={})
    return replace(Job(run=run, name=name, steps=STEPS, work_per_step=1.0), **more)  # type: ignore[arg-type]


def wrote(job: Job, step_seconds: float, steps: int = STEPS, *, resumed: bool = False) -> Job:
    """The job, whose run has come so far; its clock begins at 1000."""
    ticks = iter(1000 + step_seconds * tick for tick in range(steps + 3))
    with EventLog(job.run.path / "events.jsonl", clock=lambda: next(ticks)) as log:
        log.append("start", step=0)
        for step in range(1, steps + 1):
            log.append("step", step=step, loss=3.0)
        if resumed:
            log.append("resume", step=steps)
    return job


def finished(job: Job) -> Job:
    record = {"key": job.run.key, "name": job.name, "status": "finished", "steps": STEPS}
    job.run.write_record({**record, "final": {"loss": 3.0}})
    return job


def run(
    jobs: list[Job],
    tmp_path: Path,
    trouble: str = "slow",
    *,
    workers: int = 1,
    took: Took | None = None,
    until: Callable[[Progress], bool] = lambda progress: False,
) -> list[Progress]:
    """What was told of the jobs; the first of which ``until`` holds is the last."""  # fmt: skip
    seen: list[Progress] = []

    class Enough(Exception):
        pass

    def look(progress: Progress) -> None:
        seen.append(progress)
        if until(progress):
            raise Enough

    with suppress(Enough):
        execute(
            jobs,
            command=lambda job: [
                sys.executable, str(FAKE), str(job.run.path), str(job.steps), trouble,
            ],
            workers=workers, log=tmp_path / "log", took=took, on_progress=look,
            poll_seconds=0.02,
        )  # fmt: skip
    return seen


def test_the_start_of_a_worker_that_goes_on_is_work_again() -> None:
    job = Job(
        run=None, name="a", steps=STEPS, work_per_step=0.5, start_seconds=4.0,  # type: ignore[arg-type]
    )  # fmt: skip
    assert job.work_done(10, 0.0, 10) == 5.0  # its worker is still to be started
    assert job.work - job.work_done(10, 0.0, 10) == 4.0 + 10 * 0.5
    assert job.work_done(10, 3.0, 10) == 5.0 + 3.0
    assert job.work_done(11, 3.0, 10) == 5.5 + 4.0
    assert job.work_done(STEPS, 9.0, 10) == job.work


def test_runs_that_had_ended_tell_how_long_the_others_take(store: RunStore, tmp_path: Path) -> None:
    """A study that is resumed knows it at once: 2 s a step were predicted, 3 s it took."""
    kind = {"work_per_step": 2.0, "start_seconds": 10.0}
    ended = finished(wrote(make_job(store, "a", **kind), 3.0))
    half = wrote(make_job(store, "b", **kind), 3.0, STEPS // 2)
    seen = run([ended, half, make_job(store, "c", **kind)], tmp_path, until=lambda progress: True)
    rate = (STEPS * 3.0 + 10.0) / (STEPS * 2.0 + 10.0)
    left = [STEPS / 2 * 2.0 + 10.0, STEPS * 2.0 + 10.0]
    assert seen[0].runs_done == 1
    assert seen[0].seconds_left == pytest.approx(rate * sum(left), rel=0.02)


def test_two_workers_share_what_is_left(store: RunStore, tmp_path: Path) -> None:
    kind = {"work_per_step": 2.0, "start_seconds": 10.0}
    ended = finished(wrote(make_job(store, "a", **kind), 2.0))
    jobs = [ended, *(make_job(store, name, **kind) for name in "bcd")]
    seen = run(jobs, tmp_path, workers=2, until=lambda progress: True)
    assert seen[0].seconds_left == pytest.approx(2 * 50.0, rel=0.02)  # two of the three in a row


def test_what_ends_here_counts_more_than_what_stood_there(store: RunStore, tmp_path: Path) -> None:
    kind = {"work_per_step": 2.0, "start_seconds": 10.0}
    jobs = [finished(wrote(make_job(store, "a", **kind), 90.0))]
    jobs += [make_job(store, name, **kind) for name in "bc"]
    seen = run(jobs, tmp_path, until=lambda progress: progress.runs_done == 2)
    assert (seen[0].seconds_left or 0.0) > 1000
    assert seen[-1].seconds_left == pytest.approx(seen[-1].seconds, rel=0.2)


def test_a_later_round_begins_with_what_the_earlier_ones_took(
    store: RunStore, tmp_path: Path
) -> None:
    took = Took()
    run([make_job(store, "a")], tmp_path, took=took)
    seen = run([make_job(store, "b")], tmp_path, took=took, until=lambda progress: True)
    assert seen[0].seconds_left == pytest.approx(STEPS * (took.rate(make_job(store, "c")) or 0.0))
    assert (seen[0].seconds_left or 0.0) > STEPS * 0.05


def test_seconds_and_flops_are_not_mixed(store: RunStore) -> None:
    took = Took()
    took.add(make_job(store, "a"), 10.0, 5e9)
    assert took.rate(make_job(store, "b", work_per_step=1e9)) == pytest.approx(2e-9)
    assert took.rate(make_job(store, "c", start_seconds=4.0)) is None


def test_only_a_run_that_went_through_at_once_tells_its_time(store: RunStore) -> None:
    assert span_seconds(make_job(store, "new")) is None
    assert span_seconds(wrote(make_job(store, "whole"), 3.0)) == STEPS * 3.0
    assert span_seconds(wrote(make_job(store, "again"), 3.0, resumed=True)) is None
    further = replace(wrote(make_job(store, "further"), 3.0), steps=5)
    assert span_seconds(further) == 5 * 3.0  # a job that wanted less of it
    broken = wrote(make_job(store, "broken"), 3.0)
    (broken.run.path / "events.jsonl").write_text("{\n{\n{\n")
    assert span_seconds(broken) is None


def test_a_resumed_study_knows_the_start_of_a_process_from_its_plan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starts, "_measured", [])
    starts.recall_start([starts.START_SECONDS])
    assert starts.start_seconds() == starts.START_SECONDS
    starts.recall_start([starts.START_SECONDS, 12.0])
    assert starts.start_seconds() == 12.0
    starts.recall_start([13.0])
    assert starts.start_seconds() == 12.0  # what is measured (or known) already stays


def test_a_resumed_search_knows_it_from_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """It measures no speed again, and what it makes anew counts the start as it was measured."""
    monkeypatch.setattr(starts, "_measured", [])
    facts = {"steps_per_second": 3.0, "start_seconds": 9.0}
    inquiry: Any = SimpleNamespace(book=SimpleNamespace(facts=facts))
    assert _speed(inquiry, None, None) == 3.0  # type: ignore[arg-type]
    assert starts.start_seconds() == 9.0
    monkeypatch.setattr(starts, "_measured", [])
    del facts["start_seconds"]  # of an earlier version
    assert _speed(inquiry, None, None) == 3.0  # type: ignore[arg-type]
    assert starts.start_seconds() == starts.START_SECONDS


def test_the_display_shows_what_the_study_says(
    load: Load, ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal, with two workers; and each number is that of the progress told then."""
    monkeypatch.setattr(starts, "_measured", [])
    monkeypatch.setattr(progress_module, "_LINE_AT_MOST_EVERY_SECONDS", 0.0)
    plan = plan_compare([load("gpt2"), load("lstm")], seeds=3, budget=2000, ground=ground)
    plan = replace(plan, arms=tuple(replace(arm, start_seconds=7.0) for arm in plan.arms))
    shown = Console(file=io.StringIO(), width=200)
    display = LineDisplay(shown, lambda: 0.0)
    told: list[Progress] = []
    follow = follower(display)

    def look(progress: Progress) -> None:
        told.append(progress)
        follow(progress)

    conduct(
        plan, StudyFolder(tmp_path / "study"), workers=2, on_progress=look,
        create=lambda run, store: store.create(run.key, f"{run.arm}-{run.seed}", run.config),
        command=lambda job: [sys.executable, str(FAKE), str(job.run.path), str(job.steps), "slow"],
    )  # fmt: skip
    assert isinstance(shown.file, io.StringIO)
    said = re.findall(r"([\d.]+)/6, .*seed \d+, (.*) left", shown.file.getvalue())
    assert len(said) >= 3
    known = {(f"{6 * p.fraction:.1f}", left_text(p)) for p in told}
    assert {(f"{float(done):.1f}", left) for done, left in said} <= known
    assert starts.start_seconds() == 7.0


def left_text(progress: Progress) -> str:
    seconds = progress.seconds_left or 0.0
    return duration_text(seconds) if seconds >= 9.5 else f"{seconds:.0f} s"
