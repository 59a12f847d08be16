"""The documented command line of several processes: torchrun starts it, and one process agrees."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.conftest import Command

from windtunnel.runs import RunFolder

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]  # what the script `torchrun` calls
PLAN = """\
arch:
  name: plan
  d_model: 16
  max_seq_len: 32
  unit_weights: true
  embedding: {dropout: 0.1}
  layers:
    - {repeat: 2, norm: none, mixer: {type: attention, num_heads: 2}, mlp: {type: glu, ratio: 2}}
data: {sources: {a: ./corpus.txt, b: ./other.txt}, tokenizer: bytes, validation: 0.2}
train:
  {batch_size: 4, seq_len: 16, lr: 3e-3, eval_every: 3, eval_tokens: 200, log_every: 1, threads: 1,
   ema: 0.9, watch_every: 2, stages: [{name: mix, data: {a: 2, b: 1}, steps: 3},
   {name: end, data: a, rows: 14, schedule: flat}]}
"""
pytestmark = pytest.mark.usefixtures("workplace")


def documented() -> list[str]:
    """The command of docs/training.md."""
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("    torchrun ")]
    return shlex.split(line)


def start(command: Sequence[object]) -> subprocess.Popen[str]:
    assert command[0] == "torchrun"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [*TORCHRUN, *map(str, command[1:])],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=240)
    return said


def losses(path: str) -> list[tuple[str, int, float]]:
    return [
        (event.kind, event.values["step"], event.values[key])
        for event in RunFolder.open(Path(path)).read_events()
        if event.kind in ("step", "eval")
        for key in ("loss", "ema_loss")
        if key in event.values
    ]


def same_curve(two: str, one: str) -> None:
    found, expected = losses(two), losses(one)
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    assert len(found) > 8
    assert [row[2] for row in found] == pytest.approx([row[2] for row in expected], abs=1e-4)
    record = RunFolder.open(Path(two)).read_record()
    assert record is not None
    assert (record["status"], record["processes"]) == ("finished", 2)


def test_the_documented_command_has_the_curve_of_one_process(windtunnel: Command) -> None:
    command = documented()
    assert command[-4:] == ["--out", "DIR", "--set", "train.distributed=ddp"]
    Path("other.txt").write_text("one two three and so on.\n" * 200, encoding="utf-8")
    Path("plan.yaml").write_text(PLAN, encoding="utf-8")
    plan = ["plan.yaml" if word == "run.yaml" else word for word in command]
    plan[-3:] = ["plan", "--set", "train.distributed=fsdp"]
    running = [start(command), start(plan)]
    assert windtunnel("train", "run.yaml", "--out", "one").code == 0
    assert windtunnel("train", "plan.yaml", "--out", "plan-one").code == 0
    for process in running:
        said = ended(process)
        assert process.returncode == 0, said
        assert said.count("with 2 processes") == said.count("next: windtunnel generate") == 1, said
    same_curve("DIR", "one")
    same_curve("plan", "plan-one")
    # What they left is a run like any other.
    assert windtunnel("generate", "DIR", "the", "-n", 3, "--greedy").code == 0


def test_a_mistake_is_told_before_anything_is_written() -> None:
    process = start([*documented()[:-1], "train.distributed=fsdp", "--set", "train.optimizer=muon"])
    said = ended(process)
    assert "windtunnel: train.optimizer: muon needs whole matrices" in said
    assert "exitcode: 2" in said  # of each process; torchrun itself ends with 1
    assert "windtunnel/" not in said  # no traceback of ours
    assert not Path("DIR").exists()
