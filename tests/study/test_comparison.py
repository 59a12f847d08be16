"""A comparison in rounds, with workers whose loss is known."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from windtunnel.errors import UsageError
from windtunnel.runs import RunFolder, RunStore
from windtunnel.study.arms import Ground
from windtunnel.study.comparison import Comparing, FixedSeeds
from windtunnel.study.execute import Job
from windtunnel.study.folder import StudyFolder
from windtunnel.study.plan import PlannedRun
from windtunnel.study.rounds import Answer, conduct_inquiry
from windtunnel.study.tune import Knob, Tuning
from windtunnel.train.run_config import LoadedRun

WORKER = Path(__file__).with_name("rate_worker.py")
Load = Callable[..., LoadedRun]
TUNING = Tuning((Knob("train.lr", (0.001, 0.002, 0.004)),))


def create(run: PlannedRun, store: RunStore) -> RunFolder:
    return store.create(run.key, f"{run.arm}-{run.seed}", run.config)


def asked(load: Load, ground: Ground, tuning: Tuning | None = TUNING, seeds: int = 2) -> Comparing:
    return Comparing(
        [load("gpt2"), load("lstm")], match="tokens", budget=2000, ground=ground,
        confirmation=FixedSeeds(tuple(range(seeds))), tuning=tuning,
    )  # fmt: skip


def conducted(inquiry: Comparing, out: Path, *, best: float = 0.002, workers: int = 2) -> Answer:
    def command(job: Job) -> list[str]:
        return [sys.executable, str(WORKER), str(job.run.path), str(best)]

    return conduct_inquiry(
        inquiry, StudyFolder(out), cores=2, workers=workers, create=create, command=command
    )


def test_every_arm_is_tuned_alike_and_judged_on_other_seeds(
    load: Load, ground: Ground, tmp_path: Path
) -> None:
    answer = conducted(asked(load, ground), tmp_path / "study")
    kinds = [past.plan.kind for past in answer.rounds]
    assert kinds == ["match", "tune", "compare"]
    told = answer.result["tuning"]
    assert {arm: told[arm]["chosen"] for arm in told} == {"gpt2": [0.002], "lstm": [0.002]}
    assert not any(told[arm]["at_edge"] for arm in told)
    assert set(answer.rounds[1].plan.seeds).isdisjoint(answer.rounds[2].plan.seeds)
    last = answer.rounds[2].plan
    assert {run.config["train"]["lr"] for run in last.runs} == {0.002}
    spent = answer.result["spent"]["lstm"]
    assert spent["tune"] == {"runs": 3, "tokens": 300, "flops": 3e3, "seconds": 6.0}
    assert spent["compare"]["runs"] == 2


def test_an_optimum_at_the_edge_is_followed_and_then_flagged(
    load: Load, ground: Ground, tmp_path: Path
) -> None:
    answer = conducted(asked(load, ground), tmp_path / "inside", best=0.008)
    assert answer.result["tuning"]["gpt2"]["chosen"] == [0.008]
    assert not answer.result["tuning"]["gpt2"]["at_edge"]
    answer = conducted(asked(load, ground), tmp_path / "beyond", best=0.256)
    assert answer.result["tuning"]["gpt2"]["chosen"] == [0.032]
    assert answer.result["tuning"]["gpt2"]["at_edge"]
    assert "lies at the edge" in answer.result["note"]


def test_an_arm_that_diverges_everywhere_keeps_its_own_rate(
    load: Load, ground: Ground, tmp_path: Path
) -> None:
    answer = conducted(asked(load, ground), tmp_path / "study", best=1e5)
    told = answer.result["tuning"]["gpt2"]
    assert told["chosen"] == [load("gpt2").config.train.lr]
    assert told["at_edge"]
    assert [trial["loss"] for trial in told["trials"]] == [None] * 3
    assert [arm["diverged"] for arm in answer.result["arms"]] == [2, 2]
    notes = answer.result["note"].splitlines()
    assert "No setting that was tried for gpt2, lstm came to a loss" in notes[-1]
    assert "lies at the edge" not in answer.result["note"]


def test_an_edge_of_what_a_config_allows_ends_the_search(
    load: Load, ground: Ground, tmp_path: Path
) -> None:
    """Beyond a dropout of 0.6 comes 1.2, which no config may have."""
    tuning = Tuning((Knob("arch.embedding.dropout", (0.6, 0.3)),))
    answer = conducted(asked(load, ground, tuning), tmp_path / "study")
    told = answer.result["tuning"]["gpt2"]
    assert [trial["values"] for trial in told["trials"]] == [[0.6], [0.3]]
    assert told["chosen"] == [0.6]
    assert told["at_edge"]
    assert "lies at the edge" in answer.result["note"]


def test_the_answer_does_not_depend_on_the_number_of_workers(
    load: Load, ground: Ground, tmp_path: Path
) -> None:
    answers = [
        conducted(asked(load, ground), tmp_path / str(workers), best=0.008, workers=workers)
        for workers in (1, 3)
    ]
    assert answers[0].result == answers[1].result
    assert list(answers[0].runs) == list(answers[1].runs)


@pytest.mark.parametrize("run", [1, 4, 9])
def test_a_study_that_was_killed_goes_on_and_trains_nothing_twice(
    load: Load, ground: Ground, tmp_path: Path, run: int
) -> None:
    whole = conducted(asked(load, ground), tmp_path / "whole", best=0.008)
    murder, out = tmp_path / "murder", tmp_path / "killed"
    murder.write_text(str(run))
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import conftest, test_comparison as t
from windtunnel.study.arms import Ground
from windtunnel.study.folder import StudyFolder
from windtunnel.study.rounds import conduct_inquiry
ground = Ground(conftest.settle_config, lambda configs: [1000 / c.arch.d_model for c in configs])
inquiry = t.asked(conftest.load_config, ground)
worker = [sys.executable, str(t.WORKER)]
conduct_inquiry(inquiry, StudyFolder(Path({str(out)!r})), cores=2, workers=1, create=t.create,
    command=lambda job: [*worker, str(job.run.path), "0.008", {str(murder)!r}])
"""
    killed = subprocess.run([sys.executable, "-c", program], env=os.environ, check=False)
    assert killed.returncode == -9
    answer = conducted(asked(load, ground), out, best=0.008)
    assert json.dumps(answer.result) == json.dumps(whole.result)
    trained = (out / "trained.txt").read_text().split()
    assert sorted(trained) == sorted(whole.runs), "each run was trained once"


