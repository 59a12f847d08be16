"""A Ray cluster of several nodes, as processes of one machine: one is lost; a study is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from windtunnel.runs import RunStore
from windtunnel.study.engines import Task
from windtunnel.study.execute import Job, Progress, execute

pytestmark = pytest.mark.slow
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
FAKE = Path(__file__).with_name("fake_worker.py")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    (tmp_path / "log").mkdir()
    return RunStore(tmp_path / "runs")


def make_job(store: RunStore, name: str, steps: int) -> Job:
    run = store.create(key=f"key-{name}", name=name, config={})
    return Job(run=run, name=name, steps=steps)


def command(job: Job) -> list[str]:
    return [sys.executable, str(FAKE), str(job.run.path), str(job.steps), "slow"]


def test_the_runs_of_a_lost_node_are_taken_over(store: RunStore, tmp_path: Path) -> None:
    """In a process of its own: this one may be connected to the other tests' cluster."""
    script = Path(__file__).with_name("lost_node.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=900,
        check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = store.select("a")
    assert run.status == "finished"
    assert "lost" in done.stdout
    assert "taken over at step" in done.stdout
    assert "2 attempts" in done.stdout
    resumes = [event.step for event in run.read_events() if event.kind == "resume"]
    assert len(resumes) == 1
    assert (resumes[0] or 0) > 0


def test_a_run_that_is_not_reached_is_said_and_not_tried_again(
    ray_engine: object, store: RunStore, tmp_path: Path
) -> None:
    job = make_job(store, "a", 3)
    wrong = Task(
        command=tuple(command(job)), run=job.run.path, key="another", log=tmp_path / "log", stem="a"
    )
    handle = ray_engine.start(wrong)  # type: ignore[attr-defined]
    while (ended := handle.poll()) is None:
        time.sleep(0.05)
    assert ended.code == 2
    assert "must lie on storage that every node reaches" in ended.words


def test_a_task_that_waits_for_a_place_is_stopped_at_once(
    ray_engine: object, store: RunStore, tmp_path: Path
) -> None:
    jobs = [make_job(store, name, 400) for name in "ab"]
    tasks = [
        Task(
            command=tuple(command(job)), run=job.run.path, key=job.run.key, log=tmp_path / "log",
            stem=job.name, threads=3,
        )
        for job in jobs
    ]  # fmt: skip
    first, second = (ray_engine.start(task) for task in tasks)  # type: ignore[attr-defined]
    while jobs[0].run.status != "running":
        time.sleep(0.05)
    second.stop(signal.SIGTERM)
    ended = second.poll()
    assert ended is not None
    assert ended.code == -signal.SIGTERM
    first.kill()
    assert first.poll().code == -signal.SIGKILL
    assert jobs[1].run.status == "interrupted"


def test_a_study_that_is_killed_takes_its_workers_along(
    ray_cluster: object, store: RunStore, tmp_path: Path
) -> None:
    job = make_job(store, "a", 4000)
    script = Path(__file__).with_name("lost_node.py")
    address = ray_cluster.address  # type: ignore[attr-defined]
    study = subprocess.Popen([sys.executable, str(script), str(tmp_path), address], env=ENVIRONMENT)
    while job.run.status != "running":
        assert study.poll() is None
        time.sleep(0.05)
    study.send_signal(signal.SIGKILL)
    study.wait()
    end = time.monotonic() + 60
    while job.run.status == "running":
        assert time.monotonic() < end, "its worker lives on"
        time.sleep(0.05)
    saved = int((job.run.checkpoints / "step").read_text())
    assert saved == job.run.summary().step, "it has saved before it left"


def test_progress_is_told_on_ray(ray_engine: object, store: RunStore, tmp_path: Path) -> None:
    jobs = [make_job(store, name, 10) for name in "ab"]
    seen: list[Progress] = []
    execute(
        jobs, command=command, workers=2, log=tmp_path / "log", engine=ray_engine,
        on_progress=seen.append, poll_seconds=0.05,
    )  # type: ignore[arg-type]  # fmt: skip
    assert seen[-1].fraction == 1.0
    assert any(0 < progress.fraction < 1 for progress in seen)
    assert threading.active_count() < 50
