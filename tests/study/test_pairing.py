"""Pairing by the measured correlation: what it chooses, and that the whole rule keeps its rate."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.study.test_judge import make_plan, record

from windtunnel.study import calibrate
from windtunnel.study.calibrate_pairing import WORST, MeasuredCase, honest_levels
from windtunnel.study.compare import judge
from windtunnel.study.pairing import (
    ALPHAS,
    LEVELS,
    SEEDS,
    compare_as_measured,
    least_correlation,
    nominal_level,
    whole_level,
)
from windtunnel.study.sequential import Looks
from windtunnel.study.statistics import ALPHA, compare_arms

LIKE = ([3.0, 3.1, 3.2, 3.3], [2.8, 2.91, 2.98, 3.11])
UNLIKE = ([3.0, 3.1, 3.2, 3.3], [2.9, 2.7, 2.95, 2.75])
levels = st.floats(1e-7, 0.2)


@pytest.mark.parametrize("n", SEEDS)
@pytest.mark.parametrize(
    ("r", "ratio"), [(0.0, 1.0), (0.3, 2.0), (0.0, 5.0), (0.9, 1.0), (0.6, 30.0)]
)
def test_the_rule_with_its_choice_errs_in_at_most_five_per_cent(
    n: int, r: float, ratio: float
) -> None:
    case = MeasuredCase(100_000, n, r, ratio, np.random.default_rng(7))
    for alpha in (0.05, 0.005):
        assert case.rate(nominal_level(alpha, n)) <= alpha * 1.04


@pytest.mark.parametrize("n", [5, 7, 12, 30])
def test_any_number_of_seeds_and_level_keeps_its_rate(n: int) -> None:
    generator = np.random.default_rng(3)
    rough = {pair: MeasuredCase(20_000, n, *pair, generator) for pair in WORST}
    for alpha in (0.3, 0.05, 0.0166, 0.001, 1e-4):
        level = nominal_level(alpha, n)
        worst = max(rough, key=lambda pair: rough[pair].rate(level))
        assert MeasuredCase(300_000, n, *worst, generator).rate(level) <= alpha * 1.05


def test_without_the_lower_level_the_choice_would_not_be_honest() -> None:
    case = MeasuredCase(20_000, 3, 0.0, 2.0, np.random.default_rng(7))
    assert case.rate(ALPHA) > 0.06


def test_it_sees_more_than_pairs_where_seeds_do_not_agree() -> None:
    generator = np.random.default_rng(1)
    pairs, chosen = calibrate.Case(20_000, 4, 0.0, 1.0, generator), MeasuredCase(
        20_000, 4, 0.0, 1.0, generator
    )  # fmt: skip
    effect = pairs.effect_at(0.6)
    assert chosen.rate(nominal_level(ALPHA, 4), effect) > 0.63


def test_the_table_is_what_the_simulation_gives() -> None:
    assert set(LEVELS) == set(SEEDS)
    found = honest_levels(5, ALPHAS[:3], 50_000, np.random.default_rng(11))
    assert found == pytest.approx(LEVELS[5][:3], rel=0.06)
    for row in LEVELS.values():
        assert len(row) == len(ALPHAS)
        ratios = [level / alpha for level, alpha in zip(row, ALPHAS, strict=True)]
        assert 0 < ratios[0] < 1
        assert list(row) == sorted(row, reverse=True)


@given(levels, levels, st.integers(2, 40))
def test_levels_rise_and_turn_back(a: float, b: float, n: int) -> None:
    low, high = sorted((a, b))
    assert nominal_level(low, n) <= nominal_level(high, n) <= high
    assert whole_level(nominal_level(a, n), n) == pytest.approx(a, rel=1e-9)
    assert whole_level(0.0, n) == 0.0
    assert whole_level(1.0, n) == 1.0


def test_agreement_chooses_pairs_and_the_lack_of_it_welch() -> None:
    like, unlike = compare_as_measured(*LIKE), compare_as_measured(*UNLIKE)
    assert (like.paired, unlike.paired) == (True, False)
    assert like.correlation is not None
    assert like.correlation > least_correlation(4)
    assert unlike.correlation is not None
    assert unlike.correlation < least_correlation(4)
    for found, losses in ((like, LIKE), (unlike, UNLIKE)):
        plain = compare_arms(*losses, paired=found.paired)
        assert found.p_value == pytest.approx(whole_level(plain.p_value or 0.0, 4))
        assert found.mde is not None
        assert plain.mde is not None
        assert found.mde > plain.mde
        wide, narrow = found.interval(), plain.interval(nominal_level(ALPHA, 4))
        assert (wide.low, wide.high) == pytest.approx((narrow.low, narrow.high))
        edge = found.interval(found.p_value or 0.0)
        assert min(abs(edge.low or 0.0), abs(edge.high or 0.0)) == pytest.approx(0.0, abs=1e-9)
        margin = abs(found.delta) + 0.3
        p = found.p_equivalence(margin)
        assert p is not None
        reach = found.interval(p)
        ends = max(abs(reach.low or 0.0), abs(reach.high or 0.0))
        assert ends == pytest.approx(margin)


def test_below_three_seeds_and_without_noise_nothing_is_chosen() -> None:
    assert compare_as_measured([3.0, 3.1], [2.8, 2.95]) == compare_arms(
        [3.0, 3.1], [2.8, 2.95], paired=True
    )
    assert compare_as_measured([3.0] * 3, [3.0] * 3).reason == "identical losses"
    assert compare_as_measured([3.0, 3.1, 3.2], [2.0, 2.1, 2.2]).p_value is None
    assert compare_as_measured([3.0], [2.0]).p_value is None


def test_extreme_values_do_no_harm() -> None:
    assert whole_level(1e-320, 3) > 0
    assert nominal_level(1e-300, 5) >= 0
    base = [3.0, 3.0 + 2e-14, 3.0 - 2e-14]
    for arm in (list(reversed(base)), [3.0, 3.0 - 4e-14, 3.0 + 4e-14], [3.0, 3.0, 3.0 + 1e-14]):
        found = compare_as_measured(base, arm)
        assert found.p_value is None or 0 <= found.p_value <= 1


def test_a_constant_arm_has_no_correlation_and_stays_paired() -> None:
    found = compare_as_measured([3.0, 3.1, 3.2], [2.9, 2.9, 2.9])
    assert found.correlation is None
    assert found.paired


def test_verdicts_allow_for_the_choice_beside_holm() -> None:
    names = {"base": UNLIKE[0], "like": LIKE[1], "unlike": UNLIKE[1]}
    records = {f"{n}-{s}": record(x) for n, xs in names.items() for s, x in enumerate(xs)}
    plan = make_plan(list(names), 4)
    found = judge(plan, records, pairing="measured")
    design = judge(plan, records)
    assert (found.pairing, design.pairing) == ("measured", "design")
    assert [arm.paired for arm in found.arms] == [None, True, False]
    assert [arm.paired for arm in design.arms] == [None, True, True]
    for arm, before in zip(found.arms[1:], design.arms[1:], strict=True):
        assert arm.delta is not None
        assert before.delta is not None
        assert arm.delta.mean == pytest.approx(before.delta.mean)
        assert arm.p_holm is not None
        excludes = arm.delta.low is not None and not arm.delta.low <= 0 <= (arm.delta.high or 0)
        assert excludes == (arm.p_holm < ALPHA) == (arm.verdict in ("better", "worse"))
    assert math.isfinite(found.arms[2].mde_corrected or math.nan)
    with pytest.raises(AssertionError, match="one look"):
        judge(plan, records, pairing="measured", looks=Looks(2, 4))
