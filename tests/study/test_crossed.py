"""Means over seeds and items: against hand-worked analyses of variance, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from windtunnel.study.calibrate_crossed import answers, coverage, main, normal
from windtunnel.study.crossed import Crossed, crossed_mean
from windtunnel.study.statistics import mean_interval

figures = st.lists(st.floats(-3, 3), min_size=12, max_size=12)


def bounds(found: Crossed, alpha: float = 0.05) -> tuple[float | None, float | None]:
    interval = found.interval(alpha)
    return interval.low, interval.high


def test_by_hand() -> None:
    """Two seeds, three items: MS_seeds 2/3, MS_items 19/6, MS_rest 1/6."""
    values = np.array([[1.0, 2.0, 4.0], [2.0, 3.0, 4.0]])
    ms_seeds, ms_items, ms_rest = 2 / 3, 19 / 6, 1 / 6
    total = ((values - values.mean()) ** 2).sum()
    assert total == pytest.approx(1 * ms_seeds + 2 * ms_items + 2 * ms_rest)
    t1, t2 = stats.t.ppf(0.975, 1), stats.t.ppf(0.975, 2)
    reach = math.sqrt((t1**2 * ms_seeds + t2**2 * (ms_items - ms_rest)) / 6)
    found = crossed_mean(values)
    assert found.mean == pytest.approx(16 / 6)
    assert bounds(found) == pytest.approx((16 / 6 - reach, 16 / 6 + reach))
    assert not found.of_items_only


def test_one_seed_has_the_interval_of_its_items() -> None:
    values = np.array([[0.0, 1.0, 1.0, 0.0, 1.0]])
    found, plain = crossed_mean(values), mean_interval(list(values[0]))
    assert found.of_items_only
    assert bounds(found) == pytest.approx((plain.low, plain.high))


@given(figures)
def test_it_is_never_narrower_than_over_seeds_or_over_items(numbers: list[float]) -> None:
    values = np.array(numbers).reshape(3, 4)
    low, high = bounds(crossed_mean(values))
    for axis in (1, 0):
        alone = mean_interval(list(values.mean(axis)))
        if low is not None and high is not None:
            assert alone.low is not None
            assert alone.high is not None
            assert low <= alone.low + 1e-9
            assert high >= alone.high - 1e-9


@given(figures)
def test_an_interval_leaves_out_zero_exactly_where_p_is_small(numbers: list[float]) -> None:
    found = crossed_mean(np.array(numbers).reshape(3, 4))
    p = found.p_value()
    if p is None:
        assert found.reason
        return
    assert 0 < p <= 1
    for alpha in (0.5, 0.05, 0.002):
        if abs(p - alpha) > 1e-6:
            low, high = bounds(found, alpha)
            assert low is not None
            assert high is not None
            assert (low > 0 or high < 0) == (p < alpha)


def test_p_is_that_of_the_t_test_where_only_seeds_differ() -> None:
    values = np.array([1.0, 2.0, 4.0])[:, None] + np.zeros((3, 5))
    p = crossed_mean(values).p_value()
    assert p == pytest.approx(stats.ttest_1samp([1.0, 2.0, 4.0], 0.0).pvalue, rel=1e-6)
    assert crossed_mean(np.array([[1.0, -1.0], [-1.0, 1.0], [2.0, -2.0]])).p_value() == 1.0
    even = crossed_mean(np.array([[1.0, -1.0], [-1.0, 1.0]]))
    assert (even.p_value(), even.reason) == (None, "all means over seeds and over items are equal")
    assert crossed_mean(1.0 + 1e-9 * np.arange(6.0).reshape(2, 3)).p_value() < 1e-5


def test_seeds_that_agree_by_chance_have_the_interval_of_the_items() -> None:
    """Two seeds with equal means tell nothing of how seeds differ; items still do."""
    values = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]])
    values[:, :2] += 1.0
    alone = mean_interval(list(values.mean(0)))
    assert bounds(crossed_mean(values)) == pytest.approx((alone.low, alone.high))


@given(figures, st.permutations(range(3)), st.permutations(range(4)))
def test_the_order_of_seeds_and_items_is_nothing(
    numbers: list[float], seeds: list[int], items: list[int]
) -> None:
    values = np.array(numbers).reshape(3, 4)
    a, b = crossed_mean(values), crossed_mean(values[seeds][:, items])
    assert a.mean == pytest.approx(b.mean, abs=1e-12)
    if bounds(a)[0] is not None and bounds(b)[0] is not None:
        assert bounds(a)[0] == pytest.approx(bounds(b)[0], abs=1e-6)


def test_what_does_not_vary_has_no_interval() -> None:
    assert crossed_mean(np.ones((3, 5))).reason == "all figures are equal"
    assert bounds(crossed_mean(np.full((3, 5), 1 / 3)))[0] is None
    assert crossed_mean(np.array([[1.0], [2.0]])).reason == "one item tells nothing of other items"


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.zeros(3), np.array([[1.0, math.nan]])])
def test_what_is_no_table_of_figures_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="figures are finite"):
        crossed_mean(values)


@pytest.mark.parametrize("draw", [normal, answers])
@pytest.mark.parametrize("spread", [(0.0, 1.0), (0.3, 0.0), (0.3, 1.0)])
def test_it_holds_the_truth_as_often_as_it_says(draw: object, spread: tuple[float, float]) -> None:
    """Of 1,000 intervals 95% hold zero; fewer than 92.5% would be 3.6 standard errors below."""
    rule, over_seeds, over_items = coverage(draw(3, 50, spread), 1000)  # type: ignore[operator]
    assert rule > 0.925
    if spread == (0.0, 1.0):
        assert over_seeds < rule
    if spread[0]:
        assert over_items < rule


def test_the_command_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--trials", "2"])
    assert len(capsys.readouterr().out.splitlines()) == 2 + 2 * 4 * 2 * 5 + 3 + 6