def test_a_folder_of_another_question_is_left_alone(
    load: Load, ground: Ground, tmp_path: Path
) -> None:
    conducted(asked(load, ground), tmp_path / "study")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    for other in (asked(load, ground, seeds=3), asked(load, ground, tuning=None)):
        with pytest.raises(UsageError, match="holds another study"):
            conducted(other, tmp_path / "study")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


def test_what_changes_the_budget_is_not_tuned(load: Load, ground: Ground, tmp_path: Path) -> None:
    wide = Tuning((Knob("arch.d_model", (64, 128)),))
    with pytest.raises(UsageError, match="must not change the arm's budget"):
        conducted(asked(load, ground, tuning=wide), tmp_path / "study")
    missing = Tuning((Knob("train.nothing", (1, 2)),))
    with pytest.raises(UsageError):
        conducted(asked(load, ground, tuning=missing), tmp_path / "other")


def test_results_of_rounds_that_are_no_more_are_taken_away(
    load: Load, ground: Ground, tmp_path: Path
) -> None:
    """Where a failed run ends after all, another rate may be chosen: the rounds change, and what
    the old ones said is not shown beside the new ones if the study is killed before its end."""
    answer = conducted(asked(load, ground), tmp_path / "study")
    folder = StudyFolder(tmp_path / "study")
    for number, past in enumerate(answer.rounds):
        folder.write_round(number, past.plan)
    assert folder.read_results() is not None
    folder.write_round(2, answer.rounds[1].plan)
    assert folder.read_results() is None


def test_a_damaged_round_is_told(load: Load, ground: Ground, tmp_path: Path) -> None:
    conducted(asked(load, ground), tmp_path / "study")
    shutil.rmtree(tmp_path / "study" / "runs")
    (tmp_path / "study" / "rounds" / "000.json").write_text("{")
    with pytest.raises(Exception, match="damaged"):
        conducted(asked(load, ground), tmp_path / "study")


def test_many_values_at_once_are_not_tuned(load: Load, ground: Ground, tmp_path: Path) -> None:
    many = Tuning((Knob("arch.layers[*].mlp.dropout", (0.0, 0.1)),))
    with pytest.raises(UsageError, match="a layer's number"):
        conducted(asked(load, ground, tuning=many), tmp_path / "study")


@pytest.mark.parametrize(
    ("knob", "said"),
    [
        (Knob("train.lrr"), "did you mean 'lr'"),
        (Knob("train.lr", (0.001, -1.0)), "train.lr"),
        (Knob("arch.layers[0].mlp.ratio", (2.0, 4.0)), "must not change the arm's budget"),
    ],
)
def test_a_knob_that_cannot_be_turned_is_told_before_anything_is_measured(
    load: Load, ground: Ground, knob: Knob, said: str
) -> None:
    def measure(configs: object) -> list[float]:
        raise AssertionError("speeds are not needed to know that")

    with pytest.raises(UsageError, match=said):
        asked(load, replace(ground, speeds=measure), tuning=Tuning((knob,)))
