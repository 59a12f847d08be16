"""Rank correlations against SciPy's, and their p-values and intervals on cases known by hand."""

import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from windtunnel.study.rank_agreement import agreement, kendall, ranks, spearman


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_scipy_s(ties: bool) -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        x = generator.integers(0, 5, 12).astype(float) if ties else generator.normal(size=12)
        y = generator.normal(size=12)
        assert float(spearman(x, y)) == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-12)
        assert float(kendall(x, y)) == pytest.approx(stats.kendalltau(x, y)[0], abs=1e-12)
        assert ranks(x).tolist() == stats.rankdata(x).tolist()


def test_a_failure_is_the_last_of_all() -> None:
    x, y = np.array([-math.inf, 1.0, 2.0, 3.0]), np.arange(4.0)
    assert float(spearman(x, y)) == pytest.approx(1.0)
    assert float(kendall(x, y)) == pytest.approx(1.0)
    both = np.array([-math.inf, -math.inf, 2.0, 3.0])
    assert float(kendall(both, y)) == pytest.approx(stats.kendalltau([0, 0, 2, 3], y)[0])


def test_equal_values_have_no_correlation() -> None:
    found = agreement({"flat": [1.0] * 6, "good": [1, 2, 3, 4, 5, 6]}, [1, 2, 3, 4, 5, 6])
    assert found["flat"]["spearman"] is None
    assert found["flat"]["p_value"] is None
    assert found["flat"]["resamples"] == 0
    assert found["good"]["spearman"] == pytest.approx(1.0)


def test_the_p_value_is_that_of_all_orders() -> None:
    x, y = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 3.0, 5.0, 4.0]
    found = agreement({"x": x}, y, resamples=20_000)["x"]
    rho = abs(float(spearman(np.array(x), np.array(y))))
    exact = np.mean([
        abs(float(spearman(np.array(x), np.array(order)))) >= rho - 1e-12
        for order in permutations(y)
    ])  # fmt: skip
    assert found["p_value"] == pytest.approx(exact, abs=0.01)
    assert found["p_family"] == found["p_value"]  # one predictor is its own family


def test_the_best_of_many_by_luck_is_not_taken_for_good() -> None:
    """Of 15 predictors that predict nothing, one looks good in most studies; p_family knows."""
    generator = np.random.default_rng(1)
    alone = family = 0
    for study in range(60):
        predictors = {str(i): generator.normal(size=12).tolist() for i in range(15)}
        found = agreement(predictors, generator.normal(size=12).tolist(), resamples=200, seed=study)
        alone += min(f["p_value"] for f in found.values()) < 0.05
        family += min(f["p_family"] for f in found.values()) < 0.05
    assert alone > 20
    assert family <= 8  # 5% of 60 is 3; 8 or more have a chance of 1%


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    hits = 0
    for study in range(100):
        x = generator.normal(size=12)
        y = x + generator.normal(size=12)  # ρ of ranks: about 0.69
        told = agreement({"x": x.tolist()}, y.tolist(), resamples=300, seed=study)["x"]
        hits += told["spearman_low"] <= 0.69 <= told["spearman_high"]
    assert hits >= 85  # a percentile bootstrap of 12 is a little narrow
