"""What is gained by training first what is ranked first, against counting by hand."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.hyper.picks import PICKS, picks
from windtunnel.study.held_out_ranks import draw_folds


@settings(deadline=None)
@given(
    losses=st.lists(st.integers(0, 9), min_size=10, max_size=18),
    seed=st.integers(0, 99),
)
def test_it_is_what_trying_each_choice_gives(losses: list[int], seed: int) -> None:
    values = np.array(losses, dtype=float)
    folds = draw_folds(len(values), 2, 2, seed)
    means = np.random.default_rng(seed).normal(size=folds.shape)
    found = picks(means, folds, values)
    assert [row["k"] for row in found] == [k for k in PICKS if k < len(values) // 2]
    for row in found:
        chosen, random = [], []
        for guesses, numbers in zip(means, folds, strict=True):
            for fold in (0, 1):
                own = np.flatnonzero(numbers == fold)
                floor = values[own].min()
                first = own[np.argsort(guesses[own])][: row["k"]]
                chosen.append(values[first].min() - floor)
                every = [values[list(some)].min() for some in combinations(own, row["k"])]
                random.append(np.mean(every) - floor)
        assert row["predictor"] == pytest.approx(np.mean(chosen), abs=1e-12)
        assert row["random"] == pytest.approx(np.mean(random), abs=1e-12)
        gain = row["gain"]
        assert gain["value"] == pytest.approx(row["random"] - row["predictor"])


def test_a_perfect_guess_loses_nothing_and_gains_surely() -> None:
    losses = np.array([float(i % 7) + 0.1 * i for i in range(20)])
    one, *_ = picks(losses[None], np.arange(20)[None] % 2, losses)
    assert one["predictor"] == 0
    assert one["gain"]["value"] == pytest.approx(one["random"])


@pytest.mark.parametrize("part", [0.0, 0.8])
def test_the_interval_holds_what_other_architectures_give(part: float) -> None:
    """Over 100 draws at least nine in ten hold the mean of all."""
    generator = np.random.default_rng(0)
    found = []
    for seed in range(100):
        losses = generator.normal(size=60)
        guess = part * losses + (1 - part**2) ** 0.5 * generator.normal(size=60)
        folds = draw_folds(60, 5, 3, seed)
        found.append([row["gain"] for row in picks(np.tile(guess, (3, 1)), folds, losses)])
    for rows in zip(*found, strict=True):
        truth = np.mean([row["value"] for row in rows])
        assert np.mean([row["low"] <= truth <= row["high"] for row in rows]) >= 0.9
        assert (np.mean([row["low"] > 0 for row in rows]) > 0.5) == (part > 0)


def test_too_few_are_not_chosen_from() -> None:
    few = np.array([[1.0, 2, 3, 4]])
    assert [row["k"] for row in picks(few, np.array([[0, 0, 1, 1]]), few[0])] == [1]
    assert picks(few[:, :2], np.array([[0, 1]]), few[0, :2]) == []
