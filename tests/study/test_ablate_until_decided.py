"""``ablate --until-decided`` from plans to ``study.json``, with workers whose loss is known."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.study.conftest import settle_config
from tests.study.test_ablate import ACTIVATION, design
from tests.study.test_judge import judged, record
from tests.study.test_seeds_until_decided import command_of, create

from windtunnel.errors import UsageError
from windtunnel.study import ablate, verdicts
from windtunnel.study.ablate import Ablating, ablation, plan_ablation
from windtunnel.study.arms import Ground
from windtunnel.study.compare import judge
from windtunnel.study.comparison import FixedSeeds
from windtunnel.study.contrasts import levels_without_effect
from windtunnel.study.folder import StudyFolder
from windtunnel.study.rounds import Answer, conduct_inquiry
from windtunnel.study.sequential import Looks
from windtunnel.study.tune import Knob, Tuning
from windtunnel.study.until import UntilEffectsDecided, planned_looks

RATE = "train.lr=3e-3"
FAR = 0.5  # in nats; the noise of a run is 0.01
ONE = {"gpt2": 0.0, "activation=relu": FAR, "lr=0.003": 0.0}


def asked(  # type: ignore[no-untyped-def]
    kind: Any,
    ground: Ground,
    looks: Looks = Looks(3, 6),  # noqa: B008
    tuning: Tuning | None = None,
    margin: float | None = None,
):
    of = design(kind, f"{ACTIVATION}=[relu]", RATE)
    confirmation = UntilEffectsDecided(of, looks, margin)
    return Ablating(of, match="tokens", budget=2000, ground=ground, confirmation=confirmation,
                    tuning=tuning)  # fmt: skip


def conducted(inquiry: Ablating, out: Path, shifts: dict[str, Any], workers: int = 2) -> Answer:
    return conduct_inquiry(
        inquiry, StudyFolder(out), cores=2, workers=workers, create=create,
        command=command_of(shifts),
    )  # fmt: skip


def effects(answer: Answer) -> dict[str, tuple[str, int]]:
    found = answer.result["ablation"]
    return {e["name"]: (e["verdict"], e["seeds"])
            for e in (*found["effects"], *found["interactions"])}  # fmt: skip


def test_a_change_that_is_decided_stops_and_the_others_go_on(
    ground: Ground, tmp_path: Path
) -> None:
    answer = conducted(asked("one", ground), tmp_path / "study", ONE)
    found = effects(answer)
    verdict, seeds = found["activation: relu against gelu_tanh"]
    assert (verdict, seeds < 6) == ("worse", True)
    assert found["lr: 0.003 against 0.001"] == ("undecided", 6)
    arms = {arm["name"]: arm["seeds"] for arm in answer.result["arms"]}
    assert arms == {"gpt2": 6, "activation=relu": seeds, "lr=0.003": 6}
    assert {p["arm"]: p["seeds"] for p in answer.result["ablation"]["points"]} == arms
    assert len(answer.runs) == sum(arms.values())
    told = answer.result["ablation"]
    assert told["looks"] == [3, 6]
    assert "With 6 seeds, a true effect below" in told["conclusion"]
    rounds = [past.plan for past in answer.rounds]
    assert [plan.kind for plan in rounds][:2] == ["match", "compare"]
    assert [arm.name for arm in rounds[-1].arms] == ["gpt2", "lr=0.003"]
    assert answer.result["spent"]["activation=relu"]["compare"]["runs"] == seeds
    json.dumps(answer.to_dict(), allow_nan=False)


@pytest.mark.parametrize("kind", ["grid", "both", "leave_one_out"])
def test_every_design_adds_seeds_where_something_is_open(
    ground: Ground, tmp_path: Path, kind: str
) -> None:
    inquiry = asked(kind, ground)
    matched = inquiry.next([], lambda digest: None)
    assert matched is not None
    names = [arm.name for arm in matched.arms]
    shifts = {name: FAR * ("relu" in name) - 0.2 * place**2 for place, name in enumerate(names)}
    answer = conducted(inquiry, tmp_path / kind, shifts)
    assert all(verdict != "undecided" for verdict, _ in effects(answer).values())
    assert max(arm["seeds"] for arm in answer.result["arms"]) < 6
    (line,) = inquiry.outlook(matched)
    assert f"up to 6: {3 * len(names)} to {6 * len(names)} runs" in line


def test_a_grid_ends_early_where_all_else_is_less_than_a_margin(
    ground: Ground, tmp_path: Path
) -> None:
    inquiry = asked("grid", ground, margin=0.2)
    matched = inquiry.next([], lambda digest: None)
    assert matched is not None
    shifts = {arm.name: FAR * ("relu" in arm.name) for arm in matched.arms}
    answer = conducted(inquiry, tmp_path / "study", shifts)
    assert [verdict for verdict, _ in effects(answer).values()] == [
        "worse", "equivalent", "additive"
    ]  # fmt: skip
    assert max(arm["seeds"] for arm in answer.result["arms"]) < 6
    told = answer.result["ablation"]
    assert told["margin"] == answer.result["margin"] == 0.2
    said = told["conclusion"]
    assert "lr: 0.003 against 0.001 makes no difference that matters: " in said
    assert "1 of 1 interactions are decided. Additive (within ±0.2 nats/token): 1 of 1" in said
    assert "Undecided" not in said
    assert "probably have been missed" not in said
    without = conducted(asked("grid", ground), tmp_path / "without", shifts)
    assert {arm["seeds"] for arm in without.result["arms"]} == {6}


def test_answers_depend_neither_on_workers_nor_on_an_end_before_the_end(
    ground: Ground, tmp_path: Path
) -> None:
    one, three = (
        conducted(asked("one", ground), tmp_path / str(n), ONE, workers=n) for n in (1, 3)
    )
    assert json.dumps(one.result) == json.dumps(three.result)
    murder, out = tmp_path / "murder", tmp_path / "killed"
    murder.write_text("11")
    (tmp_path / "package").mkdir()
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.study import conftest, test_ablate_until_decided as t
conftest.sources.PACKAGE = Path({str(tmp_path / "package")!r})  # whoever edits it stops nothing
inquiry = t.asked("one", t.Ground(conftest.settle_config,
    lambda configs: [1000 / c.arch.d_model for c in configs]))
t.conduct_inquiry(inquiry, t.StudyFolder(Path({str(out)!r})), cores=2, workers=1, create=t.create,
    command=t.command_of(t.ONE, Path({str(murder)!r})))
"""
    killed = subprocess.run([sys.executable, "-c", program], env=os.environ, check=False)
    assert killed.returncode == -9
    again = conducted(asked("one", ground), out, ONE)
    assert json.dumps(again.result) == json.dumps(one.result)
    assert sorted((out / "trained.txt").read_text().split()) == sorted(one.runs)


