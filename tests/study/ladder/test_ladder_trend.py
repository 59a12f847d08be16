"""The trend: what is fitted, what is said of it, and that its intervals hold the truth."""

from typing import Any

import numpy as np
import pytest
from tests.study.ladder.laws import cells_of, made

from windtunnel.study.ladder.calibrate_trend import SETTINGS, Setting, simulate
from windtunnel.study.ladder.cells import Measured
from windtunnel.study.ladder.slopes import lead, size_slope, token_slope
from windtunnel.study.ladder.trend import trends
from windtunnel.study.ladder.words import trend_words
from windtunnel.study.statistics import Floats

SIZES = (1.2e5, 2.5e5, 5e5)


def ladder(
    gap: float, per_size: float, per_tokens: float = 0.0, *, noise: float = 0.004,
    sizes: tuple[float, ...] = SIZES, seeds: int = 2, seed: int = 0, **options: Any,
) -> list[Measured]:  # fmt: skip
    """Two arms whose differences follow a line in log N and log D."""
    first = made("a", sizes=sizes, seeds=seeds, noise=0.003, **options)
    x = np.log10(first.params) - np.log10(first.params).mean()
    z = np.log10(first.tokens) - np.log10(first.tokens).mean(1, keepdims=True)
    gaps = gap + per_size * x[:, None] + per_tokens * z
    rng = np.random.default_rng(seed)
    scatter = noise * rng.standard_normal(first.losses.shape)
    other = made("b", sizes=sizes, seeds=seeds, **options)
    object.__setattr__(other, "losses", first.losses + gaps[..., None] + scatter)
    return [first, other]


def trend(arms: list[Measured]) -> dict[str, Any]:
    [found] = trends(cells_of(arms), [arm.name for arm in arms])
    return {**found, "words": trend_words(found)}


def test_without_noise_the_line_is_found() -> None:
    first, other = ladder(-0.3, -0.08, 0.05, noise=0.0)
    gaps = other.losses - first.losses
    assert lead(gaps).delta == pytest.approx(-0.3)
    assert size_slope(first.params, gaps).slope.delta == pytest.approx(-0.08)
    assert token_slope(first.tokens, gaps).delta == pytest.approx(0.05)


def test_the_size_slope_is_that_of_least_squares_with_a_constant_for_each_seed() -> None:
    params = np.array([1e5, 3e5, 5e5, 2e6])
    gaps = np.random.default_rng(1).standard_normal((4, 3, 2))
    found = size_slope(params, gaps).slope
    x, y = np.log10(params), gaps.mean(1)  # (s, k)
    design = np.array(
        [[x[i], *(float(k == j) for j in range(2))] for i in range(4) for k in (0, 1)]
    )
    values = np.array([y[i, k] for i in range(4) for k in (0, 1)])
    beta, rest, *_ = np.linalg.lstsq(design, values, rcond=None)
    error = np.sqrt(rest[0] / 5 * np.linalg.inv(design.T @ design)[0, 0])
    assert float(found.delta) == pytest.approx(beta[0])
    assert (float(found.std_error), float(found.df)) == (pytest.approx(error), 5)


def test_a_shift_of_a_seed_moves_no_slope() -> None:
    gaps = np.random.default_rng(1).standard_normal((3, 2, 2))
    params, tokens = np.array(SIZES), np.full((3, 2), [1.6e4, 3.2e4])
    moved = gaps + np.array([0.0, 5.0])
    np.testing.assert_allclose(size_slope(params, moved).slope, size_slope(params, gaps).slope)
    np.testing.assert_allclose(
        token_slope(tokens, gaps + gaps.mean()).delta, token_slope(tokens, gaps).delta
    )


def test_sizes_off_the_line_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    params = np.geomspace(1e5, 1e6, 4)
    bend: Floats = np.array([0.1, -0.1, -0.1, 0.1])[:, None, None]
    gaps = bend + 0.001 * rng.standard_normal((4, 2, 2))
    straight, bent = size_slope(params, gaps - bend), size_slope(params, gaps)
    assert bent.straight_p < 0.05 < straight.straight_p
    assert (float(bent.slope.df), float(straight.slope.df)) == (2, 5)
    assert bent.slope.std_error > 20 * straight.slope.std_error


