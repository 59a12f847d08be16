"""``windtunnel train`` killed at random moments, then resumed: the same weights, bit for bit."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import Command

STEPS = 240
EDITS = [f"train.steps={STEPS}", "train.checkpoint_every=7", "train.eval_every=50",
         "train.schedule.warmup=10", "arch.layers[*].dropout=0.2"]  # fmt: skip
PATIENCE_SECONDS = 120.0


def command(out: Path, *more: str) -> list[str]:
    sets = [word for edit in EDITS for word in ("--set", edit)]
    return [
        sys.executable,
        "-m",
        "windtunnel",
        "train",
        "run.yaml",
        *sets,
        "--out",
        str(out),
        *more,
    ]


def steps_logged(out: Path) -> int:
    events = out / "events.jsonl"
    return events.read_text(encoding="utf-8").count('"kind": "step"') if events.exists() else 0


def kill_after(out: Path, steps: int, how: signal.Signals) -> int:
    """Starts or resumes the run, and sends it a signal once it has logged so many more steps."""
    process = subprocess.Popen(command(out, "--resume"), stderr=subprocess.PIPE)
    wanted, limit = steps_logged(out) + steps, time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and steps_logged(out) < wanted and time.monotonic() < limit:
        time.sleep(0.002)
    process.send_signal(how)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert b"Traceback" not in errors
    return process.returncode


def weights(out: Path) -> bytes:
    newest = max((out / "checkpoints").glob("step-*"), key=lambda path: path.name)
    return (newest / "model.safetensors").read_bytes()


@pytest.mark.parametrize("seed", [0])
def test_five_kills_change_no_bit(windtunnel: Command, workplace: Path, seed: int) -> None:
    source = random.Random(seed)
    whole, broken = workplace / "whole", workplace / "broken"
    subprocess.run(command(whole), check=True, capture_output=True)
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        code = kill_after(broken, source.randint(3, 30), how)
        expected = {signal.SIGTERM: 75, signal.SIGINT: 130}.get(how, -how)
        assert code == expected, "the run ended before it was killed"
    subprocess.run(command(broken, "--resume"), check=True, capture_output=True)
    assert weights(broken) == weights(whole)
