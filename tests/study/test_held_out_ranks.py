"""Kendall's τ of guesses that were learnt: only from pairs of one fold, with honest intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.study.held_out_ranks import (
    Ordering,
    Resampling,
    draw_folds,
    held_out_taus,
    taus,
)
from windtunnel.study.rank_agreement import kendall


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 20), st.integers(2, 8))
def test_of_all_pairs_it_is_kendalls(seed: int, count: int, values: int) -> None:
    """Ties and repeated architectures included."""
    generator = np.random.default_rng(seed)
    x, y = generator.integers(0, values, (2, count)).astype(float)
    drawn = generator.integers(0, count, (3, count))
    weights = np.array([np.bincount(row, minlength=count) for row in drawn], dtype=float)
    everyone = np.ones((count, count), dtype=bool)
    found = taus(Ordering.of(x), y, everyone, weights)
    np.testing.assert_allclose(found, kendall(x[drawn], y[drawn]), atol=1e-12)


def test_only_pairs_of_one_fold_count() -> None:
    """Each fold is ordered rightly; between folds the guesses are wrong, and nobody asks."""
    y = np.arange(12.0)
    folds = np.arange(12)[None] % 3
    guesses = y[None] - 100.0 * folds
    everyone = np.ones((12, 12), dtype=bool)
    ones = np.ones((1, 12))
    assert taus(Ordering.of_folds(guesses, folds), y, everyone, ones)[0] == pytest.approx(1)
    assert kendall(guesses[0], y) < 0.5


def test_means_of_the_others_say_nothing() -> None:
    """The worst case of pooling: a fit that knows nothing guesses the mean of what it has seen, and
    pooled guesses run exactly against the truth. Within folds they are equal."""
    y = np.random.default_rng(0).normal(size=20)
    folds = draw_folds(20, 20, 1, seed=0)
    guesses = ((y.sum() - y) / 19)[None]
    assert kendall(guesses[0], y) == pytest.approx(-1)
    everyone = ~np.eye(20, dtype=bool)
    assert np.isnan(taus(Ordering.of_folds(guesses, folds), y, everyone, np.ones((1, 20)))[0])


def test_folds_are_equal_in_size_and_seeded() -> None:
    folds = draw_folds(23, 5, 4, seed=3)
    assert folds.shape == (4, 23)
    for row in folds:
        assert sorted(np.bincount(row)) == [4, 4, 5, 5, 5]
    assert np.array_equal(folds, draw_folds(23, 5, 4, seed=3))
    assert not np.array_equal(folds, draw_folds(23, 5, 4, seed=4))


def test_a_better_guess_is_above_a_worse_one() -> None:
    generator = np.random.default_rng(0)
    y = generator.normal(size=80)
    good, bad = y + 0.2 * generator.normal(size=80), y + 3 * generator.normal(size=80)
    pairs = ~np.eye(80, dtype=bool)
    guesses = {"good": Ordering.of(good), "bad": Ordering.of(bad)}
    told = held_out_taus(guesses, y, pairs, Resampling.of(80), against=("bad",))
    assert told["good"]["value"] == pytest.approx(float(kendall(good, y)))
    assert told["good"]["low"] < told["good"]["value"] < told["good"]["high"]
    above = told["good"]["above_bad"]
    assert above["value"] == pytest.approx(told["good"]["value"] - told["bad"]["value"])
    assert above["low"] > 0


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """x and y with correlation 0.6 have τ = 2/π · arcsin 0.6; 95% intervals of 200 draws."""
    generator = np.random.default_rng(0)
    truth = 2 / np.pi * np.arcsin(0.6)
    pairs = ~np.eye(40, dtype=bool)
    held = 0
    for trial in range(200):
        x, z = generator.normal(size=(2, 40))
        told = held_out_taus(
            {"x": Ordering.of(x)}, 0.6 * x + 0.8 * z, pairs, Resampling.of(40, 400, trial)
        )["x"]
        held += told["low"] <= truth <= told["high"]
    assert 0.90 <= held / 200 <= 0.99
