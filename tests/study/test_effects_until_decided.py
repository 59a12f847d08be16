"""Contrasts at several looks: the rule by itself, against compare's, and against its simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.study.test_effects import design, drawn, results
from tests.study.test_judge import judged

from windtunnel.study import calibrate_effects, statistics
from windtunnel.study.calibrate_effects import Setting, losses_of, plain_design, simulate
from windtunnel.study.calibrate_looks import rate_interval
from windtunnel.study.contrast_tests import PointResult, plain_p_value
from windtunnel.study.design import Design, Point
from windtunnel.study.effects import effects_of, interactions_of, level_means, open_points
from windtunnel.study.sequential import Looks
from windtunnel.study.statistics import ALPHA, compare_arms

LOOKS = Looks(3, 6)
TRIALS = 4000
Losses = dict[Point, np.ndarray]


def first_seeds(losses: Losses, counts: dict[Point, int]) -> dict[Point, PointResult]:
    """Results of as many seeds of each point; a NaN is a run that diverged."""
    found = {}
    for point, values in losses.items():
        known = [None if math.isnan(v) else float(v) for v in values[: counts[point]]]
        found[point] = PointResult(values=tuple(known), diverged=known.count(None))
    return found


def until_decided(
    of: Design, losses: Losses, looks: Looks, margin: float | None = None
) -> dict[Point, int]:
    """The seeds of each point, added as ``ablate`` adds them."""
    counts = dict.fromkeys(of.points, looks.first)
    while True:
        going = open_points(of, first_seeds(losses, counts), looks, margin)
        most = counts[of.points[0]]
        if not going or most == looks.last:
            return counts
        for point in {*going, of.points[0]}:
            assert counts[point] == most, "an arm that has stopped stays so"
            counts[point] += 1


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.sampled_from([0.0, 1.0, 1 + 1e-15, 2.5, -3.0, 1e6])] * 2),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_the_short_way_to_a_p_value_gives_that_of_a_comparison(pairs) -> None:
    minus, plus = zip(*pairs, strict=True)
    assert plain_p_value(minus, plus) == compare_arms(minus, plus, paired=True).p_value


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.sampled_from([0.0, 1.0, 1 + 1e-15, 2.5, -3.0, 1e6])] * 2),
        min_size=1, max_size=5,
    ),
    st.sampled_from([1e-6, 0.5, 100.0]),
)  # fmt: skip
def test_the_short_way_to_equivalence_gives_that_of_a_comparison(pairs, margin: float) -> None:
    minus, plus = zip(*pairs, strict=True)
    of = design("one", 2)
    found = {(0,): PointResult(values=minus), (1,): PointResult(values=plus)}
    (effect,) = effects_of(of, found, None, margin)
    assert effect.p_equivalence == compare_arms(minus, plus, paired=True).p_equivalence(margin)


@pytest.mark.parametrize("margin", [None, 0.02, 0.06])
@pytest.mark.parametrize("seed", range(12))
def test_one_change_at_a_time_is_judged_as_compare_judges_arms(
    seed: int, margin: float | None
) -> None:
    of, looks = design("one", 2, 2, 2), Looks(3, 8)
    generator = np.random.default_rng(seed)
    size = generator.choice([0.0, 0.02, 0.05, 0.2], 3)
    losses = drawn(of, looks.last, generator, lambda p: float(np.dot(size, p)))
    counts = until_decided(of, losses, looks, margin)
    found = {e.factors[0]: e for e in effects_of(of, first_seeds(losses, counts), looks, margin)}
    arms = judged(
        {str(p): [float(v) for v in losses[p][: counts[p]]] for p in of.points},
        looks=looks, margin=margin,
    ).arms  # fmt: skip
    for point, arm in list(zip(of.points, arms, strict=True))[1:]:
        effect = found["abc"[point.index(1)]]
        assert effect.seeds == arm.seeds == counts[point]
        assert (effect.verdict, effect.is_open) == (arm.verdict, arm.is_open)
        assert effect.p_looks == pytest.approx(arm.p_looks)
        assert effect.p_holm == pytest.approx(arm.p_holm)
        assert effect.p_equivalence == pytest.approx(arm.p_equivalence)
        assert effect.mde_corrected == pytest.approx(arm.mde_corrected)
        assert arm.delta is not None
        assert effect.delta is not None
        assert vars(effect.delta) == pytest.approx(vars(arm.delta))


@pytest.mark.parametrize("seed", range(12))
def test_a_margin_changes_no_difference(seed: int) -> None:
    """What is better or worse without it has the same p-values with it, equivalent or not."""
    of = design("grid", 2, 2)
    generator = np.random.default_rng([seed, 9])
    losses = drawn(of, 5, generator, lambda p: 0.03 * p[0])
    found = first_seeds(losses, dict.fromkeys(of.points, 5))
    for effects in (effects_of, interactions_of):
        plain, given_one = effects(of, found), effects(of, found, None, 0.05)
        for one, other in zip(plain, given_one, strict=True):
            assert (one.p_value, one.p_holm, one.mde) == (other.p_value, other.p_holm, other.mde)
            assert one.p_equivalence is None
            if other.verdict not in ("equivalent", "additive"):
                assert (one.verdict, one.delta) == (other.verdict, other.delta)
                continue
            assert other.delta is not None
            assert other.delta.low is not None
            assert other.delta.high is not None
            assert -0.05 < other.delta.low < other.delta.high < 0.05
            assert not other.is_open


def test_what_is_less_than_the_margin_is_equivalent_or_additive() -> None:
    of = design("grid", 2, 2)
    losses = drawn(of, 6, np.random.default_rng(4), lambda p: 0.5 * p[0] + 0.02 * p[1])
    found = first_seeds(losses, dict.fromkeys(of.points, 6))
    first, second = effects_of(of, found, None, 0.2)
    (both,) = interactions_of(of, found, None, 0.2)
    assert (first.verdict, second.verdict, both.verdict) == ("worse", "equivalent", "additive")
    assert second.reason == "the interval lies within ±0.2"
    small = {p: PointResult(values=tuple(3 + 0.01 * p[0] + 1e-4 * i for i in range(6)))
             for p in of.points}  # fmt: skip
    noisy = {
        point: PointResult(values=tuple(v + 1e-4 * ((7 * i + 3 * sum(point)) % 5)
                                        for i, v in enumerate(result.values)))
        for point, result in small.items()
    }  # fmt: skip
    worse, _ = effects_of(of, noisy, None, 0.2)
    assert worse.verdict == "equivalent"
    assert worse.reason.startswith("worse, but by less than the margin: the interval lies within")


def test_identical_losses_are_equivalent_and_diverged_runs_go_before() -> None:
    of = design("one", 2)
    same = {p: PointResult(values=(1.0, 2.0, 3.0)) for p in of.points}
    assert effects_of(of, same)[0].verdict == "undecided"
    (effect,) = effects_of(of, same, None, 0.1)
    assert (effect.verdict, effect.reason) == ("equivalent", "identical losses")
    lost = {**same, (1,): PointResult(values=(1.0, None, 3.0), diverged=1)}
    assert effects_of(of, lost, None, 0.1)[0].verdict == "worse"


def test_with_a_margin_a_grid_ends_where_nothing_else_is_there() -> None:
    of = design("grid", 2, 2)
    looks = Looks(3, 10)
    losses = drawn(of, 10, np.random.default_rng(2), lambda p: 0.5 * p[0])
    assert set(until_decided(of, losses, looks).values()) == {10}
    counts = until_decided(of, losses, looks, 0.3)
    assert max(counts.values()) < 10
    found = first_seeds(losses, counts)
    verdicts = [e.verdict for e in effects_of(of, found, looks, 0.3)]
    verdicts += [e.verdict for e in interactions_of(of, found, looks, 0.3)]
    assert verdicts == ["worse", "equivalent", "additive"]


def test_decided_arms_stop_and_the_reference_goes_on_with_the_others() -> None:
    of = design("one", 2, 2)
    losses = drawn(of, 6, np.random.default_rng(1), lambda p: 0.5 * p[0])
    counts = until_decided(of, losses, LOOKS)
    assert counts[1, 0] < 6
    assert counts[0, 0] == counts[0, 1] == 6
    taken = design("leave_one_out", 2, 2)
    taken = Design(taken.kind, taken.factors, taken.baseline, taken.points[::-1], ())
    counts = until_decided(taken, drawn(taken, 6, np.random.default_rng(1), lambda p: 0.5 * p[0]),
                           LOOKS)  # fmt: skip
    assert counts[0, 1] < 6
    assert counts[1, 1] == counts[1, 0] == 6


def test_in_a_grid_all_points_go_on_until_nothing_is_open() -> None:
    of = design("grid", 2, 2)
    generator = np.random.default_rng(2)
    losses = drawn(of, 6, generator, lambda p: 0.5 * p[0])
    counts = until_decided(of, losses, LOOKS)
    assert set(counts.values()) == {6}
    found = first_seeds(losses, counts)
    (first, _) = effects_of(of, found, LOOKS)
    assert first.verdict == "worse"
    assert first.seeds == 6  # decided before that, told from all seeds
    assert interactions_of(of, found, LOOKS)[0].is_open
    everything = drawn(of, 6, generator, lambda p: 0.5 * p[0] + 0.7 * p[1] + 0.9 * p[0] * p[1])
    assert max(until_decided(of, everything, LOOKS).values()) < 6


def test_what_was_decided_stays_so_and_is_told_from_the_last_look_that_says_it() -> None:
    of, looks = design("one", 2), Looks(3, 5)
    base = np.array([3.0, 3.01, 2.99, 3.0, 3.0])
    change = base + np.array([0.5, 0.501, 0.5005, 0.5, 2.0])
    found = first_seeds({(0,): base, (1,): change}, {(0,): 5, (1,): 5})
    (effect,) = effects_of(of, found, looks)
    by_all = compare_arms(list(base), list(change), paired=True).p_value
    assert by_all is not None
    assert looks.adjusted(by_all, 5) > ALPHA
    assert (effect.verdict, effect.seeds, effect.is_open) == ("worse", 4, False)
    assert effect.reason == "by its first 4 seeds, not by all 5"
    assert effect.p_holm is not None
    assert effect.p_holm < ALPHA
    assert effect.delta is not None
    assert effect.delta.low is not None
    assert effect.delta.low > 0


def test_an_equivalence_is_told_from_the_last_look_that_says_it_with_its_own_interval() -> None:
    of, looks, margin = design("one", 2), Looks(3, 5), 0.1
    base = np.array([3.0, 3.01, 2.99, 3.0, 3.0])
    change = base + np.array([0.02, 0.021, 0.0205, 0.02, 0.6])
    found = first_seeds({(0,): base, (1,): change}, {(0,): 5, (1,): 5})
    (effect,) = effects_of(of, found, looks, margin)
    by_four = compare_arms(list(base[:4]), list(change[:4]), paired=True)
    assert by_four.p_equivalence(margin) is not None
    assert (effect.verdict, effect.seeds, effect.is_open) == ("equivalent", 4, False)
    assert effect.reason == (
        "worse, but by less than the margin: the interval lies within ±0.1; "
        "by its first 4 seeds, not by all 5"
    )
    assert effect.p_equivalence == looks.adjusted(by_four.p_equivalence(margin) or 0.0, 4)
    assert effect.delta is not None
    assert effect.delta.high is not None
    assert effect.delta.high < margin
    (without,) = effects_of(of, found, looks)
    assert without.verdict == "worse"


def test_effects_and_interactions_are_families_of_their_own_with_a_margin() -> None:
    """With one other effect the correction doubles; with none (the interaction) it does not."""
    of, margin = design("grid", 2, 2), 0.2
    generator = np.random.default_rng(11)
    losses = drawn(of, 5, generator, lambda p: 0.3 * p[1])  # the second reaches the margin
    found = first_seeds(losses, dict.fromkeys(of.points, 5))
    first, second = effects_of(of, found, None, margin)
    (both,) = interactions_of(of, found, None, margin)
    assert (first.verdict, second.verdict, both.verdict) == ("equivalent", "worse", "additive")

    def alone(weights: dict[Point, float]) -> float:
        d = sum(weight * np.asarray(losses[p]) for p, weight in weights.items())
        plain = compare_arms([0.0] * 5, list(d), paired=True).p_equivalence(margin)
        assert plain is not None
        return plain

    main = alone({(1, 0): 0.5, (1, 1): 0.5, (0, 0): -0.5, (0, 1): -0.5})
    assert first.p_equivalence == pytest.approx(2 * main)
    assert second.p_equivalence == 1.0
    together = alone({(1, 1): 1.0, (1, 0): -1.0, (0, 1): -1.0, (0, 0): 1.0})
    assert both.p_equivalence == pytest.approx(together)


@pytest.mark.parametrize("margin", [None, 0.03])
@pytest.mark.parametrize("seed", range(20))
def test_verdicts_and_intervals_do_not_contradict(seed: int, margin: float | None) -> None:
    generator = np.random.default_rng([seed, 5])
    of, looks = design("grid", 2, 3), Looks(3, 7)
    size = generator.choice([0.0, 0.02, 0.04], 2)
    losses = drawn(of, looks.last, generator, lambda p: float(np.dot(size, p)))
    found = first_seeds(losses, until_decided(of, losses, looks, margin))
    asked = (of, found, looks, margin)
    for effect in (*effects_of(*asked), *interactions_of(*asked)):
        assert effect.p_value is not None
        assert effect.p_looks == looks.adjusted(effect.p_value, effect.seeds)
        assert effect.p_holm is not None
        assert effect.p_holm >= effect.p_looks
        assert effect.delta is not None
        assert effect.delta.low is not None
        assert effect.delta.high is not None
        if effect.verdict in ("equivalent", "additive"):
            assert margin is not None
            assert -margin < effect.delta.low < effect.delta.high < margin
            assert effect.p_equivalence is not None
            assert effect.p_equivalence < ALPHA
            assert not effect.is_open
            continue
        outside = effect.delta.low > 0 or effect.delta.high < 0
        assert outside == (effect.p_holm < ALPHA) == (effect.verdict != "undecided")
        assert effect.is_open == (effect.verdict == "undecided")
        assert effect.mde is not None
        assert effect.mde_corrected is not None
        assert effect.mde_corrected > effect.mde


def test_without_looks_nothing_is_allowed_for() -> None:
    of = design("grid", 2, 2)
    found = results(drawn(of, 4, np.random.default_rng(3)))
    for fixed, single in zip(effects_of(of, found), effects_of(of, found, Looks(4, 4)),
                             strict=True):  # fmt: skip
        assert fixed.p_looks is None
        assert (fixed.p_holm, fixed.delta) == (single.p_holm, single.delta)


def test_seeds_are_not_spent_where_they_can_change_nothing() -> None:
    of, generator = design("grid", 2, 2, 2), np.random.default_rng(4)
    losses = drawn(of, 6, generator)
    losses[1, 1, 1][0] = math.nan  # worse for every factor; the interactions have other settings
    found = first_seeds(losses, dict.fromkeys(of.points, 3))
    said = effects_of(of, found, LOOKS)
    assert [(e.verdict, e.by_divergence, e.is_open) for e in said] == [("worse", True, False)] * 3
    assert {(e.settings, e.is_open) for e in interactions_of(of, found, LOOKS)} == {(1, True)}
    assert open_points(of, found, LOOKS) == set(of.points) - {(1, 1, 1)}
    counts = until_decided(of, losses, LOOKS)
    assert counts[1, 1, 1] == 3
    assert set(counts.values()) == {3, 6}
    assert {m.settings for m in level_means(of, first_seeds(losses, counts))} == {3, 4}


def test_losses_that_agree_to_the_bit_ask_for_no_seeds() -> None:
    of = design("one", 2, 2)
    losses = drawn(of, 6, np.random.default_rng(6))
    losses[0, 1] = losses[0, 0]
    found = first_seeds(losses, dict.fromkeys(of.points, 3))
    same = next(e for e in effects_of(of, found, LOOKS) if e.factors == ("b",))
    assert (same.verdict, same.reason, same.is_open) == ("undecided", "identical losses", False)
    assert open_points(of, found, LOOKS) == {(0, 0), (1, 0)}


def test_a_run_that_diverges_late_does_not_undo_what_clean_seeds_said_of_an_interaction() -> None:
    of = design("grid", 2, 2)
    losses = drawn(of, 6, np.random.default_rng(7), lambda p: 0.9 * p[0] * p[1])
    losses[0, 1][5] = math.nan
    found = first_seeds(losses, dict.fromkeys(of.points, 6))
    (together,) = interactions_of(of, found, LOOKS)
    assert (together.verdict, together.seeds) == ("worse together", 5)
    assert together.reason == "by its first 5 seeds, not by all 6"
    assert [e.by_divergence for e in effects_of(of, found, LOOKS)] == [True, True]


def test_points_of_unlike_seeds_have_means_over_those_they_share() -> None:
    of = design("grid", 2, 2)
    losses = drawn(of, 6, np.random.default_rng(8))
    counts = dict.fromkeys(of.points, 6) | {(1, 1): 4}
    means = level_means(of, first_seeds(losses, counts))
    by_hand = np.mean([losses[1, 0][:4], losses[1, 1][:4]])
    assert means[1].loss["mean"] == pytest.approx(by_hand)


@pytest.mark.parametrize(
    "shape",
    [("one", (2, 2)), ("leave_one_out", (2, 2, 2)), ("both", (2, 2)), ("both", (2, 2, 2)),
     ("grid", (2, 2)), ("grid", (2, 3))],
    ids=calibrate_effects.shape_words,
)  # fmt: skip
@pytest.mark.parametrize("margin", [None, 4.0])
def test_the_simulation_does_what_ablations_do(shape, margin: float | None) -> None:
    of = plain_design(shape)
    within = None if margin is None else margin * math.sqrt(2)
    stopped = 0
    for seed, truth in itertools.product(range(4), calibrate_effects.TRUTHS):
        setting = Setting(
            shape=shape, looks=LOOKS, truth=truth, effect=2.0 + seed, ratio=2.0, margin=margin
        )
        ended = simulate(setting, 1, np.random.default_rng(seed))
        values, _ = losses_of(setting, of.points, 1, np.random.default_rng(seed))
        losses = dict(zip(of.points, values[0], strict=True))
        counts = until_decided(of, losses, LOOKS, within)
        assert sum(counts.values()) == ended.runs[0]
        stopped += ended.runs[0] < LOOKS.last * len(of.points)
        found = first_seeds(losses, counts)
        asked = (of, found, LOOKS, within)
        said = [e.verdict for e in (*effects_of(*asked), *interactions_of(*asked))]
        equal = ended.equivalent[0]
        assert [verdict in ("equivalent", "additive") for verdict in said] == list(equal)
        told = [verdict not in ("undecided", "equivalent", "additive") for verdict in said]
        assert told == list(ended.decided[0] & ~equal)
    assert stopped or 3 in shape[1]  # of three levels one is always without an effect here


@pytest.mark.parametrize(
    ("shape", "truth", "noise", "ratio"),
    [
        (("one", (2, 2, 2)), "none", "normal", 1.0),
        (("one", (2, 2, 2)), "one factor", "normal", 3.0),
        (("both", (2, 2, 2)), "none", "normal", 1.0),
        (("both", (2, 2, 2)), "one interaction", "normal", 1.0),
        (("grid", (2, 2, 2)), "none", "normal", 3.0),
        (("grid", (2, 2, 2)), "one factor", "normal", 1.0),
        (("grid", (3, 3)), "one interaction", "normal", 1.0),
        (("grid", (2, 2, 2)), "none", "t of 5 df", 1.0),
    ],
)
def test_each_family_has_a_false_verdict_in_at_most_five_per_cent(
    shape, truth: str, noise: str, ratio: float
) -> None:
    setting = Setting(shape=shape, looks=Looks(3, 10), truth=truth, noise=noise, ratio=ratio)
    ended = simulate(setting, TRIALS, np.random.default_rng([len(truth), int(ratio)]))
    for false in (ended.false[:, : ended.effects], ended.false[:, ended.effects :]):
        assert rate_interval(int(false.any(-1).sum()), TRIALS, 0.01)[0] <= ALPHA


@pytest.mark.parametrize("truth", ["every factor", "one interaction"])
@pytest.mark.parametrize("shape", [("both", (2, 2, 2)), ("grid", (2, 2))])
@pytest.mark.parametrize("looks", [Looks(3, 10), Looks(10, 10)])
def test_what_reaches_the_margin_is_seldom_called_less(shape, looks: Looks, truth: str) -> None:
    setting = Setting(shape=shape, looks=looks, truth=truth, effect=2.0, margin=2.0)
    ended = simulate(setting, TRIALS, np.random.default_rng(5))
    falsely = ended.equivalent & ended.reaches
    assert ended.reaches.any()
    for family in (falsely[:, : ended.effects], falsely[:, ended.effects :]):
        assert rate_interval(int(family.any(-1).sum()), TRIALS, 0.01)[0] <= ALPHA / 2


def test_intervals_hold_the_truth_whichever_look_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    # No verdict needs them, and they take the most time.
    monkeypatch.setattr(statistics, "minimum_detectable", lambda error, df, alpha=0.05: 0.0)
    of, looks, studies = design("grid", 2, 2), Looks(3, 6), 500
    generator, held = np.random.default_rng(9), np.zeros(3)
    true = (0.03 + 0.02, 0.02, 0.04)
    for _ in range(studies):
        losses = drawn(of, 6, generator, lambda p: 0.03 * p[0] + 0.04 * p[0] * p[1])
        found = first_seeds(losses, dict.fromkeys(of.points, 6))
        said = [*effects_of(of, found, looks), *interactions_of(of, found, looks)]
        for place, (effect, truth) in enumerate(zip(said, true, strict=True)):
            assert effect.delta is not None
            assert effect.delta.low_95 is not None
            assert effect.delta.high_95 is not None
            held[place] += effect.delta.low_95 <= truth <= effect.delta.high_95
    assert (held / studies > 0.95 - 3 * math.sqrt(0.05 * 0.95 / studies)).all(), held


def test_looking_without_allowance_would_not_be_honest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Looks, "adjusted_all", lambda self, p, n: p)
    setting = Setting(shape=("grid", (2, 2, 2)), looks=Looks(3, 10))
    ended = simulate(setting, TRIALS, np.random.default_rng(0))
    assert ended.false[:, : ended.effects].any(-1).mean() > 0.12


def test_what_is_there_is_found_with_fewer_runs() -> None:
    setting = Setting(shape=("both", (2, 2)), looks=Looks(3, 10), truth="one interaction")
    ended = simulate(setting, TRIALS, np.random.default_rng(1))
    assert (ended.decided & ~ended.false)[:, ended.true].mean() > 0.9
    assert ended.runs.mean() < 10 * 4
    alone = Setting(shape=("one", (2,)), looks=Looks(3, 10), truth="one factor", effect=4.0)
    assert simulate(alone, TRIALS, np.random.default_rng(2)).runs.mean() < 10


@pytest.mark.slow
def test_the_tables_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    calibrate_effects.main(["--trials", "20"])
    printed = capsys.readouterr().out
    assert "| grid of 2 × 2 × 2 | one factor | normal | 1 : 3 | " in printed
    assert "nan" not in printed
