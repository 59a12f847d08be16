"""Which trials go on at a rung, as functions of numbers alone."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import ConfigError
from windtunnel.study.search.config import (
    PRUNING,
    HalvingConfig,
    HyperbandConfig,
    MedianConfig,
    NoPruningConfig,
    PruningConfig,
)
from windtunnel.study.search.pruning import Judged, bracket_of, go_on, rungs_of

LOSSES = st.lists(st.floats(0, 10) | st.just(math.inf), min_size=1, max_size=24)
PRUNERS = [MedianConfig(), HalvingConfig(), HyperbandConfig()]


def judged(losses: list[float], first: int = 0) -> list[Judged]:
    return [Judged(first + i, loss) for i, loss in enumerate(losses)]


def test_every_pruning_is_tested_here() -> None:
    assert {p.type for p in PRUNERS} | {"none"} == set(PRUNING.names())


def test_rungs_as_written_or_by_the_factor() -> None:
    assert rungs_of(NoPruningConfig(), 100) == ()
    assert rungs_of(HalvingConfig(rungs=(5, 40)), 100) == (5, 40)
    assert rungs_of(MedianConfig(factor=2, min_steps=20), 100) == (25, 50)
    with pytest.raises(ConfigError, match=r"last of \[5, 100\] is not below train.steps = 100"):
        rungs_of(HalvingConfig(rungs=(5, 100)), 100)
    with pytest.raises(ConfigError, match="no rung fits"):
        rungs_of(HalvingConfig(), 20)


def test_halving_keeps_one_in_so_many_of_all_that_were_judged() -> None:
    pruning = HalvingConfig(factor=3)
    first = judged([3.0, 1.0, 2.0, 5.0, 4.0, 6.0])
    assert go_on(pruning, 0, first, [], rungs=2) == {1, 2}
    worse = judged([7.0, 8.0, 9.0], first=6)
    assert go_on(pruning, 0, worse, first, rungs=2) == set()
    better = judged([0.1, 0.2, 0.3], first=6)
    assert go_on(pruning, 0, better, first, rungs=2) == {6, 7, 8}


def test_equal_losses_are_told_apart_by_their_numbers() -> None:
    assert go_on(HalvingConfig(factor=2), 0, judged([1.0] * 4), [], rungs=1) == {0, 1}


def test_the_median_prunes_once_enough_are_known() -> None:
    pruning = MedianConfig(startup_trials=5)
    few = judged([1.0, 2.0, 3.0, 9.0])
    assert go_on(pruning, 0, few, [], rungs=1) == {0, 1, 2, 3}
    assert go_on(pruning, 0, judged([2.0, 2.6], first=4), few, rungs=1) == {4}


def test_hyperband_lets_later_brackets_pass_early_rungs() -> None:
    pruning = HyperbandConfig(factor=3)
    batch = judged([5.0] * 17)
    brackets = {one.number: bracket_of(pruning, one.number, 2) for one in batch}
    assert [list(brackets.values()).count(s) for s in range(3)] == [9, 5, 3]
    passed = go_on(pruning, 0, batch, [], rungs=2)
    assert {n for n, s in brackets.items() if s > 0} <= passed
    assert len([n for n in passed if brackets[n] == 0]) == 3
    last = go_on(pruning, 1, batch, [], rungs=2)
    assert len([n for n in last if brackets[n] == 1]) == 2
    assert len([n for n in last if brackets[n] == 2]) == 3


@pytest.mark.parametrize("pruning", PRUNERS, ids=lambda p: p.type)
@given(batch=LOSSES, earlier=LOSSES)
def test_who_goes_on_is_no_worse_than_who_does_not(
    pruning: PruningConfig, batch: list[float], earlier: list[float]
) -> None:
    """Within a bracket; the best finite one of a first batch always goes on; inf never does."""
    now = judged(batch, first=len(earlier))
    for before in ([], judged(earlier)):
        kept = go_on(pruning, 0, now, before, rungs=2)
        loss = {one.number: one.loss for one in now}
        assert kept <= set(loss)
        assert all(math.isfinite(loss[n]) for n in kept)
        for bracket in range(3):
            own = [n for n in loss if bracket_of(pruning, n, 2) == bracket]
            dropped = [loss[n] for n in own if n not in kept]
            assert max([loss[n] for n in own if n in kept], default=-1.0) <= min(
                dropped, default=math.inf
            )
        if not before and any(map(math.isfinite, batch)):
            assert kept
        shuffled = go_on(pruning, 0, now[::-1], before[::-1], rungs=2)
        assert shuffled == kept
