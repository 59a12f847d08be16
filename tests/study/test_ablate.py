"""From a design to a plan, from verdicts to what an ablation says."""

import json
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from tests.study.test_judge import record

from windtunnel.config import parse_document
from windtunnel.errors import ConfigError, UsageError
from windtunnel.report.effects import read_ablation
from windtunnel.study.ablate import Ablating, ablation, flat_results, plan_ablation
from windtunnel.study.arms import Ground
from windtunnel.study.compare import judge
from windtunnel.study.comparison import FixedSeeds
from windtunnel.study.design import Design, Kind, Source, make_design
from windtunnel.study.families import family_grid, family_run
from windtunnel.study.plan import Plan, read_plan
from windtunnel.study.rounds import Round
from windtunnel.study.speeds import sparing
from windtunnel.study.tune import Tuning, parse_knob
from windtunnel.study.vary import parse_factors
from windtunnel.train.run_config import LoadedRun, RunConfig

ACTIVATION = "arch.layers[*].mlp.activation"
Load = Callable[..., LoadedRun]


def design(kind: Kind, *vary: str) -> Design:
    tree = {
        "arch": {"preset": "gpt2", "d_model": 32},
        "data": {"tokenizer": {"type": "bpe", "vocab_size": 512}},
        "train": {"steps": 50, "batch_size": 4, "seq_len": 32},
    }
    return make_design(Source(parse_document(json.dumps(tree), "run.yaml")), parse_factors(vary),
                       kind)  # fmt: skip


def said(of: Design, plan: Plan, loss: Callable[[dict], float]) -> dict:
    """What an ablation says of losses with a little noise."""
    noise = np.random.default_rng(0)
    by_arm = dict(zip([arm.name for arm in plan.arms], of.points, strict=True))
    records = {
        run.key: record(loss(of.params(by_arm[run.arm])) + float(noise.normal(0, 1e-3)))
        for run in plan.runs
    }
    return {"tree": ablation(of, judge(plan, records)), "verdicts": judge(plan, records)}


