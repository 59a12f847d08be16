"""Seeds until decided, with workers whose loss is known."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import UsageError
from windtunnel.runs import RunFolder, RunStore
from windtunnel.study.arms import Ground
from windtunnel.study.comparison import Comparing, Confirmation, FixedSeeds
from windtunnel.study.execute import Job
from windtunnel.study.folder import StudyFolder
from windtunnel.study.plan import PlannedRun
from windtunnel.study.rounds import Answer, conduct_inquiry
from windtunnel.study.sequential import Looks
from windtunnel.study.tune import Knob, Tuning
from windtunnel.study.until import UntilDecided
from windtunnel.train.run_config import LoadedRun

WORKER = Path(__file__).with_name("seed_worker.py")
Load = Callable[..., LoadedRun]
FAR, NEAR = 0.5, 0.0  # in nats; the noise of a run is 0.01
SHIFTS = {"gpt2": 0.0, "lstm": FAR, "gru": NEAR}


def create(run: PlannedRun, store: RunStore) -> RunFolder:
    return store.create(run.key, f"{run.arm}-{run.seed}", run.config)


def asked(
    load: Load, ground: Ground, confirmation: Confirmation, tuning: Tuning | None = None
) -> Comparing:
    return Comparing(
        [load("gpt2"), load("lstm"), load("gru")], match="tokens", budget=2000, ground=ground,
        confirmation=confirmation, tuning=tuning,
    )  # fmt: skip


def command_of(shifts: dict[str, Any], murder: Path | None = None) -> Callable[[Job], list[str]]:
    def command(job: Job) -> list[str]:
        ask = [sys.executable, str(WORKER), str(job.run.path), json.dumps(shifts)]
        return ask if murder is None else [*ask, str(murder)]

    return command


def conducted(
    inquiry: Comparing, out: Path, shifts: dict[str, Any] | None = None, workers: int = 2
) -> Answer:
    return conduct_inquiry(
        inquiry, StudyFolder(out), cores=2, workers=workers, create=create,
        command=command_of(shifts or SHIFTS),
    )  # fmt: skip


def told(answer: Answer) -> dict[str, tuple[str, int]]:
    return {arm["name"]: (arm["verdict"], arm["seeds"]) for arm in answer.result["arms"]}


def test_a_decided_arm_stops_and_the_others_go_on(
    load: Load, ground: Ground, tmp_path: Path
) -> None:
    answer = conducted(asked(load, ground, UntilDecided(Looks(3, 6))), tmp_path / "study")
    found = told(answer)
    verdict, seeds = found["lstm"]
    assert verdict == "worse"
    assert seeds < 6
    assert found["gru"] == ("undecided", 6)
    assert found["gpt2"] == ("reference", 6)
    assert answer.result["looks"] == (3, 6)
    rounds = [past.plan for past in answer.rounds if past.plan.kind == "compare"]
    assert [plan.seeds for plan in rounds] == [(0, 1, 2), (3,), (4,), (5,)]
    assert [arm.name for arm in rounds[-1].arms] == ["gpt2", "gru"]
    assert len(answer.runs) == 6 + seeds + 6
    written = StudyFolder(tmp_path / "study").read_plan()
    assert written is not None
    assert [arm.name for arm in written.arms] == ["gpt2", "lstm", "gru"]
    assert len(written.keys_of("lstm")) == seeds


def test_a_margin_ends_what_would_never_be_decided(
    load: Load, ground: Ground, tmp_path: Path
) -> None:
    confirmation = UntilDecided(Looks(3, 10), margin=0.1)
    answer = conducted(asked(load, ground, confirmation), tmp_path / "study")
    verdict, seeds = told(answer)["gru"]
    assert verdict == "equivalent"
    assert seeds < 10
    assert answer.result["margin"] == 0.1
    assert "gru and gpt2 are equivalent" in answer.result["conclusion"]


def test_a_margin_needs_no_looks(load: Load, ground: Ground, tmp_path: Path) -> None:
    answer = conducted(asked(load, ground, FixedSeeds((0, 1, 2), 0.2)), tmp_path / "study")
    assert told(answer)["gru"] == ("equivalent", 3)
    assert answer.result["looks"] is None


def test_seeds_do_not_depend_on_the_number_of_workers(
    load: Load, ground: Ground, tmp_path: Path
) -> None:
    answers = [
        conducted(asked(load, ground, UntilDecided(Looks(2, 5))), tmp_path / str(n), workers=n)
        for n in (1, 3)
    ]
    assert json.dumps(answers[0].result) == json.dumps(answers[1].result)
    assert list(answers[0].runs) == list(answers[1].runs)


@pytest.mark.parametrize("shift", ["diverges", None])
def test_more_seeds_are_not_spent_where_they_can_change_nothing(
    load: Load, ground: Ground, tmp_path: Path, shift: str | None
) -> None:
    shifts = {"gpt2": 0.0, "lstm": shift, "gru": FAR}
    answer = conducted(asked(load, ground, UntilDecided(Looks(3, 9))), tmp_path / "study", shifts)
    assert told(answer)["lstm"] == ("worse" if shift else "undecided", 3)
    if shift is None:  # the same command tries again, and goes on
        again = conducted(asked(load, ground, UntilDecided(Looks(3, 9))), tmp_path / "study")
        assert told(again)["lstm"][0] == "worse"
        assert told(again)["gru"] == told(answer)["gru"] == ("worse", 3)  # trained before


def test_arms_are_tuned_before_seeds_are_counted(
    load: Load, ground: Ground, tmp_path: Path
) -> None:
    tuning = Tuning((Knob("train.lr", (0.001, 0.002)),), extensions=0)
    shifts = {f"{arm} · lr {lr:g}": 0.0 for arm in SHIFTS for lr in (0.001, 0.002)}
    inquiry = asked(load, ground, UntilDecided(Looks(2, 4)), tuning)
    answer = conducted(inquiry, tmp_path / "study", {**SHIFTS, **shifts})
    kinds = [past.plan.kind for past in answer.rounds]
    assert kinds[:3] == ["match", "tune", "compare"]
    assert set(kinds[3:]) == {"compare"}
    chosen = answer.result["tuning"]["gru"]["chosen"][0]
    last = answer.rounds[-1].plan
    assert {run.config["train"]["lr"] for run in last.runs if run.arm == "gru"} == {chosen}
    assert answer.result["spent"]["gru"]["compare"]["runs"] == told(answer)["gru"][1]


@pytest.mark.parametrize("run", [2, 10])
def test_a_study_that_was_killed_goes_on_and_trains_nothing_twice(
    load: Load, ground: Ground, tmp_path: Path, run: int
) -> None:
    confirmation = UntilDecided(Looks(3, 6))
    whole = conducted(asked(load, ground, confirmation), tmp_path / "whole")
    murder, out = tmp_path / "murder", tmp_path / "killed"
    murder.write_text(str(run))
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.study import conftest, test_seeds_until_decided as t
ground = t.Ground(conftest.settle_config, lambda configs: [1000 / c.arch.d_model for c in configs])
inquiry = t.asked(conftest.load_config, ground, t.UntilDecided(t.Looks(3, 6)))
t.conduct_inquiry(inquiry, t.StudyFolder(Path({str(out)!r})), cores=2, workers=1, create=t.create,
    command=t.command_of(t.SHIFTS, Path({str(murder)!r})))
"""
    killed = subprocess.run([sys.executable, "-c", program], env=os.environ, check=False)
    assert killed.returncode == -9
    answer = conducted(asked(load, ground, confirmation), out)
    assert json.dumps(answer.result) == json.dumps(whole.result)
    trained = (out / "trained.txt").read_text().split()
    assert sorted(trained) == sorted(whole.runs), "each run was trained once"


def test_a_folder_keeps_its_looks_and_its_margin(
    load: Load, ground: Ground, tmp_path: Path
) -> None:
    conducted(asked(load, ground, UntilDecided(Looks(2, 3), 0.2)), tmp_path / "study")
    for other in (UntilDecided(Looks(2, 4), 0.2), UntilDecided(Looks(2, 3), 0.3)):
        with pytest.raises(UsageError, match="holds another study"):
            conducted(asked(load, ground, other), tmp_path / "study")


def test_what_is_to_come_is_told(load: Load, ground: Ground) -> None:
    inquiry = asked(load, ground, UntilDecided(Looks(3, 10)))
    matched = inquiry.next([], lambda digest: None)
    assert matched is not None
    (line,) = inquiry.outlook(matched)
    assert "3 seeds of each arm, then one more" in line
    assert "9 to 30 runs" in line