@pytest.mark.parametrize("shift", ["diverges", None])
def test_a_run_without_a_result_stops_its_arm(
    ground: Ground, tmp_path: Path, shift: str | None
) -> None:
    answer = conducted(asked("one", ground), tmp_path / "study", {**ONE, "activation=relu": shift})
    expected = "worse" if shift else "undecided"
    assert effects(answer)["activation: relu against gelu_tanh"] == (expected, 3)
    assert effects(answer)["lr: 0.003 against 0.001"] == ("undecided", 6)
    if shift is None:  # the same command tries again, and goes on
        again = conducted(asked("one", ground), tmp_path / "study", ONE)
        assert effects(again)["activation: relu against gelu_tanh"][0] == "worse"


def test_points_are_tuned_before_seeds_are_counted(ground: Ground, tmp_path: Path) -> None:
    tuning = Tuning((Knob("train.weight_decay", (0.0, 0.1)),), extensions=0)
    tuned = {f"{arm} · weight_decay {x:g}": 0.0 for arm in ONE for x in (0.0, 0.1)}
    inquiry = asked("one", ground, Looks(2, 4), tuning)
    answer = conducted(inquiry, tmp_path / "study", {**ONE, **tuned})
    assert [past.plan.kind for past in answer.rounds][:3] == ["match", "tune", "compare"]
    assert set(answer.result["tuning"]) == set(ONE)
    assert effects(answer)["lr: 0.003 against 0.001"] == ("undecided", 4)


def test_a_folder_keeps_its_looks_and_its_design(ground: Ground, tmp_path: Path) -> None:
    conducted(asked("one", ground, Looks(2, 3)), tmp_path / "study", ONE)
    for other in (
        asked("one", ground, Looks(2, 4)), asked("both", ground, Looks(2, 3)),
        asked("one", ground, Looks(2, 3), margin=0.1),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="holds another study"):
            conducted(other, tmp_path / "study", ONE)
    of = design("one", f"{ACTIVATION}=[relu]", RATE)
    fixed = Ablating(of, match="tokens", budget=2000, ground=ground,
                     confirmation=FixedSeeds((0, 1, 2)))  # fmt: skip
    assert fixed.digest != asked("one", ground, Looks(3, 3)).digest


