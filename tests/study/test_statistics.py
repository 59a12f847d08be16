"""The rule of verdicts: its error rates, its edges, its consistency."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from windtunnel.study import calibrate
from windtunnel.study.statistics import (
    ALPHA,
    compare_arms,
    holm,
    holm_factors,
    mean_interval,
    minimum_detectable,
    paired_difference,
    two_sided_p,
    welch_difference,
)

TRIALS = 20_000
losses = st.floats(0.5, 12.0)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
@pytest.mark.parametrize("r", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("ratio", [1.0, 3.0, 20.0])
def test_equal_arms_get_a_verdict_in_at_most_five_per_cent(n: int, r: float, ratio: float) -> None:
    generator = np.random.default_rng([n, int(10 * r), int(ratio)])
    base, arm = calibrate.draw_losses(TRIALS, n, r, ratio, generator)
    false = float((two_sided_p(paired_difference(base, arm)) < ALPHA).mean())
    noise = math.sqrt(ALPHA * (1 - ALPHA) / TRIALS)
    assert abs(false - ALPHA) < 4 * noise  # the rate is the promised one, neither more nor less


def test_choosing_the_narrower_interval_would_not_be_honest() -> None:
    case = calibrate.Case(TRIALS, 3, 0.0, 1.0, np.random.default_rng(0))
    assert case.rate(calibrate.narrower) > 0.06
    assert case.rate(calibrate.paired) == pytest.approx(ALPHA, abs=0.004)


def test_pairing_sees_more_where_seeds_agree_and_less_where_they_do_not() -> None:
    generator = np.random.default_rng(0)
    near, far = (calibrate.Case(TRIALS, 5, r, 1.0, generator) for r in (0.9, 0.0))
    effect = near.effect_at(0.6)
    assert near.rate(calibrate.paired, effect=effect) == pytest.approx(0.6)
    assert near.rate(calibrate.unpaired, effect=effect) < 0.1
    effect = far.effect_at(0.6)
    assert 0.6 < far.rate(calibrate.unpaired, effect=effect) < 0.75


def test_holm_keeps_the_family_below_five_per_cent() -> None:
    generator = np.random.default_rng(3)
    base = generator.standard_normal((4000, 3))
    arms = generator.standard_normal((3, 4000, 3))
    p = np.array([two_sided_p(paired_difference(base, arm)) for arm in arms]).T
    smallest = np.array([min(a for a in holm(list(row)) if a is not None) for row in p])
    assert float((smallest < ALPHA).mean()) < ALPHA + 3 * math.sqrt(ALPHA * 0.95 / 4000)


def test_the_tables_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    calibrate.main(["--trials", "400"])
    printed = capsys.readouterr().out
    assert "| 3 | 0.9 | 1 : 3 |" in printed
    assert "narrower, made honest" in printed


@settings(max_examples=60)
@given(st.lists(st.tuples(losses, losses), min_size=2, max_size=10))
def test_pairs_agree_with_scipy(pairs: list[tuple[float, float]]) -> None:
    base, arm = (list(side) for side in zip(*pairs, strict=True))
    found = compare_arms(base, arm, paired=True)
    if found.std_error:
        expected = stats.ttest_rel(arm, base)
        assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6)
        low, high = expected.confidence_interval(0.95)
        assert found.interval().low == pytest.approx(low, rel=1e-6, abs=1e-9)
        assert found.interval().high == pytest.approx(high, rel=1e-6, abs=1e-9)


@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")  # scipy's own, near equality
@settings(max_examples=60)
@given(st.lists(losses, min_size=2, max_size=6), st.lists(losses, min_size=2, max_size=6))
def test_other_seeds_agree_with_welch_of_scipy(base: list[float], arm: list[float]) -> None:
    found = compare_arms(base, arm, paired=False)
    if found.std_error:
        expected = stats.ttest_ind(arm, base, equal_var=False)
        assert found.p_value == pytest.approx(expected.pvalue, rel=1e-5, abs=1e-12)
        assert found.correlation is None
        assert not found.paired


@settings(max_examples=60)
@given(st.lists(st.tuples(losses, losses), min_size=3, max_size=8), st.sampled_from([0.05, 0.01]))
def test_an_interval_leaves_out_zero_exactly_where_p_is_small(
    pairs: list[tuple[float, float]], alpha: float
) -> None:
    base, arm = (list(side) for side in zip(*pairs, strict=True))
    found = compare_arms(base, arm, paired=True)
    low, high = found.interval(alpha).low, found.interval(alpha).high
    if low is not None and high is not None and found.p_value is not None:
        assert (low > 0 or high < 0) == (found.p_value < alpha)
        swapped = compare_arms(arm, base, paired=True).interval(alpha)
        assert (swapped.low, swapped.high) == pytest.approx((-high, -low))


def test_identical_arms_differ_by_exactly_nothing() -> None:
    found = compare_arms([3.1, 3.2, 3.3], [3.1, 3.2, 3.3], paired=True)
    assert (found.delta, found.p_value) == (0.0, 1.0)
    assert (found.interval().low, found.interval().high) == (0.0, 0.0)
    assert found.correlation == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("base", "arm", "reason"),
    [([3.0], [2.5], "single seed"), ([3.0, 3.1, 3.3], [2.9, 3.0, 3.2], "same amount")],
)
def test_without_noise_there_is_no_interval(
    base: list[float], arm: list[float], reason: str
) -> None:
    found = compare_arms(base, arm, paired=True)
    assert found.p_value is None
    assert found.mde is None
    assert found.interval().low is None
    assert found.delta < 0
    assert reason in found.reason


def test_correlation_and_gain_are_reported() -> None:
    generator = np.random.default_rng(0)
    base, arm = calibrate.draw_losses(1, 4000, 0.9, 1.0, generator)
    found = compare_arms(list(base[0] + 5), list(arm[0] + 5), paired=True)
    assert found.correlation == pytest.approx(0.9, abs=0.01)
    assert found.pairing_gain == pytest.approx(10, rel=0.1)
    assert compare_arms([3.0, 3.1], [3.2, 3.15], paired=True).correlation is None


@pytest.mark.parametrize("n", [2, 3, 5, 10, 200])
def test_the_minimum_detectable_effect_has_eighty_per_cent_power(n: int) -> None:
    effect = minimum_detectable(1.0, n - 1)
    t = stats.t.isf(ALPHA / 2, n - 1)
    assert stats.nct.sf(t, n - 1, effect) == pytest.approx(0.8, abs=2e-3)


def test_welch_knows_its_degrees_of_freedom() -> None:
    base, arm = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 2.1, 2.2])
    expected = stats.ttest_ind(arm, base, equal_var=False)
    assert float(welch_difference(base, arm).df) == pytest.approx(expected.df)


probabilities = st.lists(
    st.one_of(st.none(), st.floats(0, 1, allow_subnormal=False)), min_size=1, max_size=6
)


@given(probabilities)
def test_holm_is_monotone_and_at_least_the_plain_value(p_values: list[float | None]) -> None:
    adjusted, factors = holm(p_values), holm_factors(p_values)
    assert all(factor >= 1 - 1e-12 for factor in factors)
    pairs = zip(p_values, adjusted, strict=True)
    known = sorted((p, a) for p, a in pairs if p is not None and a is not None)
    assert all(p - 1e-12 <= a <= 1 for p, a in known)
    assert all(a <= b + 1e-12 for (_, a), (_, b) in pairwise(known))
    assert [a is None for a in adjusted] == [p is None for p in p_values]


def test_holm_by_hand() -> None:
    assert holm([0.01]) == [0.01]
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.02, None]) == [0.04, None]  # an arm without a test still counts


def test_a_mean_with_its_interval() -> None:
    found = mean_interval([3.0, 3.2, 3.1])
    low, high = stats.t.interval(0.95, 2, loc=3.1, scale=0.1 / math.sqrt(3))
    assert (found.mean, found.low, found.high) == pytest.approx((3.1, low, high))
    assert mean_interval([3.0]).low is None
    assert mean_interval([]).mean is None
