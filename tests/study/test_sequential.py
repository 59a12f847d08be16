"""Looks: p-values and intervals that allow for them, shown by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.study.test_judge import make_plan, record

from windtunnel.errors import UsageError
from windtunnel.study import calibrate
from windtunnel.study.calibrate_looks import (
    Setting,
    draw,
    holm_all,
    rate_interval,
    simulate,
)
from windtunnel.study.compare import judge
from windtunnel.study.sequential import MAX_LOOKS_SEEDS, Looks, crossing_probability
from windtunnel.study.statistics import (
    ALPHA,
    Difference,
    Floats,
    holm,
    paired_difference,
    two_sided_p,
)

PATHS = 60_000
TRIALS = 4000


def plain_p(differences: Floats, n: int) -> Floats:
    """Of the first n same-seed differences; the naive way, from scratch."""
    seen = differences[..., :n]
    return np.asarray(two_sided_p(paired_difference(np.zeros_like(seen), seen)))


@pytest.mark.parametrize(("first", "last"), [(2, 3), (2, 6), (3, 10), (5, 30)])
def test_the_chance_to_cross_any_boundary_is_the_simulated_one(first: int, last: int) -> None:
    differences = np.random.default_rng([first, last]).standard_normal((PATHS, last))
    p = np.stack([plain_p(differences, n) for n in range(first, last + 1)], axis=-1)
    for level in (0.3, 0.05, 0.005):
        looks = Looks(first, last)
        bounds = np.array([looks.nominal(level, n) for n in range(first, last + 1)])
        crossed = float((p < bounds).any(-1).mean())
        assert abs(crossed - level) < 4 * math.sqrt(level * (1 - level) / PATHS) + 0.01 * level


def test_constant_levels_are_integrated_too() -> None:
    differences = np.random.default_rng(1).standard_normal((PATHS, 8))
    p = np.stack([plain_p(differences, n) for n in range(2, 9)], axis=-1)
    levels = np.array([0.01, 0.05, 0.2])
    found = crossing_probability(np.repeat(levels[:, None], 7, axis=1), 2)
    for level, chance in zip(levels, found, strict=True):
        assert float((p < level).any(-1).mean()) == pytest.approx(chance, abs=0.008)
    assert found[1] > 0.13  # what looking without a correction would give


looks_of = st.sampled_from([Looks(2, 4), Looks(3, 10), Looks(2, 8, 0.0), Looks(7, 7)])


@settings(max_examples=60, deadline=None)
@given(looks_of, st.floats(1e-9, 1.0), st.data())
def test_levels_and_p_values_are_inverse_and_never_smaller_than_plain_ones(
    looks: Looks, p: float, data: st.DataObject
) -> None:
    n = data.draw(st.integers(looks.first, looks.last))
    adjusted = looks.adjusted(p, n)
    assert p <= adjusted * (1 + 1e-9)
    assert adjusted <= 1
    assert looks.adjusted(p / 2, n) <= adjusted
    if adjusted < 1:
        assert looks.nominal(adjusted, n) == pytest.approx(p, rel=1e-6)
    assert looks.adjusted_all(np.array([p, p / 2]), n)[0] == adjusted


def test_a_tiny_p_stays_in_proportion() -> None:
    looks = Looks(3, 10)
    small, smaller = looks.adjusted(1e-14, 5), looks.adjusted(1e-16, 5)
    assert small / smaller == pytest.approx(100)
    assert looks.nominal(small, 5) == pytest.approx(1e-14)


def test_a_single_look_needs_no_allowance() -> None:
    assert Looks.at(1).adjusted(0.03, 1) == 0.03
    assert Looks(5, 5).nominal(0.03, 5) == 0.03


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        (1, 5, "at least 2 seeds, not 1"),
        (4, 3, "before the first"),
        (3, MAX_LOOKS_SEEDS + 1, "at most 100 seeds"),
    ],
)
def test_unfit_looks_are_refused(first: int, last: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Looks(first, last)


@pytest.mark.parametrize("arms", [1, 3])
@pytest.mark.parametrize(
    ("noise", "r", "ratio"),
    [("normal", 0.0, 1.0), ("normal", 0.9, 3.0), ("t of 5 df", 0.5, 1.0), ("skewed", 0.5, 1.0)],
)
def test_equal_arms_get_a_verdict_in_at_most_five_per_cent_of_studies(
    arms: int, noise: str, r: float, ratio: float
) -> None:
    setting = Setting(looks=Looks(3, 10), arms=arms, noise=noise, r=r, ratio=ratio)
    generator = np.random.default_rng([arms, len(noise), int(10 * r)])
    false = simulate(setting, TRIALS, generator).differs.any(-1)
    low, high = rate_interval(int(false.sum()), TRIALS)
    assert low <= ALPHA  # five per cent is not refuted
    if noise == "normal" and arms == 1:
        assert high >= ALPHA  # and it is exact


@pytest.mark.parametrize("arms", [1, 3])
@pytest.mark.parametrize("margin", [1.0, 3.0])
def test_arms_at_the_margin_are_seldom_called_equivalent(arms: int, margin: float) -> None:
    setting = Setting(looks=Looks(3, 10), arms=arms, effect=margin, margin=margin)
    false = simulate(setting, TRIALS, np.random.default_rng(arms)).equivalent.any(-1)
    assert rate_interval(int(false.sum()), TRIALS)[1] < ALPHA


def test_looking_without_allowance_would_not_be_honest() -> None:
    differences = np.random.default_rng(0).standard_normal((TRIALS, 10))
    false = np.any([plain_p(differences, n) < ALPHA for n in range(3, 11)], axis=0)
    assert false.mean() > 0.12


def test_large_effects_take_few_seeds_and_small_margins_many() -> None:
    generator = np.random.default_rng(2)
    large = simulate(Setting(looks=Looks(3, 10), effect=4.0), TRIALS, generator)
    assert large.differs.mean() > 0.99
    assert large.seeds.mean() < 5
    equal = simulate(Setting(looks=Looks(3, 10), margin=3.0), TRIALS, generator)
    assert equal.equivalent.mean() > 0.9
    assert equal.seeds.mean() < 6


def test_the_simulation_does_what_the_verdicts_do() -> None:
    looks, margin = Looks(3, 6), 1.5
    generator = np.random.default_rng(11)
    kinds = set()
    for effect in (0.0, 0.0, 1.0, 1.5, 3.0, 6.0) * 3:
        setting = Setting(looks=looks, arms=2, effect=effect, margin=margin)
        again = np.random.default_rng(seed := int(generator.integers(2**31)))
        ended = simulate(setting, 1, np.random.default_rng(seed))
        base, *own = (draw(1, looks.last, "normal", again)[0] for _ in range(3))
        spread = math.sqrt(2)
        losses = {"base": base / spread}
        losses |= {f"arm{i}": x / spread + effect for i, x in enumerate(own)}
        counts = dict.fromkeys(losses, looks.first)
        while True:
            found = judged_by_count(losses, counts, looks, margin)
            going = [arm.name for arm in found.arms[1:] if arm.is_open and arm.seeds < looks.last]
            if not going:
                break
            counts |= {name: counts[name] + 1 for name in going}
            counts["base"] = max(counts.values())
        for i, arm in enumerate(found.arms[1:]):
            kinds.add(arm.verdict)
            assert arm.seeds == ended.seeds[0, i]
            assert (arm.verdict == "equivalent") == ended.equivalent[0, i]
            assert (arm.verdict in ("better", "worse")) == ended.differs[0, i]
    assert {"worse", "equivalent", "undecided"} <= kinds


def judged_by_count(losses, counts, looks, margin):  # type: ignore[no-untyped-def]
    plan = make_plan(list(losses), looks.last, counts=counts)
    records = {run.key: record(float(losses[run.arm][run.seed])) for run in plan.runs}
    return judge(plan, records, looks=looks, margin=margin)


@given(st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=6))
def test_holm_of_many_studies_is_holm_of_each(p_values: list[float]) -> None:
    found = holm_all(np.array([p_values, p_values]))
    assert list(found[1]) == pytest.approx([p or 0.0 for p in holm(p_values)], abs=1e-12)


def test_the_interval_of_a_rate_covers() -> None:
    assert rate_interval(0, 100)[0] == 0.0
    assert rate_interval(100, 100)[1] == 1.0
    low, high = rate_interval(5, 100)
    assert (low, high) == pytest.approx((0.0164, 0.1128), abs=1e-4)


@pytest.mark.slow
def test_the_tables_of_looks_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    calibrate.main(["looks", "--trials", "50"])
    printed = capsys.readouterr().out
    assert "| 11 | normal | 0.9 | 1 : 1 | " in printed
    assert "nan" not in printed


def test_a_step_of_the_walk_forgets_the_spread() -> None:
    # The chance does not depend on the unit: scaled differences have the same p-values.
    differences = np.random.default_rng(4).standard_normal((200, 6))
    mean, error = differences.mean(-1), differences.std(-1, ddof=1) / math.sqrt(6)
    plain = two_sided_p(Difference(mean, error, 5.0))
    assert np.allclose(plain_p(1000 * differences, 6), plain, rtol=1e-9)
