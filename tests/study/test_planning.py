"""Plans: equal budgets, distinct names, shared runs, honest estimates."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from windtunnel.errors import StudyError, UsageError
from windtunnel.study import planning, starts
from windtunnel.study.plan import Plan, read_plan
from windtunnel.study.planning import (
    Ground,
    Settled,
    check_question,
    distinct_names,
    estimate,
    plan_compare,
)
from windtunnel.train.run_config import LoadedRun

Load = Callable[..., LoadedRun]
Settle = Callable[[LoadedRun], Settled]


def test_tokens_are_matched_by_steps(load: Load, ground: Ground) -> None:
    runs = [load("gpt2"), load("llama", "train.batch_size=8")]
    plan = plan_compare(runs, seeds=2, match="tokens", budget=10_000, ground=ground)
    assert [arm.steps for arm in plan.arms] == [78, 39]
    assert [arm.tokens for arm in plan.arms] == [78 * 4 * 32, 39 * 8 * 32]
    assert plan.arms[0].changes == ("train.steps: 50 → 78",)
    assert plan.arms[1].config["train"]["steps"] == 39
    assert [(run.arm, run.seed) for run in plan.runs] == [
        ("gpt2", 0), ("gpt2", 1), ("llama", 0), ("llama", 1),
    ]  # fmt: skip
    assert all(run.config["train"]["seed"] == run.seed for run in plan.runs)


def test_without_a_budget_the_first_arm_sets_it(load: Load, ground: Ground) -> None:
    plan = plan_compare([load("gpt2"), load("lstm", "train.steps=7")], seeds=1, ground=ground)
    assert plan.budget == 50 * 4 * 32
    assert [arm.steps for arm in plan.arms] == [50, 50]


def test_flops_are_matched_within_a_step(load: Load, ground: Ground) -> None:
    plan = plan_compare([load("gpt2"), load("lstm")], seeds=1, match="flops", ground=ground)
    first, second = plan.arms
    assert first.steps == 50
    step = second.flops_per_token * 4 * 32
    assert abs(second.flops - first.flops) <= step / 2


def test_seconds_are_matched_by_measured_speeds(load: Load, ground: Ground, settle: Settle) -> None:
    runs = [load("gpt2", "arch.d_model=128"), load("llama", "arch.d_model=64")]
    plan = plan_compare(runs, seeds=1, match="seconds", budget=10, ground=ground)
    assert [arm.steps for arm in plan.arms] == [78, 156]
    assert [arm.seconds for arm in plan.arms] == pytest.approx([9.984, 9.984])
    with pytest.raises(StudyError, match="needs measured speeds"):
        plan_compare(runs, seeds=1, match="seconds", budget=10, ground=Ground(settle))


@pytest.mark.parametrize("preset", ["llama", "lstm", "gru", "rnn", "gemma", "hyper-llama"])
def test_parameters_are_matched_within_one_per_cent(
    load: Load, ground: Ground, preset: str
) -> None:
    plan = plan_compare([load("gpt2"), load(preset)], seeds=1, match="params", ground=ground)
    first, second = plan.arms
    assert plan.budget == first.params
    assert abs(second.params / first.params - 1) <= 0.01
    assert second.changes
    (note,) = [note for note in plan.notes if preset in note]
    assert len(note) < 220, "the whole list stands in the plan"
    assert first.changes == ()


def test_the_slots_of_a_memory_make_up_what_its_width_cannot(load: Load, ground: Ground) -> None:
    coarse = load("memory-llama", "arch.layers[0].mixer.num_heads=32")
    plan = plan_compare([load("gpt2"), coarse], seeds=1, match="params", ground=ground)
    first, second = plan.arms
    assert abs(second.params / first.params - 1) <= 0.01
    assert any("mlp.num_slots: 256 →" in change for change in second.changes)


def test_a_parameter_budget_resizes_the_first_arm_too(load: Load, ground: Ground) -> None:
    runs = [load("gpt2"), load("lstm")]
    plan = plan_compare(runs, seeds=1, match="params", budget=300_000, ground=ground)
    assert all(abs(arm.params / 300_000 - 1) <= 0.01 for arm in plan.arms)


def test_parameters_that_no_width_has_are_an_error_with_the_nearest(
    load: Load, ground: Ground
) -> None:
    coarse = load("gpt2", "arch.layers[0].mlp=none", "arch.layers[0].mixer.num_heads=64")
    runs = [load("llama"), coarse]
    with pytest.raises(StudyError, match=r"gpt2: no width has .* d_model \d+ with .*--budget"):
        plan_compare(runs, seeds=1, match="params", ground=ground)


def test_heads_are_spoken_of_only_where_there_are_some(load: Load, ground: Ground) -> None:
    with pytest.raises(StudyError, match="no width has") as caught:
        plan_compare([load("lstm"), load("gru")], seeds=1, match="params", budget=1, ground=ground)
    assert "heads" not in str(caught.value)


def test_an_arm_that_does_not_fit_is_refused_before_speeds_are_measured(
    load: Load, settle: Settle
) -> None:
    def speeds(configs: object) -> list[float]:
        raise AssertionError("nothing is to be built")

    ground = Ground(settle, speeds, lambda train: 2**29)
    with pytest.raises(StudyError, match=r"large: training it .* GiB of memory, and 0\.5 GiB are"):
        plan_compare(
            [load("lstm"), load("gpt2", "arch.name=large", "arch.d_model=1024")],
            seeds=1, ground=ground,
        )  # fmt: skip


def test_names_are_distinct(load: Load) -> None:
    same = [load("gpt2", source="a/base.yaml"), load("gpt2", source="a/wide.yaml")]
    assert distinct_names(same) == ["base", "wide"]
    twice = [load("gpt2", source="a/gpt2.yaml"), load("gpt2", source="b/gpt2.yaml")]
    assert distinct_names([*twice, load("lstm")]) == ["gpt2", "gpt2-2", "lstm"]


def test_one_architecture_under_two_names_is_trained_once(load: Load, ground: Ground) -> None:
    runs = [load("gpt2"), load("gpt2", "arch.name=other")]
    plan = plan_compare(runs, seeds=3, ground=ground)
    assert len(plan.runs) == 6
    assert len(plan.keys) == 3
    assert plan.keys_of("gpt2") == plan.keys_of("other")
    assert any("gpt2 and other are the same" in note for note in plan.notes)


def test_the_digest_is_that_of_the_question(load: Load, ground: Ground, settle: Settle) -> None:
    def made(
        budget: float | None = 1e6, seeds: int = 2, slow: bool = False, lr: str = "1e-3"
    ) -> Plan:
        other = Ground(settle, lambda configs: [1.0] * len(configs)) if slow else ground
        runs = [load("gpt2"), load("lstm", f"train.lr={lr}")]
        return plan_compare(runs, seeds=seeds, budget=budget, ground=other)

    plan = made()
    assert made(slow=True).digest == plan.digest
    others = {made(budget=2e6).digest, made(seeds=3).digest, made(lr="2e-3").digest}
    assert len(others | {plan.digest}) == 4
    recalled = replace(plan, question="as it was")
    runs = [load("gpt2"), load("lstm")]
    known = {plan.digest: recalled}
    assert plan_compare(runs, seeds=2, budget=1e6, ground=ground, recall=known.get) is recalled


def test_a_plan_survives_json(load: Load, ground: Ground) -> None:
    plan = plan_compare([load("gpt2"), load("lstm")], seeds=2, ground=ground)
    assert read_plan(json.loads(json.dumps(plan.to_dict()))).to_dict() == plan.to_dict()
    with pytest.raises(StudyError, match="damaged"):
        read_plan({"format": 1})


def test_what_differs_from_the_first_arm_is_listed(load: Load, ground: Ground) -> None:
    runs = [load("gpt2"), load("gpt2", "arch.name=wide", "arch.d_model=256", "train.lr=0.01")]
    plan = plan_compare(runs, seeds=1, ground=ground)
    assert plan.arms[0].diff == ()
    assert plan.arms[1].diff == (("arch.d_model", 128, 256), ("train.lr", 0.001, 0.01))


def test_threads_are_part_of_the_plan(load: Load, ground: Ground) -> None:
    plan = plan_compare([load("gpt2"), load("lstm", "train.threads=2")], seeds=1, ground=ground)
    assert [arm.config["train"]["threads"] for arm in plan.arms] == [1, 2]
    assert estimate(plan, cores=8).threads == 2
    assert estimate(plan, cores=3).workers == 1


def test_tokenizers_may_differ_but_texts_may_not(load: Load, ground: Ground) -> None:
    first = load("gpt2")
    plan = plan_compare([first, load("lstm", "data.tokenizer=bytes")], seeds=1, ground=ground)
    assert plan.metric == "bits_per_byte"
    assert "bits per byte" in plan.notes[0]
    assert {run.config["train"]["eval_tokens"] for run in plan.runs} == {None}
    assert "whole validation split" in plan.notes[1]
    assert "not equally much text" in plan.notes[2]
    with pytest.raises(UsageError, match=r"lstm: data\.validation differs from that of gpt2"):
        plan_compare([first, load("lstm", "data.validation=0.2")], seeds=1, ground=ground)


def test_what_makes_losses_unlike_is_noted(load: Load, ground: Ground) -> None:
    plan = plan_compare([load("gpt2"), load("lstm", "train.seq_len=16")], seeds=1, ground=ground)
    assert plan.notes[0] == (
        "train.seq_len differs (gpt2 32, lstm 16): the losses are not measured alike."
    )


@pytest.mark.parametrize(
    ("seeds", "budget", "message"),
    [
        (0, None, "--seeds must be between"),
        ((1, 1), None, "differ"),
        ((-1, 2), None, "not be negative"),
        (1, 0.0, "--budget must be above 0"),
        (1, float("nan"), "--budget must be above 0"),
        (1, float("inf"), "--budget must be above 0"),
    ],
)
def test_unfit_seeds_and_budgets_are_refused(
    load: Load, ground: Ground, seeds: int | tuple[int, ...], budget: float | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plan_compare([load("gpt2"), load("lstm")], seeds=seeds, budget=budget, ground=ground)


def test_usage_is_checked_without_data() -> None:
    assert check_question(2, seeds=2, budget=None) == (0, 1)
    with pytest.raises(UsageError, match="--seeds must be between"):
        check_question(2, seeds=1001, budget=None)


def test_one_config_is_no_comparison(load: Load, ground: Ground) -> None:
    with pytest.raises(UsageError, match="at least 2 configs, not 1"):
        plan_compare([load("gpt2")], seeds=1, ground=ground)


def test_a_budget_too_small_for_the_schedule_is_refused(load: Load, ground: Ground) -> None:
    runs = [load("gpt2"), load("lstm", "train.schedule.warmup=20")]
    with pytest.raises(UsageError, match=r"lstm: the budget gives 8 steps, but train.schedule"):
        plan_compare(runs, seeds=1, budget=1000, ground=ground)


def test_runs_on_gpus_are_as_many_as_there_are_unless_more_are_asked_for(
    load: Load, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_compare([load("gpt2"), load("lstm")], seeds=4, ground=ground)
    assert estimate(plan, cores=8, gpus=2).workers == 8  # they are on the CPU
    monkeypatch.setattr(planning, "shares_gpus", lambda device: True)
    assert estimate(plan, cores=8, gpus=2).workers == 2
    assert estimate(plan, cores=8, gpus=2, workers=6).workers == 6
    assert estimate(plan, cores=8).workers == 8


def test_the_start_of_every_worker_is_counted_as_it_was_measured(
    load: Load, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts, "_measured", [])
    before = plan_compare([load("gpt2"), load("lstm")], seeds=3, ground=ground)
    starts.keep_start(20.0)
    after = plan_compare([load("gpt2"), load("lstm")], seeds=3, ground=ground)
    for usual, slow in zip(before.arms, after.arms, strict=True):
        assert usual.run_seconds is not None
        assert slow.run_seconds == pytest.approx(usual.run_seconds - starts.START_SECONDS + 20)
    assert (estimate(after, cores=2).seconds or 0) > 3 * 20
    assert read_plan(json.loads(json.dumps(after.to_dict()))) == after


def test_the_estimate_counts_what_is_left(load: Load, ground: Ground) -> None:
    plan = plan_compare([load("gpt2"), load("lstm")], seeds=2, ground=ground)
    whole = estimate(plan, cores=2)
    assert (whole.runs, whole.reused, whole.workers) == (4, 0, 2)
    seconds = [arm.run_seconds or 0.0 for arm in plan.arms]
    assert all(s > (arm.seconds or 0.0) for s, arm in zip(seconds, plan.arms, strict=True))
    assert whole.seconds == pytest.approx(2 * max(seconds))  # twice each, on two workers
    assert estimate(plan, cores=1).seconds == pytest.approx(2 * sum(seconds))
    left = estimate(plan, finished=plan.keys[:3], cores=2)
    assert (left.reused, left.workers) == (3, 1)
    largest = max(arm.memory_bytes for arm in plan.arms)
    assert whole.memory_bytes == largest
    assert estimate(plan, cores=2, memory_bytes=largest).workers == 1
    assert estimate(plan, cores=2, workers=4).workers == 4
    assert estimate(plan, finished=plan.keys, cores=2).seconds == 0.0
    with pytest.raises(UsageError, match="--workers"):
        estimate(plan, cores=2, workers=0)