@pytest.mark.parametrize(
    ("gap", "per_size", "verdict", "words"),
    [
        (-0.3, -0.2, "grows", "The lead of b grows with size"),
        (-0.3, 0.2, "shrinks", "The lead of b shrinks with size"),
        (-0.3, 0.0, "holds", "The lead of b holds with size"),
        (0.3, 0.2, "grows", "The lead of a grows with size"),
        (0.3, -0.2, "shrinks", "The lead of a shrinks with size"),
        (0.0, -0.2, "gains", "b gains on a with size"),
        (0.0, 0.2, "loses", "b loses to a with size"),
        (0.0, 0.0, "undecided", "Whether the difference changes with size: undecided"),
    ],
)
def test_what_becomes_of_the_lead_is_said(
    gap: float, per_size: float, verdict: str, words: str
) -> None:
    found = trend(ladder(gap, per_size, seeds=3, seed=4))
    assert (found["size"]["verdict"], words in found["words"]) == (verdict, True), found["words"]
    assert "per tenfold parameters at equal tokens per parameter" in found["words"]


def test_a_constant_lead_is_seen_with_two_seeds_where_no_cell_is_decided() -> None:
    """Six cells of −0.3: what the measured differences say, whatever a law can."""
    found = trend(ladder(-0.3, 0.0, noise=0.01, budgets=(5.0, 10.0)))
    assert (found["cells"], found["lead"]["verdict"]) == (6, "better")
    assert found["lead"]["low"] < -0.3 < found["lead"]["high"] < 0
    assert "The mean over all 6 cells: b is better by 0.29" in found["words"]
    assert found["size"]["verdict"] in ("holds", "undecided")
    assert found["size"]["low"] < 0 < found["size"]["high"]


def test_tokens_have_a_slope_of_their_own() -> None:
    found = trend(ladder(-0.3, 0.0, -0.2, seeds=3))
    assert found["tokens"]["verdict"] == "grows"
    assert found["tokens"]["low"] < -0.2 < found["tokens"]["high"]
    assert "The lead of b grows with training" in found["words"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sizes": (2e5, 1e6)}, "at least three sizes are needed, not 2"),
        ({"seeds": 1}, "with one seed the noise is unknown"),
    ],
)
def test_where_there_is_no_trend_the_reason_is_said(options: Any, reason: str) -> None:
    found = trend(ladder(-0.3, 0.0, **options))
    assert (found["size"]["mean"], found["size"]["verdict"]) == (None, "undecided")
    assert reason in found["size"]["reason"]
    assert reason in found["words"]


def test_a_run_without_a_loss_leaves_no_trend() -> None:
    cells = cells_of(ladder(-0.3, 0.0))
    cells[-1]["values"][0] = None
    [found] = trends(cells, ["a", "b"])
    assert found["lead"]["mean"] is None
    assert trend_words(found) == "No trend of b against a: 1 of 18 runs of b have no loss."


def test_several_arms_share_the_level() -> None:
    arms = [*ladder(-0.3, 0.0), made("c", sizes=SIZES, seeds=2, seed=5)]
    found = trends(cells_of(arms), ["a", "b", "c"])
    assert {one["size"]["confidence"] for one in found} == {0.975}


@pytest.mark.parametrize("setting", SETTINGS[:10], ids=lambda s: f"{s.sizes}-{s.seeds}-{s.words}")
def test_intervals_of_95_percent_hold_the_truth_in_95_percent(setting: Setting) -> None:
    """Normal noise, budgets of one trunk alike; with and without shifts and unlike noise. 800
    ladders: 95% within three standard errors."""
    rates = simulate(setting, ladders=800, seed=1)
    for rate in (rates.lead, rates.size, rates.tokens):
        assert rate == pytest.approx(0.95, abs=0.024)
    assert rates.false_holds < 0.025 + 0.017
