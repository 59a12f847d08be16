"""What is said of two ladders, and when nothing is."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.study.ladder.laws import SIZES, made

from windtunnel.study.ladder.amounts import parse_target
from windtunnel.study.ladder.analyse import analyse
from windtunnel.study.ladder.calibrate import Setting, simulate
from windtunnel.study.ladder.claims import crossing, difference
from windtunnel.study.ladder.isoflop import isoflop_curves
from windtunnel.study.ladder.resample import make_draws
from windtunnel.study.ladder.words import conclusion

TEN = parse_target("10x")
CROSSES = {"A": 30.0, "alpha": 0.28}
"""Better than the plain law where models are small, worse where they are large."""


def answer(*arms: Any, draws: int = 80, **options: Any) -> Any:
    return analyse(arms, parse_target(options.pop("at", "10x")), draws=draws, **options)


def test_a_better_law_is_better() -> None:
    told = answer(made("a"), made("b", seed=1, E=1.5))
    pair = told["pairs"][0]
    assert pair["at"]["verdict"] == "better"
    assert pair["at"]["low"] < -0.2 < pair["at"]["high"]
    assert pair["crossing"]["verdict"] == "none in range"
    assert pair["crossing"]["ahead"] == "b"


def test_two_ladders_of_one_law_cannot_be_told_apart() -> None:
    pair = answer(made("a"), made("b", seed=1))["pairs"][0]
    assert pair["at"]["verdict"] == "cannot say"
    assert pair["at"]["low"] < 0 < pair["at"]["high"]
    assert pair["crossing"]["verdict"] == "cannot say"


def test_curves_that_cross_are_told_to_with_an_interval() -> None:
    flops = np.geomspace(1e12, 1e15, 61)
    first, other = 2 + 3000 * flops**-0.3, 2.1 + 2000 * flops**-0.3
    rng = np.random.default_rng(0)
    spot = float(flops[np.flatnonzero(np.diff(np.sign(other - first)))[0]])
    draws = (other - first) + 0.002 * rng.standard_normal((400, 1))
    found = crossing(flops, ("a", "b"), other - first, draws, 0.95)
    assert found.verdict == "crosses"
    assert found.low is not None
    assert found.high is not None
    assert found.low < spot < found.high
    assert found.ahead == "a"


def test_without_three_sizes_nothing_is_said_of_scale() -> None:
    arms = [made(name, sizes=(2e5, 1e6)) for name in "ab"]
    told = answer(*arms)
    assert told["pairs"][0]["at"]["verdict"] == "cannot say"
    assert "at least three sizes" in told["pairs"][0]["at"]["reason"]
    assert told["laws"][0]["law"] is None
    told |= {"sizes": [2e5, 1e6], "backtest": None, "differences": [], "trends": []}
    told["trends"] = [{"arm": "b", "words": ""}]
    assert "cannot say, since at least three sizes are needed" in conclusion(told)


def test_a_run_without_a_loss_silences_its_arm() -> None:
    arm = made("b")
    losses = arm.losses.copy()
    losses[2, 1, 0] = np.nan
    told = answer(made("a"), replace(arm, losses=losses))
    pair = told["pairs"][0]
    assert pair["at"]["verdict"] == pair["crossing"]["verdict"] == "cannot say"
    assert "1 of 36 runs of b have no loss" in pair["at"]["reason"]
    assert told["laws"][1]["law"]["cells"] == 11


def test_with_one_seed_the_noise_is_unknown() -> None:
    told = answer(made("a", seeds=1), made("b", seeds=1, E=1.0))
    assert told["pairs"][0]["at"]["verdict"] == "cannot say"
    assert "one seed" in told["pairs"][0]["at"]["reason"]
    for law in told["laws"]:
        ends = [law["curve"]["low"], law["curve"]["high"]]
        ends += [
            law[k][n][e] for k, n in (("law", "E"), ("compute_law", "E")) for e in ("low", "high")
        ]
        ends += [curve["low"] for curve in law["isoflop"]]
        assert set(ends) == {None}, "an interval of no width would say that there is no noise"


def test_one_budget_is_fitted_over_compute() -> None:
    shape: Any = {"budgets": (20.0,), "sizes": (*SIZES, 3.5e6, 7.7e6)}
    told = answer(made("a", **shape), made("b", E=1.2, **shape), at="2x")
    assert told["laws"][0]["law"]["kind"] == "compute"
    assert told["pairs"][0]["at"]["verdict"] == "better"


def test_several_comparisons_ask_for_more_confidence() -> None:
    told = answer(*(made(name, seed=i) for i, name in enumerate("abc")))
    assert {pair["confidence"] for pair in told["pairs"]} == {0.975}


def test_a_difference_is_decided_where_its_interval_leaves_out_zero() -> None:
    draws = (np.zeros(100), np.linspace(-0.3, -0.1, 100))
    assert difference(1.0, np.float64(0), np.float64(-0.2), draws, 0.95).verdict == "better"  # type: ignore[arg-type]
    wide = (np.zeros(100), np.linspace(-0.3, 0.1, 100))
    assert difference(1.0, np.float64(0), np.float64(-0.2), wide, 0.95).verdict == "cannot say"  # type: ignore[arg-type]


def test_equal_losses_give_equal_answers() -> None:
    told = [answer(made("a"), made("b", seed=1), draws=20) for _ in range(2)]
    assert told[0] == told[1]


def test_the_best_size_of_a_compute_is_found() -> None:
    sizes = tuple(float(n) for n in np.geomspace(1e5, 1e7, 7))
    flops = np.array([3e13, 1e14])
    params = np.array(sizes)
    tokens = flops / (6 * params[:, None])
    measured = made(sizes=sizes, budgets=(1.0, 2.0), noise=0.0)
    rng = np.random.default_rng(0)
    losses = 1.7 + 90 * params[:, None] ** -0.38 + 300 * tokens**-0.36
    measured = replace(
        measured, tokens=tokens, flops=6 * params[:, None] * tokens,
        losses=losses[..., None] * np.exp(1e-4 * rng.standard_normal((7, 2, 3))),
    )  # fmt: skip
    curves = isoflop_curves(measured, make_draws(0, 200, 7, 3))
    assert [curve.flops for curve in curves] == pytest.approx(flops.tolist())
    grid = np.geomspace(1e5, 1e7, 2000)
    for curve, c in zip(curves, flops, strict=True):
        best = grid[np.argmin(1.7 + 90 * grid**-0.38 + 300 * (c / (6 * grid)) ** -0.36)]
        assert curve.best_params == pytest.approx(best, rel=0.25)
        assert curve.low is not None
        assert curve.high is not None
        assert curve.low <= curve.best_params <= curve.high


def test_the_backtest_predicts_the_largest_size() -> None:
    told = answer(made("a"), made("b", seed=3, E=1.5))["backtest"]
    assert told["count"] == 6
    assert told["hits"]["0.95"] >= told["hits"]["0.9"] >= 4
    assert told["mean_absolute_error"] < 0.05
    assert (told["ranks"]["pairs"], told["ranks"]["right"]) == (3, 3)
    assert {cell["params"] for cell in told["cells"]} == {1.6e6}


def test_the_backtest_does_not_see_the_largest_size() -> None:
    arm = made("a")
    other = replace(arm, losses=np.concatenate([arm.losses[:-1], arm.losses[-1:] * 2]))
    cells = [answer(one, draws=40)["backtest"]["cells"] for one in (arm, other)]
    assert [c["predicted"] for c in cells[0]] == [c["predicted"] for c in cells[1]]
    assert [c["intervals"] for c in cells[0]] == [c["intervals"] for c in cells[1]]
    assert not any(c["hits"]["0.95"] for c in cells[1])


def test_intervals_hit_about_as_often_as_they_say() -> None:
    """A few simulated studies; `python -m windtunnel.study.ladder.calibrate` makes many."""
    rates = simulate(Setting(4, 3), studies=10, draws=50, seed=0).rates()
    assert rates["held_out"][1] >= 0.8
    assert rates["absolute"][1] >= 0.8
    assert rates["false"][1] <= 0.25
