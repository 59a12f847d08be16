"""Verdicts from records: pure, so every rule is shown on made-up losses."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.errors import StudyError
from windtunnel.report.verdicts import read_verdicts
from windtunnel.study.compare import Record, Verdicts, judge
from windtunnel.study.plan import Arm, Metric, Plan, PlannedRun
from windtunnel.study.sequential import Looks

Losses = Sequence[float | None]
BYTES_PER_TOKEN = 3.0


def make_plan(
    names: Sequence[str],
    seeds: int,
    *,
    shared: Sequence[str] = (),
    metric: Metric = "loss",
    counts: Mapping[str, int] | None = None,
) -> Plan:
    """A plan of made-up arms; ``counts`` are the seeds of arms that have fewer."""
    arms = tuple(
        Arm(
            name=name, source=f"{name}.yaml", config={}, arch_digest=name, params=1000 + place,
            steps=10, tokens=1000, flops_per_token=6000.0 + 600 * place, memory_bytes=10**6,
            steps_per_second=None, diff=(), changes=(),
        )
        for place, name in enumerate(names)
    )  # fmt: skip
    runs = tuple(
        PlannedRun(arm=n, seed=s, key=f"{names[0] if n in shared else n}-{s}", config={})
        for n in names
        for s in range((counts or {}).get(n, seeds))
    )
    return Plan(
        kind="compare", question="", digest="", arms=arms, runs=runs, seeds=tuple(range(seeds)),
        match="tokens", budget=1000.0, metric=metric, notes=("A note.",),
    )  # fmt: skip


def record(loss: float | None, status: str = "finished", seconds: float = 2.0) -> Record:
    bits = None if loss is None else loss / math.log(2) / BYTES_PER_TOKEN
    return {
        "status": status, "final": {"loss": loss, "bits_per_byte": bits}, "train_seconds": seconds,
        "tokens_per_second": 500.0, "peak_memory_bytes": 2_000_000, "reason": "ran out of luck",
    }  # fmt: skip


def judged(
    losses: Mapping[str, Sequence[float | str | None]],
    metric: Metric = "loss",
    *,
    looks: Looks | None = None,
    margin: float | None = None,
) -> Verdicts:
    """Verdicts of made-up losses by arm; a text stands for a run's status."""
    counts = {name: len(values) for name, values in losses.items()}
    records = {
        f"{name}-{seed}": record(None, value) if isinstance(value, str) else record(value)
        for name, values in losses.items()
        for seed, value in enumerate(values)
    }
    plan = make_plan(list(losses), max(counts.values()), metric=metric, counts=counts)
    return judge(plan, records, looks=looks, margin=margin)


BASE = (3.0, 3.02, 2.98)


def test_better_worse_and_undecided() -> None:
    found = judged(
        {
            "base": BASE,
            "good": (2.9, 2.921, 2.879),
            "bad": (3.2, 3.221, 3.179),
            "same": (3.01, 3.0, 2.99),
        }
    )
    assert [arm.verdict for arm in found.arms] == ["reference", "better", "worse", "undecided"]
    base, good = found.arms[:2]
    assert base.delta is None
    assert base.p_value is None
    assert good.delta is not None
    assert good.delta.mean == pytest.approx(-0.1)
    assert good.delta_bits_per_byte is not None
    assert good.delta_bits_per_byte.mean == pytest.approx(-0.1 / math.log(2) / BYTES_PER_TOKEN)
    assert good.paired is True
    assert good.correlation == pytest.approx(1.0)
    assert good.pairing_gain is not None
    assert good.pairing_gain > 100
    assert good.mde is not None
    assert good.loss["values"] == [2.9, 2.921, 2.879]
    assert good.mismatch == pytest.approx(
        {"tokens": 0.0, "flops": 0.1, "params": 0.001, "seconds": 0.0}
    )
    assert (good.tokens_per_second, good.peak_memory_bytes) == (500.0, 2_000_000)
    assert found.note == "A note."
    assert found.conclusion.startswith("good is better than base by 0.1000 [0.09")
    assert "same against base: undecided, by " in found.conclusion
    assert "With 3 seeds, a true difference below" in found.conclusion