def test_a_margin_is_part_of_the_question_only_where_there_is_one(ground: Ground) -> None:
    """So that folders from before there were margins are found again."""
    of = design("one", f"{ACTIVATION}=[relu]", RATE)
    assert UntilEffectsDecided(of, Looks(3, 6)).asked() == {"until_effects_decided": [3, 6, 2.0]}
    assert FixedSeeds((0, 1)).asked() == {"seeds": [0, 1]}
    digests = {asked("one", ground, margin=m).digest for m in (None, 0.1, 0.2)}
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(None, None, (3, 10)), (None, 5, (3, 5)), (None, 2, (2, 2)), (12, None, (12, 12)),
     (2, 4, (2, 4))],
)  # fmt: skip
def test_looks_that_are_asked_for(first, last, expected) -> None:
    looks = planned_looks(seeds=None, first=first, last=last)
    assert (looks.first, looks.last) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 3, "first": None, "last": None}, "not --seeds"),
        ({"seeds": None, "first": 1, "last": None}, "at least 2 seeds, not 1"),
        ({"seeds": None, "first": 0, "last": 0}, "not 0"),
        ({"seeds": None, "first": -1, "last": -1}, "not -1"),
        ({"seeds": None, "first": None, "last": 1}, "before the first"),
        ({"seeds": None, "first": 6, "last": 4}, "before the first"),
        ({"seeds": None, "first": None, "last": 101}, "at most 100"),
    ],
)
def test_unfit_looks_are_told(options, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planned_looks(**options)


def told_of(
    losses: dict[str, list[float | None]], kind: Any = "one", margin: float | None = None
) -> dict[str, Any]:
    """What an ablation says of losses by arm; None is a run that diverged."""
    of = design(kind, f"{ACTIVATION}=[relu]", RATE)
    plan = plan_ablation(of, seeds=3, ground=Ground(settle_config, None))
    records = {
        run.key: record(loss, "finished" if loss is not None else "diverged")
        for run in plan.runs
        for loss in [losses[run.arm][run.seed]]
    }
    return ablation(of, judge(plan, records, margin=margin))


SMALL = {"gpt2": [3.0, 3.01, 2.99], "activation=relu": [3.0327, 3.06, 3.0573],
         "lr=0.003": [3.5, 3.511, 3.4905]}  # fmt: skip


def test_a_difference_that_was_seen_with_luck_is_said_to_be_over_estimated() -> None:
    told = told_of(SMALL)
    activation, rate = told["effects"]
    assert rate["factors"] == ["lr"]
    assert [e["verdict"] for e in told["effects"]] == ["worse", "worse"]
    assert 0 < activation["delta"]["mean"] < activation["mde_corrected"]
    assert rate["delta"]["mean"] > rate["mde_corrected"]
    (said,) = verdicts.overestimated(["activation: relu against gelu_tanh"])
    assert said in told["conclusion"]
    assert ablate.overestimated is verdicts.overestimated
    compared = judged(dict(SMALL))  # type: ignore[arg-type]
    (said,) = verdicts.overestimated(["activation=relu"])
    assert said in compared.conclusion


def test_what_is_less_than_a_margin_is_not_said_to_be_over_estimated() -> None:
    told = told_of(SMALL, margin=2.0)
    activation, rate = told["effects"]
    assert [e["verdict"] for e in told["effects"]] == ["equivalent", "equivalent"]
    assert 0 < activation["delta"]["mean"] < activation["mde_corrected"]
    assert rate["reason"].startswith("worse, but by less than the margin")
    assert "over-estimated" not in told["conclusion"]


def test_a_verdict_of_divergence_is_no_estimate_and_does_not_contradict_itself() -> None:
    grid = {
        "activation=gelu_tanh, lr=0.001": [3.0, 3.01, 2.99],
        "activation=relu, lr=0.001": [2.9502, 2.965, 2.938],
        "activation=gelu_tanh, lr=0.003": [3.0, 3.02, 2.98],
        "activation=relu, lr=0.003": [2.9, None, 2.9],
    }
    told = told_of(grid, "grid")
    activation = told["effects"][0]
    assert activation["verdict"] == "worse"
    assert activation["by_divergence"]
    assert activation["p_holm"] < 0.05
    assert activation["delta"]["mean"] < 0
    words = "worse (diverged at 1 of 2 settings where the other level did not; at the others -0.0"
    assert words in told["conclusion"]
    assert "worse, by -" not in told["conclusion"]
    assert "over-estimated" not in told["conclusion"]


def test_a_level_without_a_contrast_is_named_in_the_conclusion() -> None:
    of = design("grid", f"{ACTIVATION}=[relu, gelu_tanh]", "train.lr=[1e-3, 3e-3]")
    kept = [place for place, point in enumerate(of.points) if point != (0, 1)][:2]
    points = tuple(of.points[place] for place in kept)
    of = replace(of, points=points, runs=tuple(of.runs[place] for place in kept))
    plan = plan_ablation(of, seeds=2, ground=Ground(settle_config, None))
    records = {run.key: record(3 + 0.1 * place) for place, run in enumerate(plan.runs)}
    told = ablation(of, judge(plan, records))["conclusion"]
    (name,) = levels_without_effect(of)
    assert f"No effect can be told of {name}: of the points that are left" in told


def test_lists_of_names_that_have_commas_and_spans_that_are_one_number() -> None:
    (said,) = verdicts.overestimated(["a: 1 against 2", "b: back to 0, all else changed", "c"])
    assert "of a: 1 against 2; b: back to 0, all else changed and c are smaller" in said
    assert verdicts.effects_span([0.1001, 0.1002]) == "0.1"
    assert verdicts.seeds_span([1, 1]) == "1 seed"


def test_the_lowest_mean_is_that_of_each_points_own_seeds() -> None:
    of = design("one", f"{ACTIVATION}=[relu]", RATE)
    found = judged({"gpt2": [3.0] * 5, "lr=0.003": [2.9] * 5, "activation=relu": [2.95] * 3})
    assert ablation(of, found)["lowest"] == "lr=0.003"
