"""A ladder as a study: two rounds, decays that equal whole runs, and no run trained twice."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from windtunnel.errors import UsageError
from windtunnel.report.ladder import plan_lines
from windtunnel.runs import RunFolder, RunStore
from windtunnel.study.arms import Ground, read_tree
from windtunnel.study.conduct import RunMaker
from windtunnel.study.execute import Job
from windtunnel.study.folder import StudyFolder
from windtunnel.study.ground import local_ground
from windtunnel.study.ladder.amounts import parse_budgets, parse_sizes, parse_target
from windtunnel.study.ladder.inquiry import LadderInquiry, described, predicted_seconds
from windtunnel.study.ladder.plans import decays, trunks
from windtunnel.study.ladder.rungs import LadderRequest, make_ladder
from windtunnel.study.plan import PlannedRun
from windtunnel.study.rounds import Answer, conduct_inquiry
from windtunnel.train.checkpoint import list_checkpoints
from windtunnel.train.launch import run_in_folder
from windtunnel.train.run_config import LoadedRun, load_run

Load = Callable[..., LoadedRun]
WORKER = Path(__file__).parents[1] / "rate_worker.py"


def request(**changes: Any) -> LadderRequest:
    values: dict[str, Any] = {
        "sizes": parse_sizes("0.2M,0.4M,0.8M"), "budgets": parse_budgets("40k,80k"),
        "seeds": (0, 1), "rule": "width", "count": "total", "lr_rule": "auto",
        "target": parse_target("10x"), "backtest": None,
    }  # fmt: skip
    return LadderRequest(**(values | changes))


def create(run: PlannedRun, store: RunStore) -> RunFolder:
    return store.create(run.key, f"{run.arm}-{run.seed}", run.config)


def asked(load: Load, ground: Ground, out: Path, **changes: Any) -> LadderInquiry:
    ladder = make_ladder([load("llama"), load("gru")], request(**changes), ground)
    return LadderInquiry(ladder, ground, RunStore(out / "runs"), draws=30)


def conducted(inquiry: LadderInquiry, out: Path, workers: int = 2) -> Answer:
    def command(job: Job) -> list[str]:
        return [sys.executable, str(WORKER), str(job.run.path), "0.002"]

    folder = StudyFolder(out)
    return conduct_inquiry(
        inquiry, folder, cores=2, workers=workers, create=create, command=command
    )


def test_the_plan_is_told_before_anything_runs(load: Load, ground: Ground, tmp_path: Path) -> None:
    inquiry = asked(load, ground, tmp_path)
    first = inquiry.next([], lambda digest: None)
    assert first is not None
    tree = described(inquiry.ladder)
    assert tree["cost"]["runs"] == 2 * 3 * 2 * 2
    assert len(first.runs) == 12
    trained = sum(
        rung["flops_per_token"] * rung["tokens"][0] / rung["steps"][0] * (n + n2 - b)
        for rung in tree["rungs"]
        for (n2, n), b in [(rung["steps"], rung["branch_steps"][0])]
    )
    assert tree["cost"]["flops"] == pytest.approx(2 * trained)
    assert tree["cost"]["flops_without_branching"] == pytest.approx(
        2 * sum(sum(rung["flops"]) for rung in tree["rungs"])
    )
    seconds = predicted_seconds(inquiry.ladder, first)
    assert seconds is not None
    assert seconds > sum(arm.run_seconds or 0 for arm in first.arms) * 2
    told = plan_lines({"title": inquiry.question, **tree}, seconds)[2]
    assert told.endswith(
        "on one worker, if this machine stays as fast as it was when it was measured"
    )
    for arm in first.arms:
        assert arm.config["train"]["schedule"]["type"] == "wsd"
        assert arm.config["train"]["checkpoint_at"]
        assert arm.params == pytest.approx(arm.params, rel=0.02)
    assert not (tmp_path / "runs").exists()


def test_rates_follow_the_rule(load: Load, ground: Ground, tmp_path: Path) -> None:
    for rule, power in (("constant", 0.0), ("inverse_sqrt_width", 0.5)):
        rungs = described(asked(load, ground, tmp_path, lr_rule=rule).ladder)["rungs"]
        for rung in rungs[:3]:
            assert rung["lr"] == pytest.approx(1e-3 * (128 / rung["d_model"]) ** power, rel=1e-3)


def test_two_rounds_and_an_answer_that_does_not_depend_on_workers(
    load: Load, ground: Ground, tmp_path: Path
) -> None:
    answers = [
        conducted(asked(load, ground, tmp_path / str(n)), tmp_path / str(n), n) for n in (1, 2)
    ]
    assert json.dumps(answers[0].result) == json.dumps(answers[1].result)
    assert [round.plan.kind for round in answers[0].rounds] == ["ladder trunks", "ladder decays"]
    tree = answers[0].result
    assert len(tree["cells"]) == 12
    assert all(cell["mean"] is not None for cell in tree["cells"])
    assert tree["pairs"][0]["at"]["verdict"] in ("better", "worse", "cannot say")
    assert len(tree["differences"]) == 6
    assert tree["differences"][0]["against"] == "llama"
    assert tree["trends"][0]["size"]["held"] == "at equal tokens"
    assert "gru against llama, as measured in 6 cells: " in tree["conclusion"]
    assert tree["trends"][0]["words"] in tree["conclusion"]
    # The stand-in worker leaves no checkpoints, so smaller budgets are planned whole, and told.
    assert any("trained from their first step" in note for note in tree["notes"])


@pytest.mark.parametrize("run", [2, 14])
def test_a_ladder_that_was_killed_goes_on_and_trains_nothing_twice(
    load: Load, ground: Ground, tmp_path: Path, run: int
) -> None:
    whole = conducted(asked(load, ground, tmp_path / "whole"), tmp_path / "whole")
    murder, out = tmp_path / "murder", tmp_path / "killed"
    murder.write_text(str(run))
    program = f"""