def test_what_may_have_been_missed_is_said_of_what_is_undecided_alone() -> None:
    decided = {"base": BASE, "good": (2.9, 2.921, 2.879), "bad": (3.2, 3.221, 3.179)}
    found = judged(decided)
    assert "missed" not in found.conclusion
    assert "over-estimated" not in found.conclusion
    found = judged({**decided, "same": (3.01, 3.0, 2.99)})
    assert "would probably have been missed in same (power under 80%)" in found.conclusion


def test_a_difference_found_at_low_power_is_told_to_be_over_estimated() -> None:
    found = judged({"base": (3.0, 3.02, 2.98), "arm": (2.9361, 2.92, 2.8439)})
    arm = found.arms[1]
    assert (arm.verdict, arm.delta is not None) == ("better", True)
    assert abs(arm.delta.mean) < (arm.mde_corrected or 0)  # type: ignore[union-attr]
    assert "missed" not in found.conclusion
    assert found.conclusion.endswith(
        "The difference of arm is smaller than what so few seeds reliably detect: what is found at "
        "such power tends to be over-estimated."
    )


def timed(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """The times of arms whose runs took so long."""
    plan = make_plan(list(seconds), len(next(iter(seconds.values()))))
    records = {
        f"{name}-{seed}": {**record(3.0 + seed / 10), "train_seconds": took}
        for name, times in seconds.items()
        for seed, took in enumerate(times)
    }
    found = judge(plan, records)
    assert all(arm.mismatch["seconds"] == arm.time["difference"] for arm in found.arms)
    return {arm.name: arm.time for arm in found.arms}


def test_times_are_told_apart_only_beyond_what_the_runs_of_an_arm_differ_by() -> None:
    times = timed(
        {
            "base": (2.0, 2.0, 3.0),  # one run had a busy machine
            "slow": (4.0, 4.1, 4.2),
            "noisy": (2.0, 2.4, 3.2),
        }
    )
    assert times["base"]["seconds"] == pytest.approx(2.0)
    assert times["base"]["spread"] == pytest.approx(0.5)
    assert times["slow"]["difference"] == pytest.approx(1.05)
    assert times["slow"]["uncertainty"] == pytest.approx(0.5)
    assert times["slow"]["told_apart"] is True
    assert times["noisy"]["difference"] == pytest.approx(0.2)
    assert times["noisy"]["told_apart"] is False
    single = timed({"base": (2.0,), "slow": (4.0,)})["slow"]
    assert (single["uncertainty"], single["told_apart"]) == (None, None)


finite = st.floats(2.0, 4.0)
looks_or_none = st.sampled_from([None, Looks(2, 5), Looks(3, 12)])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(finite, finite, finite, finite), min_size=3, max_size=5),
    looks_or_none,
    st.sampled_from([None, 0.01, 0.3, 1.5]),
)
def test_interval_and_verdict_never_contradict(
    rows: list[tuple[float, ...]], looks: Looks | None, margin: float | None
) -> None:
    names = ("base", "one", "two", "three")
    losses = {n: [row[i] for row in rows] for i, n in enumerate(names)}
    found = judged(losses, looks=looks, margin=margin)
    for arm in found.arms[1:]:
        assert arm.delta is not None
        if arm.delta.low is None or arm.delta.high is None:
            assert arm.verdict == "undecided"
            continue
        assert arm.delta.low_95 is not None
        assert arm.delta.confidence is not None
        assert arm.delta.confidence >= 0.95 - 1e-12
        assert arm.delta.low <= arm.delta.low_95  # never narrower than the plain interval
        if arm.verdict == "equivalent":
            assert margin is not None
            assert -margin < arm.delta.low <= arm.delta.high < margin
            continue
        below, above = arm.delta.high < 0, arm.delta.low > 0
        assert arm.verdict == ("better" if below else "worse" if above else "undecided")
        assert arm.is_open == (arm.verdict == "undecided")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(finite, finite, finite), min_size=3, max_size=5),
    looks_or_none,
    st.sampled_from([0.01, 0.3, 1.5]),
)
def test_a_margin_takes_no_difference_away_but_those_within_it(
    rows: list[tuple[float, ...]], looks: Looks | None, margin: float
) -> None:
    losses = {n: [row[i] for row in rows] for i, n in enumerate(("base", "one", "two"))}
    without, with_it = judged(losses, looks=looks), judged(losses, looks=looks, margin=margin)
    for plain, arm in zip(without.arms, with_it.arms, strict=True):
        assert arm.p_holm == plain.p_holm
        if arm.verdict != "equivalent":
            assert (arm.verdict, arm.delta) == (plain.verdict, plain.delta)
        elif plain.verdict != "undecided":
            assert f"{plain.verdict}, but by less than the margin" in arm.reason


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.one_of(finite, st.none(), st.sampled_from(["diverged", "failed"]))] * 3),
        min_size=1,
        max_size=4,
    )
)
def test_every_outcome_gives_plain_json_that_the_report_reads(rows: list[tuple[Any, ...]]) -> None:
    found = judged({n: [row[i] for row in rows] for i, n in enumerate(("base", "one", "two"))})
    text = json.dumps(found.to_dict(), allow_nan=False)
    read = read_verdicts(json.loads(text))
    assert [arm.verdict for arm in read.arms] == [arm.verdict for arm in found.arms]
    assert all(arm.reason or arm.delta or arm.verdict == "reference" for arm in found.arms)


