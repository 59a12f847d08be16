"""Engines by themselves: names, what is asked of Ray, unreachable folders, parents that die."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from windtunnel.errors import StudyError, UsageError
from windtunnel.runs import RunStore
from windtunnel.study.conduct import worker_command
from windtunnel.study.engines import LocalEngine, Task, open_engine
from windtunnel.study.engines.ray_engine import fitted
from windtunnel.study.engines.ray_node import Switchboard, unreachable
from windtunnel.study.execute import Job
from windtunnel.study.workers import last_words

GIB = 2.0**30


def task(tmp_path: Path, **values: object) -> Task:
    return Task(
        command=("true",), run=tmp_path / "run", key="k", log=tmp_path, stem="run.1", **values,
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rey", r"'rey'; did you mean 'ray'\? \(allowed: local, ray\)"),
        ("local=3", "none of local, ray and ray=ADDRESS"),
        ("ray=", "none of local, ray and ray=ADDRESS"),
        ("ray=ray://there:10001", "must run on a machine of the cluster"),
    ],
)
def test_a_name_that_is_no_engine_is_told(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message), open_engine(name):
        pass


def test_ray_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'windtunnel\[ray\]'"), open_engine("ray"):
        pass


def test_the_local_engine_has_what_this_machine_has() -> None:
    room = LocalEngine().capacity()
    assert 1 <= room.cores <= (os.cpu_count() or 1)
    assert room.memory_bytes is None or room.memory_bytes > 0


def test_workers_get_the_gpus_that_the_fewest_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    engine = LocalEngine()
    assert engine.capacity().gpus == 3
    say = [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES']); input()"]
    waits = [sys.executable, "-c", f"import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], "
             f"flush=True); time.sleep({60})"]  # fmt: skip
    told, handles = [], []
    for number, (gpus, command) in enumerate([(1, waits), (1, say), (2, waits), (0, waits)]):
        one = replace(task(tmp_path, gpus=gpus), command=tuple(command), stem=f"run.{number}")
        handles.append(engine.start(one))
        while not (text := one.out.read_text(encoding="utf-8").strip()):
            time.sleep(0.01)
        while number == 1 and handles[1].poll() is None:  # it ends, and leaves its GPU
            time.sleep(0.01)
        told.append(text)
    for handle in handles:
        handle.kill()
    assert told == ["4", "5", "5,7", "4,5,7"]


def test_ray_is_asked_for_what_a_run_takes(tmp_path: Path) -> None:
    nodes = [{"CPU": 4.0, "memory": 8 * GIB}, {"CPU": 16.0, "memory": 64 * GIB, "GPU": 2.0}]
    one = task(tmp_path, threads=2, processes=3, memory_bytes=10 * 2**30)
    assert fitted(one, nodes) == {"num_cpus": 6.0, "num_gpus": 0.0, "memory": 10 * 2**30}
    gpu = task(tmp_path, gpus=2, memory_bytes=10 * 2**30)
    assert fitted(gpu, nodes) == {"num_cpus": 1.0, "num_gpus": 2.0, "memory": 0}
    large = task(tmp_path, threads=99, memory_bytes=100 * 2**30)
    assert fitted(large, nodes) == {"num_cpus": 16.0, "num_gpus": 0.0, "memory": 64 * 2**30}
    with pytest.raises(StudyError, match=r"run needs 3 GPUs on one node.* none has more than 2"):
        fitted(task(tmp_path, gpus=3), nodes)


def test_a_node_that_does_not_see_the_run_says_so(tmp_path: Path) -> None:
    run = RunStore(tmp_path / "runs").create(key="k", name="run", config={})
    there = Task(command=(), run=run.path, key="k", log=tmp_path, stem="s")
    assert unreachable(there) is None
    for wrong in (
        Task(command=(), run=tmp_path / "elsewhere", key="k", log=tmp_path, stem="s"),
        Task(command=(), run=run.path, key="another", log=tmp_path, stem="s"),
        Task(command=(), run=run.path, key="k", log=tmp_path / "log", stem="s"),
    ):
        assert "storage that every node reaches at the same path" in (unreachable(wrong) or "")


def test_the_switchboard_knows_who_has_begun() -> None:
    board = Switchboard()
    assert not board.send("early", signal.SIGTERM)
    assert board.begin("early") == signal.SIGTERM
    assert board.begin("late") is None
    assert board.send("late", signal.SIGTERM)
    assert board.send("late", signal.SIGKILL)
    assert board.signal("late") == signal.SIGKILL
    assert board.signal("nobody") is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent's death")
def test_a_tied_worker_is_stopped_when_its_parent_is_killed(tmp_path: Path) -> None:
    worker = (
        "import signal, sys, time; from pathlib import Path\n"
        "signal.signal(signal.SIGTERM, lambda *_: (Path('stopped').touch(), sys.exit()))\n"
        "Path('begun').touch(); time.sleep(60)"
    )
    parent = (
        "import os, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'windtunnel.study.tied', str(os.getpid()),"
        f" sys.executable, '-c', {worker!r}], start_new_session=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path)
    wait_for(tmp_path / "begun")
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(tmp_path / "stopped")


def wait_for(path: Path, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} never came"
        time.sleep(0.01)


def test_several_processes_are_started_by_torchrun(tmp_path: Path) -> None:
    run = RunStore(tmp_path / "runs").create(key="k", name="run", config={})
    alone = worker_command(Job(run=run, name="a", steps=1))
    assert alone == [sys.executable, "-m", "windtunnel.study.worker", str(run.path)]
    several = worker_command(Job(run=run, name="a", steps=1, processes=4))
    assert several[:5] == [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4",
    ]  # fmt: skip
    assert several[5:] == alone[1:]


def test_the_report_of_torchrun_does_not_hide_the_last_words(tmp_path: Path) -> None:
    path = tmp_path / "err"
    path.write_text(
        "runs/a: out of memory; set train.micro_batch_size below 8\n"
        "E1125 19:00:00.000 17 torch/distributed/elastic/multiprocessing/api.py:988] failed\n"
        + "Traceback …\n"
        * 40
    )
    assert last_words(path) == "runs/a: out of memory; set train.micro_batch_size below 8"
    path.write_text("E1125 torch/distributed/elastic/agent.py:1] failed\n")
    assert last_words(path) == ""


def test_a_worker_that_was_taken_for_dead_writes_nothing_more(tmp_path: Path) -> None:
    """It stands still past its lease; another machine takes the run over; it wakes up."""
    fake = Path(__file__).with_name("fake_worker.py")
    run = RunStore(tmp_path / "runs").create(key="k", name="run", config={})
    # Another machine's, as the claims see it; and with a lock that machines do not share.
    as_another = (
        "import runpy, socket, sys; socket.gethostname = lambda: 'other'\n"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    arguments = [str(fake), str(run.path), "400", "slow"]
    late = subprocess.Popen([sys.executable, "-c", as_another, *arguments], stderr=subprocess.PIPE)
    while run.summary().step < 3:
        assert late.poll() is None
        time.sleep(0.01)
    late.send_signal(signal.SIGSTOP)
    (run.path / "run.lock").unlink()
    assert run.status == "running", "a claim of another machine lives"
    (claim,) = (run.path / "claims").glob("0*")
    os.utime(claim, (time.time() - 1000,) * 2)
    assert run.status == "interrupted", "its lease is over"
    steps = str(run.summary().step + 3)
    subprocess.run([sys.executable, str(fake), str(run.path), steps, "never"], check=True)
    before = contents(run.path)
    assert json.loads(before["record.json"])["status"] == "finished"
    late.send_signal(signal.SIGCONT)
    _, errors = late.communicate(timeout=60)
    assert late.returncode != 0
    assert b"another process has taken this run over" in errors
    assert contents(run.path) == before


def contents(run: Path) -> dict[str, bytes]:
    """Every file but claims and drafts, which are no part of the run."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.parent.name != "claims" and path.name[0] != "."
    }


def test_a_study_whose_folder_is_taken_away_is_told(tmp_path: Path) -> None:
    gone = replace(task(tmp_path / "gone"), log=tmp_path / "gone")
    ended = LocalEngine().start(gone).poll()
    assert ended is not None
    assert "cannot be started" in (ended.lost or "")
    assert f"{gone.out}: No such file or directory" in (ended.lost or "")
    (tmp_path / "gone").mkdir()
    handle = LocalEngine().start(gone)
    gone.errors.unlink()
    while (ended := handle.poll()) is None:
        time.sleep(0.01)
    assert (ended.code, ended.words) == (
        0,
        f"{gone.errors}: cannot be read: No such file or directory",
    )
