"""A study killed by −9 at any point finishes when started again, and repeats no finished run."""

import json
import sys
from pathlib import Path

import pytest
from tests.conftest import Command
from tests.study.killing import kill_study

FAKE = str(Path(__file__).with_name("fake_study.py"))


@pytest.mark.parametrize("seed", [1])
def test_a_killed_study_goes_on_where_it_stood(tmp_path: Path, seed: int) -> None:
    program = (sys.executable, FAKE)
    killed = kill_study(["study", "keyed"], cwd=tmp_path, seed=seed, program=program, spread=120)
    assert killed.code == 0, killed.errors
    assert killed.kills > 0
    results = json.loads((tmp_path / "study" / "study.json").read_text())
    assert results["failures"] == {}
    kill_study(["whole", "keyed"], cwd=tmp_path, seed=0, kills=0, program=program)
    whole = json.loads((tmp_path / "whole" / "study.json").read_text())
    assert [arm["loss"] for arm in results["arms"]] == [arm["loss"] for arm in whole["arms"]]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_killed_comparison_comes_to_the_same_verdicts(
    windtunnel: Command, workplace: Path, seed: int
) -> None:
    text = (workplace / "run.yaml").read_text(encoding="utf-8")
    other = text.replace("small", "gru").replace("{type: attention, num_heads: 2}", "gru")
    (workplace / "other.yaml").write_text(other, encoding="utf-8")
    command = ["compare", "run.yaml", "other.yaml", "--seeds", "2", "--budget", "4000",
               "--set", "train.checkpoint_every=5", "--runs"]  # fmt: skip
    killed = kill_study(
        [*command, "runs", "--out", "study"], cwd=workplace, seed=seed, kills=4, spread=150
    )
    assert killed.code == 0, killed.errors
    assert killed.kills >= 2
    broken = json.loads((workplace / "study" / "study.json").read_text())
    assert windtunnel(*command, "others", "--out", "whole").code == 0
    whole = json.loads((workplace / "whole" / "study.json").read_text())
    names = ("name", "loss", "bits_per_byte", "delta", "p_value", "verdict", "steps", "tokens")
    for mine, its in zip(broken["arms"], whole["arms"], strict=True):
        assert {name: mine[name] for name in names} == {name: its[name] for name in names}