def test_the_plan_has_an_arm_for_each_point(ground: Ground) -> None:
    of = design("grid", f"{ACTIVATION}=[relu, gelu_tanh]", "arch.d_model=[32, 64]")
    plan = plan_ablation(of, seeds=2, budget=10_000, ground=ground)
    assert plan.kind == "ablate"
    assert plan.question == "ablation, grid: activation (2 levels), d_model (2 levels)"
    assert [arm.name for arm in plan.arms] == [run.name for run in of.runs]
    assert len(plan.runs) == 8
    assert {arm.tokens for arm in plan.arms} == {78 * 4 * 32}
    assert read_plan(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_plan_made_before_is_kept_and_other_questions_are_others(ground: Ground) -> None:
    asked = []
    one = design("one", f"{ACTIVATION}=[relu]", "train.lr=3e-3")
    plan = plan_ablation(one, seeds=2, ground=ground, recall=lambda d: asked.append(d))
    again = plan_ablation(one, seeds=2, ground=ground, recall=lambda d: plan)
    assert again is plan
    assert asked == [plan.digest]
    both = design("both", f"{ACTIVATION}=[relu]", "train.lr=3e-3")
    assert plan_ablation(both, seeds=2, ground=ground).digest != plan.digest
    assert plan_ablation(one, seeds=3, ground=ground).digest != plan.digest


def test_what_matching_undoes_is_an_error(ground: Ground) -> None:
    of = design("one", "train.steps=[60, 70]", f"{ACTIVATION}=[relu]")
    with pytest.raises(ConfigError) as caught:
        plan_ablation(of, seeds=1, match="tokens", ground=ground)
    assert str(caught.value).splitlines() == [
        "--vary: steps: 60 against 50: has no effect: with tokens matched these are the same runs",
        "--vary: steps: 70 against 50: has no effect: with tokens matched these are the same runs",
    ]


def test_one_at_a_time_says_what_compare_says(ground: Ground) -> None:
    of = design("one", f"{ACTIVATION}=[relu, silu]", "train.lr=3e-3")
    plan = plan_ablation(of, seeds=3, ground=ground)
    found = said(of, plan, lambda p: 3 - 0.1 * (p["activation"] == "silu") + 0.001 * p["lr"])
    for effect, arm in zip(found["tree"]["effects"], found["verdicts"].arms[1:], strict=True):
        assert arm.delta is not None
        assert effect["delta"] == pytest.approx(vars(arm.delta))
        assert (effect["p_holm"], effect["verdict"]) == (arm.p_holm, arm.verdict)
        assert (effect["mde"], effect["mde_corrected"]) == (arm.mde, arm.mde_corrected)


def test_one_at_a_time_with_a_margin_says_what_compare_says(ground: Ground) -> None:
    of = design("one", f"{ACTIVATION}=[relu, silu]", "train.lr=3e-3")
    plan = plan_ablation(of, seeds=4, ground=ground)
    noise = np.random.default_rng(1)
    size = {"relu": 0.01, "silu": -0.1}
    by_arm = dict(zip([arm.name for arm in plan.arms], of.points, strict=True))
    records = {}
    for run in plan.runs:
        shift = size.get(of.params(by_arm[run.arm])["activation"], 0.0)
        records[run.key] = record(3 + shift + float(noise.normal(0, 1e-3)))
    verdicts = judge(plan, records, margin=0.02)
    tree = ablation(of, verdicts)
    assert tree["margin"] == 0.02
    for effect, arm in zip(tree["effects"], verdicts.arms[1:], strict=True):
        assert arm.delta is not None
        assert effect["delta"] == pytest.approx(vars(arm.delta))
        assert (effect["p_holm"], effect["verdict"]) == (arm.p_holm, arm.verdict)
        assert effect["p_equivalence"] == arm.p_equivalence
        assert effect["mde_corrected"] == arm.mde_corrected
    relu, silu, rate = tree["effects"]
    assert [e["verdict"] for e in (relu, silu, rate)] == ["equivalent", "better", "equivalent"]
    assert relu["reason"].startswith("worse, but by less than the margin")
    said = tree["conclusion"]
    assert "activation: relu against gelu_tanh makes no difference that matters: +0.0" in said
    assert "lr: 0.003 against 0.001 makes no difference that matters: " in said
    assert "(the interval lies within ±0.02)" in said
    assert "Undecided" not in said
    plain = ablation(of, judge(plan, records))
    assert plain["margin"] is None
    assert [e["p_holm"] for e in plain["effects"]] == [e["p_holm"] for e in tree["effects"]]
    assert [e["verdict"] for e in plain["effects"]] == ["worse", "better", "undecided"]


def test_a_grid_finds_its_interaction_and_says_so(ground: Ground) -> None:
    of = design("grid", f"{ACTIVATION}=[relu, gelu_tanh]", "arch.d_model=[32, 64]", "train.lr=1e-2")
    plan = plan_ablation(of, seeds=4, ground=ground)

    def loss(params: dict) -> float:
        wide, relu = params["d_model"] == 64, params["activation"] == "relu"
        return 3 - 0.2 * wide - 0.1 * (wide and relu)

    found = said(of, plan, loss)
    tree = found["tree"]
    json.dumps(tree, allow_nan=False)
    effects = {e["name"]: e for e in tree["effects"]}
    assert effects["d_model: 64 against 32"]["verdict"] == "better"
    assert effects["d_model: 64 against 32"]["delta"]["mean"] == pytest.approx(-0.25, abs=0.005)
    assert effects["d_model: 64 against 32"]["params"] > 0.5
    assert effects["lr: 0.01 against 0.001"]["verdict"] == "undecided"
    together = {e["name"]: e["verdict"] for e in tree["interactions"]}
    assert together["activation relu × d_model 64"] == "better together"
    assert "d_model: 64 against 32: better, by -0.25" in tree["conclusion"]
    assert "1 of 3 interactions are decided" in tree["conclusion"]
    assert "confirm it on fresh seeds" in tree["conclusion"]
    assert tree["lowest"] is not None
    assert "activation=relu, d_model=64" in tree["lowest"]
    assert read_ablation(json.loads(json.dumps(tree))).points == 8

    rows = flat_results(of, found["verdicts"])
    assert len(rows) == 8
    first = rows[0]
    assert first["params"] == {"activation": "gelu_tanh", "d_model": 32, "lr": 1e-3}
    assert first["metrics"]["perplexity"] == math.exp(first["metrics"]["loss"])


def test_a_grid_of_243_plans_fast_and_measures_few(ground: Ground) -> None:
    measured: list[RunConfig] = []

    def measure(configs: Sequence[RunConfig]) -> list[float]:
        measured.extend(configs)
        return [1000 / config.arch.d_model for config in configs]

    heard: list[str] = []
    of = make_design(Source(family_run("gpt", "small")), family_grid("gpt"), "grid")
    began = time.perf_counter()
    frugal = Ground(ground.settle, sparing(measure, told=heard.append))
    plan = plan_ablation(of, seeds=1, ground=frugal)
    assert time.perf_counter() - began < 30
    assert len(plan.arms) == 243
    assert len(measured) == 8
    assert heard == ["speeds: 8 of 27 shapes measured, the others read off between them by their "
                     "FLOPs"]  # fmt: skip
    speeds = {arm.config["arch"]["d_model"]: [] for arm in plan.arms}
    for arm in plan.arms:
        assert arm.steps_per_second is not None
        speeds[arm.config["arch"]["d_model"]].append(arm.steps_per_second)
    assert all(1000 / 768 <= speed <= 1000 / 256 for of in speeds.values() for speed in of)


def test_shapes_are_measured_once_and_kinds_apart(load: Load) -> None:
    asked: list[str] = []

    def measure(configs: Sequence[RunConfig]) -> list[float]:
        asked.extend(config.arch.name for config in configs)
        return [100 / config.arch.d_model for config in configs]

    configs = [
        load("gpt2", "arch.name=a").config,
        load("gpt2", "arch.name=b", "train.lr=1e-4", "train.seed=3", "train.steps=60").config,
        load("gpt2", "arch.name=c", "arch.layers[*].dropout=0.2").config,
        load("gpt2", "arch.name=d", "arch.layers[*].dropout=0.3").config,
        load("gru", "arch.name=e").config,
    ]
    found = sparing(measure)(configs)
    assert asked == ["a", "c", "e"]
    assert found == pytest.approx([100 / c.arch.d_model for c in configs])


def test_speeds_between_are_read_off_by_flops(load: Load) -> None:
    widths = [32 * i for i in range(1, 11)]
    configs = [load("gru", f"arch.d_model={width}", f"arch.name=w{width}").config
               for width in widths]  # fmt: skip

    def measure(chosen: Sequence[RunConfig]) -> list[float]:
        assert [c.arch.d_model for c in (chosen[0], chosen[-1])] == [32, 320]
        assert len(chosen) == 4
        return [float(1e6 / c.arch.d_model**2) for c in chosen]

    found = sparing(measure, most=4)(configs)
    assert found == sorted(found, reverse=True)
    for width, speed in zip(widths, found, strict=True):
        assert speed == pytest.approx(1e6 / width**2, rel=0.15)


def test_points_are_tuned_before_they_are_compared(ground: Ground) -> None:
    of = design("one", f"{ACTIVATION}=[relu]")
    inquiry = Ablating(
        of, match="tokens", budget=10_000, ground=ground, confirmation=FixedSeeds((0, 1, 2)),
        tuning=Tuning((parse_knob("train.lr=[1e-3, 2e-3, 4e-3]"),), extensions=0),
    )  # fmt: skip
    past: list[Round] = []
    while (plan := inquiry.next(past, lambda digest: None)) is not None:
        records = {}
        for run in plan.runs:
            rate = run.config["train"]["lr"]
            relu = run.config["arch"]["layers"][0]["mlp"]["activation"] == "relu"
            loss = 3 - 0.1 * relu + abs(math.log(rate / (2e-3))) + 1e-3 * (run.seed % 3) * relu
            records[run.key] = record(loss + 1e-3 * (run.seed % 3) ** 2)
        past.append(Round(plan, records))
    assert [r.plan.kind for r in past] == ["match", "tune", "compare"]
    assert {arm.config["train"]["lr"] for arm in past[-1].plan.arms} == {2e-3}
    result = inquiry.result(past)
    (effect,) = result["ablation"]["effects"]
    assert effect["delta"]["mean"] == pytest.approx(-0.1 + 1e-3)
    assert effect["verdict"] == "better"
    assert set(result["tuning"]) == {"gpt2", "activation=relu"}


def test_what_is_tuned_is_not_varied(ground: Ground) -> None:
    of = design("one", "train.lr=[2e-3]")
    with pytest.raises(UsageError, match="is varied too"):
        Ablating(of, match="tokens", budget=None, ground=ground, confirmation=FixedSeeds((0,)),
                 tuning=Tuning((parse_knob("train.lr"),)))  # fmt: skip