def test_the_issue_s_keys_are_there() -> None:
    tree = judged({"base": BASE, "arm": (2.9, 2.91, 2.89)}).to_dict()
    for arm in tree["arms"]:
        assert {"name", "params", "tokens", "loss", "delta", "p_value", "verdict"} <= set(arm)
        assert {"mean", "low", "high"} <= set(arm["loss"])


def test_correction_may_take_a_verdict_back_and_says_so() -> None:
    arm = (2.95, 2.96, 2.94)
    alone = judged({"base": (3.0, 3.03, 2.98), "arm": arm})
    assert alone.arms[1].verdict == "better"
    others = {f"other{i}": (3.0, 3.01, 3.0) for i in range(5)}
    among = judged({"base": (3.0, 3.03, 2.98), "arm": arm, **others})
    first = among.arms[1]
    assert first.p_value == alone.arms[1].p_value
    assert first.p_holm == pytest.approx(6 * (first.p_value or 0))
    assert first.verdict == "undecided"
    assert "correction" in first.reason
    assert first.delta is not None
    assert first.delta.high_95 is not None
    assert first.delta.high_95 < 0 < (first.delta.high or 0)


def test_the_same_runs_under_another_name_are_undecided() -> None:
    plan = make_plan(("base", "again"), 3, shared=("again",))
    found = judge(plan, {f"base-{seed}": record(loss) for seed, loss in enumerate(BASE)})
    arm = found.arms[1]
    assert (arm.verdict, arm.p_value, arm.p_holm) == ("undecided", 1.0, 1.0)
    assert arm.delta is not None
    assert (arm.delta.mean, arm.delta.low, arm.delta.high) == (0.0, 0.0, 0.0)
    assert "shared" in arm.reason


def test_one_seed_gives_no_verdict_and_says_why() -> None:
    found = judged({"base": (3.0,), "arm": (2.0,)})
    arm = found.arms[1]
    assert (arm.verdict, arm.p_value) == ("undecided", None)
    assert arm.delta is not None
    assert (arm.delta.mean, arm.delta.low) == (-1.0, None)
    assert "single seed" in arm.reason
    assert "single seed" in found.conclusion


