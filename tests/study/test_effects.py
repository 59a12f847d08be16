"""Effects and interactions against a naive reference, and on simulated studies."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from windtunnel.study import statistics
from windtunnel.study.contrasts import levels_without_effect
from windtunnel.study.design import Design, Kind, Point
from windtunnel.study.effects import Effect, PointResult, effects_of, interactions_of, level_means
from windtunnel.study.statistics import holm
from windtunnel.study.vary import Factor, Level


def factor(name: str, levels: int) -> Factor:
    return Factor(name, ((name,),), tuple(Level(f"{name}{i}", i, ()) for i in range(levels)))


def design(kind: Kind, *sizes: int, baseline: Point | None = None) -> Design:
    factors = tuple(factor("abcde"[i], size) for i, size in enumerate(sizes))
    own = baseline or (0,) * len(sizes)
    everything = list(itertools.product(*map(range, sizes)))
    chosen = {
        "grid": lambda p: True,
        "one": lambda p: sum(map(bool, p)) <= 1,
        "leave_one_out": lambda p: sum(p) >= len(p) - 1,
        "both": lambda p: sum(p) >= len(p) - 1 or sum(p) <= 1,
    }[kind]
    return Design(kind, factors, own, tuple(p for p in everything if chosen(p)), ())


def results(losses: dict[Point, np.ndarray]) -> dict[Point, PointResult]:
    return {
        point: PointResult(values=tuple(map(float, v)), params=100.0 + 10 * sum(point))
        for point, v in losses.items()
    }


def drawn(of: Design, seeds: int, generator: np.random.Generator, effect=lambda p: 0.0):
    """Losses whose noise is shared in part by all points of a seed, and unlike from point to
    point."""
    shared = generator.normal(0, 0.05, seeds)
    return {
        point: 3 + effect(point) + shared + generator.normal(0, 0.01 * (1 + sum(point)), seeds)
        for point in of.points
    }


def test_main_effects_are_those_of_a_naive_loop() -> None:
    of = design("grid", 2, 3, 2, baseline=(0, 1, 1))
    losses = drawn(of, 4, np.random.default_rng(0))
    found = {e.name: e for e in effects_of(of, results(losses))}
    assert len(found) == 1 + 2 + 1
    expected = {}
    for place, size in enumerate((2, 3, 2)):
        own = of.baseline[place]
        for level in set(range(size)) - {own}:
            apart = []
            for point in of.points:
                if point[place] == level:
                    base = list(point)
                    base[place] = own
                    apart.append(losses[point] - losses[tuple(base)])
            name = "abc"[place]
            expected[f"{name}: {name}{level} against {name}{own}"] = np.mean(apart, axis=0)
    adjusted = holm([float(stats.ttest_1samp(d, 0).pvalue) for d in expected.values()])
    for (name, by_seed), p_holm in zip(expected.items(), adjusted, strict=True):
        effect = found[name]
        assert effect.delta is not None
        interval = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
        assert effect.delta.mean == pytest.approx(by_seed.mean())
        assert (effect.delta.low_95, effect.delta.high_95) == pytest.approx(tuple(interval))
        assert effect.p_value == pytest.approx(stats.ttest_1samp(by_seed, 0).pvalue)
        assert effect.p_holm == pytest.approx(p_holm)
        assert (effect.verdict != "undecided") == (p_holm < 0.05)


def test_interactions_are_differences_of_differences() -> None:
    of = design("grid", 2, 3, 2)
    losses = drawn(of, 5, np.random.default_rng(1))
    found = {e.name: e for e in interactions_of(of, results(losses))}
    assert set(found) == {
        "a a1 × b b1", "a a1 × b b2", "a a1 × c c1", "b b1 × c c1", "b b2 × c c1"
    }  # fmt: skip
    y = losses
    by_hand = np.mean(
        [(y[a, 2, 1] - y[a, 0, 1]) - (y[a, 2, 0] - y[a, 0, 0]) for a in (0, 1)], axis=0
    )
    effect = found["b b2 × c c1"]
    assert effect.delta is not None
    assert effect.delta.mean == pytest.approx(by_hand.mean())
    assert effect.p_value == pytest.approx(stats.ttest_1samp(by_hand, 0).pvalue)
    assert effect.settings == effect.of_settings == 2


def test_one_at_a_time_and_both_directions() -> None:
    generator = np.random.default_rng(2)
    of = design("one", 3, 2)
    y = drawn(of, 3, generator)
    names = [effect.name for effect in effects_of(of, results(y))]
    assert names == ["b: b1 against b0", "a: a1 against a0", "a: a2 against a0"]
    assert interactions_of(of, results(y)) == ()

    both = design("both", 2, 2, 2)
    y = drawn(both, 3, generator)
    found = {e.name: e for e in effects_of(both, results(y))}
    means = {point: float(values.mean()) for point, values in y.items()}
    assert len(found) == 3 + 3 + 1
    assert_mean(found["b: b1 against b0"], means[0, 1, 0] - means[0, 0, 0])
    assert_mean(found["b: back to b0, all else changed"], means[1, 0, 1] - means[1, 1, 1])
    assert_mean(found["all changes against the file"], means[1, 1, 1] - means[0, 0, 0])
    beside = {e.name: e for e in interactions_of(both, results(y))}
    expected = (means[1, 1, 1] - means[1, 0, 1]) - (means[0, 1, 0] - means[0, 0, 0])
    assert_mean(beside["b b1 × all others"], expected)
    two = design("both", 2, 2)
    names = [e.name for e in interactions_of(two, results(drawn(two, 3, generator)))]
    assert names == ["a a1 × b"]


def assert_mean(effect: Effect, expected: float) -> None:
    assert effect.delta is not None
    assert effect.delta.mean == pytest.approx(expected)


def test_costs_and_level_means() -> None:
    of = design("grid", 2, 2)
    y = drawn(of, 3, np.random.default_rng(3))
    effect = effects_of(of, results(y))[0]
    assert effect.params == pytest.approx(((110 / 100 - 1) + (120 / 110 - 1)) / 2)
    means = level_means(of, results(y))
    assert [(m.factor, m.level, m.settings) for m in means][:2] == [("a", "a0", 2), ("a", "a1", 2)]
    by_seed = (y[1, 0] + y[1, 1]) / 2
    interval = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
    assert (means[1].loss["mean"], means[1].loss["low"]) == pytest.approx(
        (by_seed.mean(), interval.low)
    )
    assert level_means(design("one", 2, 2), results(y)) == ()


def test_levels_of_which_no_effect_can_be_told_are_named() -> None:
    of = design("grid", 2, 3)
    assert levels_without_effect(of) == []
    left = Design(of.kind, of.factors, of.baseline, tuple(p for p in of.points if p != (0, 2)), ())
    assert levels_without_effect(left) == []  # (1, 2) against (1, 0) is left
    left = Design(of.kind, of.factors, of.baseline, ((0, 0), (0, 1), (1, 2)), ())
    assert levels_without_effect(left) == ["a: a1", "b: b2"]
    one = design("one", 3, 2)
    left = Design(one.kind, one.factors, one.baseline, ((0, 0), (2, 0), (0, 1)), ())
    assert levels_without_effect(left) == ["a: a1"]
    for kind in ("one", "both", "leave_one_out"):
        assert levels_without_effect(design(kind, 2, 2, 2)) == []
    taken = design("leave_one_out", 2, 2, 2)
    left = Design(taken.kind, taken.factors, taken.baseline, ((1, 1, 1), (0, 1, 1), (1, 0, 1)), ())
    assert levels_without_effect(left) == ["c: c0"]


def test_one_seed_has_no_interval_and_decides_nothing() -> None:
    of = design("grid", 2, 2)
    y = drawn(of, 1, np.random.default_rng(4))
    for effect in (*effects_of(of, results(y)), *interactions_of(of, results(y))):
        assert effect.verdict == "undecided"
        assert "single seed" in effect.reason
        assert effect.delta is not None
        assert effect.delta.low is None


def with_trouble(of: Design, trouble: dict[Point, str]) -> dict[Point, PointResult]:
    generator = np.random.default_rng(5)
    found = {}
    for point, values in drawn(of, 3, generator).items():
        kind = trouble.get(point)
        lost = (None, *map(float, values[1:])) if kind else tuple(map(float, values))
        found[point] = PointResult(
            values=lost, diverged=int(kind == "diverged"), failed=int(kind == "failed")
        )
    return found


def test_a_level_that_diverges_where_the_other_does_not_is_worse() -> None:
    of = design("grid", 2, 3)
    found = {e.name: e for e in effects_of(of, with_trouble(of, {(1, 2): "diverged"}))}
    worse = found["a: a1 against a0"]
    assert worse.verdict == "worse"
    assert worse.reason == "diverged at 1 of 3 settings where the other level did not"
    assert (worse.settings, worse.of_settings) == (2, 3)
    assert found["b: b2 against b0"].verdict == "worse"
    assert "diverged" not in found["b: b1 against b0"].reason
    better = effects_of(of, with_trouble(of, {(0, 0): "diverged", (0, 1): "diverged"}))[0]
    assert better.verdict == "better"
    both = effects_of(of, with_trouble(of, {(0, 0): "diverged", (1, 1): "diverged"}))[0]
    assert both.verdict == "undecided"
    assert "; the other level diverged at 1 of 3" in both.reason


def test_settings_without_a_result_on_both_sides_are_left_out_and_told() -> None:
    of = design("grid", 2, 3)
    lost = with_trouble(of, {(0, 2): "diverged", (1, 2): "diverged"})
    effect = effects_of(of, lost)[0]
    assert (effect.settings, effect.of_settings) == (2, 3)
    assert "1 of 3 settings left out: runs diverged" in effect.reason
    failed = effects_of(of, with_trouble(of, {(1, 2): "failed"}))[0]
    assert failed.verdict in ("undecided", "better", "worse")
    assert "1 of 3 settings left out: runs failed" in failed.reason
    nothing = with_trouble(of, dict.fromkeys(of.points, "failed"))
    for effect in (*effects_of(of, nothing), *interactions_of(of, nothing)):
        assert effect.verdict == "undecided"
        assert effect.delta is None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without minimum detectable effects: no verdict needs them, and they take the most time."""
    monkeypatch.setattr(statistics, "minimum_detectable", lambda error, df, alpha=0.05: 0.0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seeds", [2, 4])
def test_intervals_hold_what_is_true_in_95_of_100_studies(seeds: int) -> None:
    of = design("grid", 2, 3)

    def truth(point: Point) -> float:
        return 0.02 * point[0] - 0.01 * point[1] + 0.03 * (point == (1, 2))

    true = {
        "a: a1 against a0": 0.02 + 0.01,
        "b: b1 against b0": -0.01,
        "b: b2 against b0": -0.02 + 0.015,
        "a a1 × b b1": 0.0,
        "a a1 × b b2": 0.03,
    }
    generator = np.random.default_rng(seeds)
    studies, held = 1000, dict.fromkeys(true, 0)
    for _ in range(studies):
        found = results(drawn(of, seeds, generator, truth))
        for effect in (*effects_of(of, found), *interactions_of(of, found)):
            assert effect.delta is not None
            assert effect.delta.low_95 is not None
            assert effect.delta.high_95 is not None
            held[effect.name] += effect.delta.low_95 <= true[effect.name] <= effect.delta.high_95
    error = math.sqrt(0.95 * 0.05 / studies)
    assert all(abs(count / studies - 0.95) < 4 * error for count in held.values()), held


@pytest.mark.usefixtures("quick")
def test_a_grid_without_effects_gives_few_false_verdicts() -> None:
    of = design("grid", 2, 3, 2)
    generator = np.random.default_rng(7)
    studies, false_effects, false_interactions = 600, 0, 0
    for _ in range(studies):
        found = results(drawn(of, 3, generator))
        false_effects += any(e.verdict != "undecided" for e in effects_of(of, found))
        false_interactions += any(e.verdict != "undecided" for e in interactions_of(of, found))
    bound = 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)
    assert false_effects / studies < bound
    assert false_interactions / studies < bound


@pytest.mark.usefixtures("quick")
def test_a_true_effect_is_found_and_its_sign_is_right() -> None:
    of = design("grid", 2, 2)
    generator = np.random.default_rng(8)
    verdicts = []
    for _ in range(200):
        y = drawn(of, 5, generator, lambda point: -0.1 * point[0])
        verdicts.append(effects_of(of, results(y))[0].verdict)
    assert verdicts.count("better") > 180
    assert "worse" not in verdicts
