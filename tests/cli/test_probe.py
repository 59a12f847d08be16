"""``windtunnel probe`` from files to the report."""

import json
import os
import subprocess
import sys
from pathlib import Path

RUN = """
arch: {{preset: {preset}, name: {preset}, d_model: 16, max_seq_len: 16}}
data: {{source: {text}, tokenizer: bytes}}
train: {{steps: 2, batch_size: 2, seq_len: 16, lr: 1e-2, eval_every: 6, eval_tokens: 200}}
"""
TASKS = "tasks: {tiny: {type: parity, length: 8, samples: 64, held_samples: 16, test_lengths: 12}}"


def windtunnel(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "windtunnel", *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
    )  # fmt: skip


def test_a_file_is_probed_and_reported(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Once upon a time number {i} came." for i in range(400)))
    (tmp_path / "rnn.yaml").write_text(RUN.format(preset="rnn", text=text))
    (tmp_path / "tasks.yaml").write_text(TASKS)
    ask = ["probe", "rnn.yaml", "--tasks", "tasks.yaml", "--steps", "2", "--batch-size", "4"]
    ask += ["--seeds", "1", "--lrs", "1e-3,1e-2", "--out", "study", "--json"]
    planned = windtunnel(tmp_path, *ask, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "2 cells × 2 rates = 4 runs of tuning" in planned.stderr
    assert not (tmp_path / "study").exists()
    done = windtunnel(tmp_path, *ask)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    cell = told["cells"]["rnn"]["tiny"]
    assert 0 <= cell["score"]["mean"] <= 1
    assert 0 <= cell["longer"]["12"]["mean"] <= 1
    assert told["text"]["rnn"]["score"]["mean"] > 1
    assert json.loads((tmp_path / "study" / "study.json").read_text()) == told
    page = (tmp_path / "study" / "report.html").read_text()
    assert "Accuracy on the tests" in page
    again = windtunnel(tmp_path, "report", "study")
    assert again.returncode == 0, again.stderr
    assert "tiny at 12" in again.stdout
    assert "text, loss" in again.stdout
    losses = windtunnel(tmp_path, *ask, "--losses", "study", "--dry-run")
    assert "1 cells × 2 rates" in losses.stderr
    other = windtunnel(tmp_path, *ask, "--seeds", "2")
    assert other.returncode == 2
    assert "holds another study" in other.stderr
    for wrong in (["--tasks", "mqra"], ["--lrs", "x"], ["--losses", "nowhere"]):
        told_wrong = windtunnel(tmp_path, *ask, *wrong)
        assert told_wrong.returncode == 2, wrong
        assert "Traceback" not in told_wrong.stderr