@pytest.mark.parametrize(
    ("base", "arm", "verdict", "reason"),
    [
        (BASE, (2.0, "diverged", 2.1), "worse", "diverged 1 of 3"),
        (BASE, (2.0, None, 2.1), "worse", "diverged 1 of 3"),  # finished, its loss not finite
        ((3.0, "diverged", 3.0), (9.0, 9.1, 9.2), "better", "base diverged 1 of 3"),
        (("diverged", 3.0, 3.0), (1.0, "diverged", "diverged"), "undecided", "both diverge"),
        (BASE, (2.0, "failed", 2.1), "undecided", "failed 1 of 3 (ran out of luck)"),
        ((3.0, "failed", 3.0), (2.0, 2.1, 2.2), "undecided", "base: failed 1 of 3"),
        (BASE, ("diverged", "failed", 2.1), "undecided", "failed 1 of 3"),
    ],
)
def test_runs_without_a_result_count_and_are_never_dropped(
    base: Losses, arm: Losses, verdict: str, reason: str
) -> None:
    found = judged({"base": base, "arm": arm}).arms[1]
    assert found.verdict == verdict
    assert reason in found.reason
    assert found.delta is None
    assert found.p_value is None
    assert found.diverged + found.failed == sum(v is None or isinstance(v, str) for v in arm)
    assert found.loss["values"] == [None if isinstance(v, str) else v for v in arm]
    if None in found.loss["values"]:  # of the rest it would be a selection
        assert [found.loss[name] for name in ("mean", "low", "high")] == [None] * 3


def test_what_a_diverged_arm_took_is_in_its_records() -> None:
    took = {"tokens": 100, "steps": 1, "flops": 660_000.0}
    full = {"tokens": 1000, "steps": 10, "flops": 6_600_000.0}
    records = {
        "base-0": record(3.0), "base-1": record(3.1),
        "arm-0": {**record(None, "diverged"), **took}, "arm-1": {**record(2.9), **full},
    }  # fmt: skip
    arm = judge(make_plan(("base", "arm"), 2), records).arms[1]
    assert (arm.tokens, arm.steps) == (550, 6)
    assert arm.mismatch["tokens"] == pytest.approx(-0.45)
    assert arm.mismatch["flops"] == pytest.approx(3_630_000 / 6_000_000 - 1)


def test_other_tokenizers_are_judged_by_bits() -> None:
    found = judged({"base": BASE, "arm": (2.9, 2.92, 2.881)}, metric="bits_per_byte")
    assert found.metric == "bits_per_byte"
    assert "bits/byte" in found.conclusion
    assert "nats" not in found.conclusion
    arm = found.arms[1]
    assert arm.verdict == "better"
    assert arm.delta_bits_per_byte is not None
    assert arm.mde is not None
    assert arm.mde < 0.02


def test_a_missing_record_is_an_error() -> None:
    with pytest.raises(StudyError, match="2 of 2 runs have not ended: a seed 0, b seed 0"):
        judge(make_plan(("a", "b"), 1), {})


def test_within_the_margin_is_a_verdict_of_its_own() -> None:
    arm = (3.001, 3.0195, 2.9805)
    assert judged({"base": BASE, "arm": arm}).arms[1].verdict == "undecided"
    found = judged({"base": BASE, "arm": arm}, margin=0.01)
    same = found.arms[1]
    assert (same.verdict, same.is_open) == ("equivalent", False)
    assert same.reason == "the interval lies within ±0.01 nats/token"
    assert same.p_equivalence is not None
    assert same.p_equivalence < 0.05
    assert "arm and base are equivalent: +0.000" in found.conclusion
    assert judged({"base": BASE, "arm": arm}, margin=0.001).arms[1].verdict == "undecided"


