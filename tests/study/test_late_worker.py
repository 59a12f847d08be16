"""Real workers: one that was taken for dead, and several processes for one run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import Command

from windtunnel.runs import RunFolder

pytestmark = pytest.mark.slow


def contents(run: Path) -> dict[str, bytes]:
    """Every file but claims and drafts, which are no part of the run."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and not {"claims"} & {*path.parts} and "/." not in str(path)
    }


@pytest.mark.parametrize("steps", [2, 9, 17])
def test_a_late_worker_overwrites_neither_events_nor_checkpoints_nor_the_record(
    windtunnel: Command, workplace: Path, steps: int
) -> None:
    """Stopped past its lease at some step; another machine trains the run to its end; it wakes."""
    out = workplace / "runs" / "a"
    edits = ["--set", "train.steps=40", "--set", "train.checkpoint_every=1"]
    training = subprocess.Popen(
        [sys.executable, "-m", "windtunnel", "train", "run.yaml", *edits, "--out", str(out)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (out / "run.json").exists() or RunFolder.open(out).summary().step < 1:
        assert training.poll() is None
        time.sleep(0.01)
    training.send_signal(signal.SIGTERM)
    training.wait()
    run = RunFolder.open(out)
    begun = run.summary().step
    as_another = (
        "import socket, sys; socket.gethostname = lambda: 'other'\n"
        "from windtunnel.study.worker import main; sys.exit(main([sys.argv[1]]))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    late = subprocess.Popen(
        [sys.executable, "-c", as_another, str(out)], env=environment, stderr=subprocess.PIPE
    )
    while run.summary().step < min(begun + steps, 39):
        assert late.poll() is None
        time.sleep(0.001)
    late.send_signal(signal.SIGSTOP)
    (out / "run.lock").unlink()  # machines do not share it
    claim = max((out / "claims").glob("0*"))
    os.utime(claim, (time.time() - 1000,) * 2)
    worker = [sys.executable, "-m", "windtunnel.study.worker", str(out)]
    subprocess.run(worker, env=environment, check=True)
    before = contents(out)
    assert json.loads(before["record.json"])["status"] == "finished"
    late.send_signal(signal.SIGCONT)
    _, errors = late.communicate(timeout=120)
    assert late.returncode == 1
    assert b"another process has taken this run over" in errors
    assert contents(out) == before


def test_a_study_trains_a_run_with_several_processes(windtunnel: Command, workplace: Path) -> None:
    """torchrun starts the worker; the losses are those of one process, to rounding."""
    text = (workplace / "run.yaml").read_text(encoding="utf-8")
    (workplace / "other.yaml").write_text(text.replace("ratio: 2", "ratio: 3"), encoding="utf-8")
    command = ("compare", "run.yaml", "other.yaml", "--seeds", 1, "--budget", 400, "--json")
    edits = ("--set", "train.distributed=ddp", "--set", "train.processes=2")
    both = {}
    for out, more in (("one", ()), ("two", edits)):
        answer = windtunnel(*command, *more, "--out", out, "--runs", f"runs-{out}")
        assert answer.code == 0, answer.err
        both[out] = json.loads(answer.out)
    for mine, its in zip(both["one"]["arms"], both["two"]["arms"], strict=True):
        assert its["loss"]["mean"] == pytest.approx(mine["loss"]["mean"], abs=1e-4)
    for path in (workplace / "runs-two").glob("*/record.json"):
        assert json.loads(path.read_text())["processes"] == 2
