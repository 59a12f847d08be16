"""Real processes, really killed, at random moments; then the same bits as without."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from standins import final_weights, new_folder, parts, recipe

from windtunnel.runs import RunFolder
from windtunnel.train.interrupts import REQUEUE_EXIT
from windtunnel.train.runner import train_run

VICTIM = Path(__file__).with_name("victim.py")
PATIENCE_SECONDS = 60.0


def start(folder: Path, pause: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(VICTIM), str(folder), str(pause)]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1].decode()
        if folder.exists() and RunFolder.open(folder).summary().step >= step:
            return
        time.sleep(0.005)
    pytest.fail(f"step {step} was not reached")


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    moments = random.Random("killed")
    straight = new_folder(tmp_path / "straight")
    record = train_run(parts(recipe(steps=60)), straight)
    path = tmp_path / "killed"
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL]
    for number, signum in enumerate(signals):
        process = start(path, 0.02)
        wait_for_step(path, 8 + 12 * number + moments.randrange(6), process)
        time.sleep(moments.random() * 0.05)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        expected = -signal.SIGKILL if signum == signal.SIGKILL else REQUEUE_EXIT
        assert process.returncode == expected, errors.decode()
        assert RunFolder.open(path).status == "interrupted"
    folder = RunFolder.open(path)
    resumed = train_run(parts(recipe(steps=60)), folder, resume=True)
    assert final_weights(folder) == final_weights(straight)
    for name in ("tokens", "flops", "steps", "skipped_steps", "status"):
        assert resumed[name] == record[name]
    assert resumed["final"]["loss"] == record["final"]["loss"]
    events = folder.read_events()
    assert [e.step for e in events if e.kind == "step"] == list(range(1, 61))
    assert [e.kind for e in events].count("resume") == len(signals)