def test_every_arm_s_equivalence_is_corrected_for_the_others() -> None:
    arm = (3.001, 3.0195, 2.9805)
    alone = judged({"base": BASE, "arm": arm}, margin=0.01).arms[1]
    others = {f"other{i}": (3.2, 3.21, 3.19) for i in range(9)}
    among = judged({"base": BASE, "arm": arm, **others}, margin=0.01).arms[1]
    assert alone.p_equivalence is not None
    assert among.p_equivalence == pytest.approx(min(1.0, 10 * alone.p_equivalence))


def test_equal_losses_and_shared_runs_are_equivalent_where_a_margin_is_given() -> None:
    same = judged({"base": BASE, "arm": BASE}, margin=0.01).arms[1]
    assert (same.verdict, same.reason) == ("equivalent", "identical losses")
    plan = make_plan(("base", "again"), 3, shared=("again",))
    records = {f"base-{seed}": record(loss) for seed, loss in enumerate(BASE)}
    arm = judge(plan, records, margin=0.01).arms[1]
    assert (arm.verdict, arm.is_open) == ("equivalent", False)
    assert not judge(plan, records).arms[1].is_open  # more seeds of the same run show nothing


def test_looks_take_more_to_decide_and_say_so() -> None:
    losses = {"base": BASE, "arm": (2.95, 2.985, 2.92)}
    plain, looked = judged(losses).arms[1], judged(losses, looks=Looks(3, 10)).arms[1]
    assert plain.verdict == "better"
    assert looked.verdict == "undecided"
    assert looked.is_open
    assert looked.p_value == plain.p_value
    assert plain.p_looks is None
    assert looked.p_looks is not None
    assert looked.p_looks == Looks(3, 10).adjusted(plain.p_value or 0, 3)
    assert "a single look" in looked.reason
    assert looked.mde_corrected is not None
    assert plain.mde_corrected == pytest.approx(plain.mde)
    assert looked.mde_corrected > (looked.mde or 0)


def test_seeds_of_the_first_that_an_arm_has_not_are_not_used_for_it() -> None:
    base = (*BASE, 9.0, "diverged")
    arm = (2.9, 2.921, 2.879)
    long = (3.2, 3.221, 3.179, 9.21, 3.2)
    found = judged({"base": base, "arm": arm, "long": long}, looks=Looks(3, 5))
    alone = judged({"base": BASE, "arm": arm, "long": long[:3]}, looks=Looks(3, 5))
    assert found.arms[1].p_value == alone.arms[1].p_value
    assert found.arms[1].verdict == alone.arms[1].verdict
    assert [one.seeds for one in found.arms] == [5, 3, 5]
    assert (found.arms[2].verdict, found.arms[2].is_open) == ("better", False)
    assert "base diverged 1 of 5" in found.arms[2].reason
    assert "missed" not in found.conclusion


def test_an_arm_needs_the_first_s_seeds_and_a_planned_look() -> None:
    with pytest.raises(StudyError, match="base has no run of seed 2"):
        judged({"base": (3.0, 3.1), "arm": BASE})
    with pytest.raises(StudyError, match="arm: 3 seeds, but looks are from 4 to 6"):
        judged({"base": BASE, "arm": BASE}, looks=Looks(4, 6))


@pytest.mark.parametrize(
    ("base", "arm", "is_open"),
    [
        (BASE, (2.0, "diverged", 2.1), False),
        (("diverged", 3.0, 3.0), (1.0, "diverged", 1.0), False),
        (BASE, (2.0, "failed", 2.1), False),
        ((3.0, "failed", 3.0), (2.0, 2.1, 2.2), False),
        (BASE, (2.9, 2.92, 2.88), True),  # the same difference everywhere: the noise is unknown
        (BASE, (3.0, 2.9, 3.1), True),
    ],
)
def test_more_seeds_help_only_where_they_can_change_the_verdict(
    base: Losses, arm: Losses, is_open: bool
) -> None:
    assert judged({"base": base, "arm": arm}, looks=Looks(3, 10)).arms[1].is_open == is_open
