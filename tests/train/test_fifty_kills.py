"""Fifty deaths at random points, in the middle of saves too: the same bits as without."""

import subprocess
import sys
from pathlib import Path

from doomed import STEPS, recipe_of_the_doomed
from standins import final_weights, new_folder, parts

from windtunnel.runs import RunFolder
from windtunnel.train.runner import train_run

DOOMED = Path(__file__).with_name("doomed.py")
KILLS = 50


def test_fifty_kills_change_no_bit(tmp_path: Path) -> None:
    straight, path = new_folder(tmp_path / "straight"), tmp_path / "killed"
    record = train_run(parts(recipe_of_the_doomed()), straight)
    command = [sys.executable, str(DOOMED), str(path), "0", str(KILLS)]
    died = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert died.returncode == 0, died.stdout + died.stderr
    assert died.stdout.count("inside") == died.stdout.count("outside") == KILLS // 2
    folder = RunFolder.open(path)
    assert folder.status == "interrupted"
    assert 0 < folder.summary().step < STEPS, "the run ended before the last death"
    resumed = train_run(parts(recipe_of_the_doomed()), folder, resume=True)
    assert final_weights(folder) == final_weights(straight)
    for name in ("tokens", "flops", "steps", "skipped_steps", "status"):
        assert resumed[name] == record[name], name
    assert resumed["final"]["loss"] == record["final"]["loss"]
    events = folder.read_events()
    assert [e.step for e in events if e.kind == "step"] == list(range(1, STEPS + 1))
    left = [entry.name for entry in folder.checkpoints.iterdir() if entry.name.startswith(".")]
    assert not left, "drafts of the dead are cleared away"