import sys
sys.path[:0] = [{str(WORKER.parent)!r}, {str(Path(__file__).parent)!r}]
from pathlib import Path
import conftest, test_ladder_study as t
from windtunnel.study.arms import Ground
from windtunnel.study.folder import StudyFolder
from windtunnel.study.rounds import conduct_inquiry
ground = Ground(conftest.settle_config, lambda configs: [1000 / c.arch.d_model for c in configs])
inquiry = t.asked(conftest.load_config, ground, Path({str(out)!r}))
conduct_inquiry(inquiry, StudyFolder(Path({str(out)!r})), cores=2, workers=1,
    create=t.create, command=lambda job: [sys.executable, str(t.WORKER), str(job.run.path), "0.002",
    {str(murder)!r}])
"""
    killed = subprocess.run([sys.executable, "-c", program], env=os.environ, check=False)
    assert killed.returncode == -9
    answer = conducted(asked(load, ground, out), out)
    assert json.dumps(answer.result) == json.dumps(whole.result)
    trained = (out / "trained.txt").read_text().split()
    assert sorted(trained) == sorted(whole.runs), "each run was trained once"


def test_arms_must_learn_the_same(load: Load, ground: Ground) -> None:
    def ladder(*loaded: LoadedRun, **changes: Any) -> Any:
        return make_ladder(loaded, request(**changes), ground)

    with pytest.raises(UsageError, match="other data or another tokenizer"):
        ladder(load("llama"), load("gru", "data.tokenizer.vocab_size=300"))
    with pytest.raises(UsageError, match=r"train.seq_len is 16, but 32 for llama"):
        ladder(load("llama"), load("gru", "train.seq_len=16"))
    with pytest.raises(UsageError, match="no size within 2% of 1,000 parameters"):
        ladder(load("llama"), sizes=(1000.0,))
    with pytest.raises(UsageError, match="two budgets come to"):
        ladder(load("llama"), budgets=parse_budgets("1000,1001"))


def test_a_branched_decay_equals_the_whole_run_to_the_bit(workplace: Path) -> None:
    """Weights and loss, with dropout, on a corpus that is read more than once."""
    loaded = load_run("run.yaml", ["arch.layers[0].dropout=0.1", "train.checkpoint_every=1000"])
    ground = local_ground(measure=False)
    asked = request(sizes=(4000.0,), budgets=parse_budgets("320,640,960"), seeds=(3,))
    ladder = make_ladder([loaded], asked, ground)
    store, make = RunStore(workplace / "runs"), RunMaker()
    inquiry = LadderInquiry(ladder, ground, store)
    first = trunks(ladder, ground, lambda digest: None)
    [trunk] = [make(run, store) for run in first.runs]
    run_in_folder(trunk)
    assert [c.step for c in list_checkpoints(trunk.checkpoints)] == [4, 8, 15]
    second = decays(ladder, first, ground, lambda digest: None, inquiry._checkpoint)
    assert [arm.first_step for arm in second.arms] == [4, 8]
    for planned in second.runs:
        branched = make(planned, store)
        record = run_in_folder(branched)
        assert record["origin"]["step"] in (4, 8)
        config = {**planned.config, "origin": None}
        alone = replace(planned, config=config, key=_key(config, ground))
        whole = make(alone, store)
        expected = run_in_folder(whole)
        assert record["final"]["loss"] == expected["final"]["loss"]
        weights, same = (_weights(folder) for folder in (branched, whole))
        assert weights.keys() == same.keys()
        assert all((weights[name] == same[name]).all() for name in weights)


def _key(config: Any, ground: Ground) -> str:
    return ground.settle(read_tree(config)).key


def _weights(folder: RunFolder) -> Any:
    return load_file(list_checkpoints(folder.checkpoints)[-1].path / "model.safetensors")
