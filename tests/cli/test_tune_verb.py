"""``windtunnel compare --tune`` from files to the report."""

import json
import os
import subprocess
import sys
from pathlib import Path

RUN = """
arch: {{preset: {preset}, name: {preset}, d_model: 16, max_seq_len: 32}}
data: {{source: {text}, tokenizer: bytes}}
train: {{steps: 6, batch_size: 2, seq_len: 16, lr: 1e-2, eval_every: 6, eval_tokens: 200}}
"""


def windtunnel(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "windtunnel", *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
    )  # fmt: skip


def test_two_files_are_tuned_compared_and_reported(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Once upon a time number {i} came." for i in range(400)))
    for preset in ("gru", "rnn"):
        (tmp_path / f"{preset}.yaml").write_text(RUN.format(preset=preset, text=text))
    ask = ["compare", "gru.yaml", "rnn.yaml", "--seeds", "2", "--out", "study", "--json"]
    planned = windtunnel(tmp_path, *ask, "--tune", "train.lr=[1e-3,1e-2]", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "2 points for each of 2 arms = 4 runs" in planned.stderr
    assert not (tmp_path / "study").exists()
    done = windtunnel(tmp_path, *ask, "--tune", "train.lr=[1e-3,1e-2]")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["tuning"]["rnn"]["trials"]) >= 2
    assert told["spent"]["gru"]["compare"]["runs"] == 2
    page = (tmp_path / "study" / "report.html").read_text()
    assert "Chosen for each architecture" in page
    again = windtunnel(tmp_path, "report", "study")
    assert "Tuning, chosen on validation" in again.stdout
    other = windtunnel(tmp_path, *ask)
    assert other.returncode == 2
    assert "holds another study" in other.stderr
    wrong = windtunnel(tmp_path, *ask, "--tune", "train.steps=[1,2]")
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
