"""Verdicts of tasks: the family's correction, looks, and what must not be tested."""

from __future__ import annotations

import numpy as np
import pytest

from windtunnel.study.calibrate_crossed import any_false
from windtunnel.study.crossed import Crossed, crossed_mean
from windtunnel.study.sequential import Looks
from windtunnel.study.statistics import holm
from windtunnel.study.task_verdicts import ONE_SEED, Asked, judge_answers


def difference(mean: float, seeds: int = 4, items: int = 30, seed: int = 0) -> Crossed:
    generator = np.random.default_rng(seed)
    values = mean + 0.1 * generator.standard_normal((seeds, items))
    return crossed_mean(values + 0.01 * generator.standard_normal((seeds, 1)))


def asked(mean: float, **more: object) -> Asked:
    return Asked(difference=difference(mean), **{"higher_is_better": True, **more})  # type: ignore[arg-type]


def test_the_sign_and_the_measure_say_what_is_better() -> None:
    found = judge_answers([asked(0.5), asked(-0.5), asked(0.5, higher_is_better=False), asked(0.0)])
    assert [one.verdict for one in found] == ["better", "worse", "worse", "undecided"]


def test_p_values_are_corrected_over_the_whole_family() -> None:
    comparisons = [asked(mean) for mean in (0.5, 0.04, 0.03, 0.0)]
    comparisons.append(Asked(difference=None, higher_is_better=True))
    found = judge_answers(comparisons)
    plain = [one.p_value for one in found]
    assert [one.p_holm for one in found] == holm(plain)
    assert found[-1].reason == "no seeds that both arms have"
    # The one without a p-value counts: the smallest is multiplied by five.
    assert plain[0] is not None
    assert found[0].p_holm == pytest.approx(5 * plain[0])
    assert found[0].confidence == pytest.approx(1 - 0.05 / 5)
    for one in found[:-1]:
        low, high = one.interval.low, one.interval.high
        assert low is not None
        assert high is not None
        assert (low > 0 or high < 0) == (one.verdict != "undecided")


def test_what_is_visible_by_itself_only_is_told_so() -> None:
    alone = judge_answers([asked(0.04)])[0]
    assert (alone.verdict, alone.reason) == ("better", "")
    among = judge_answers([asked(0.04), *(asked(0.0) for _ in range(30))])[0]
    assert among.verdict == "undecided"
    assert among.reason == "visible by itself, not after the correction for several comparisons"


def test_looks_are_allowed_for() -> None:
    looks = Looks(3, 10)
    plain, looked = judge_answers([asked(0.5)])[0], judge_answers([asked(0.5, looks=(looks,))])[0]
    assert plain.p_looks is None
    assert plain.p_value == looked.p_value
    assert looked.p_looks == pytest.approx(looks.adjusted(looked.p_value or 0.0, 4))
    assert looked.p_holm == looked.p_looks
    assert (looked.interval.low or 0) < (plain.interval.low or 0)
    both = judge_answers([asked(0.5, looks=(looks, Looks(2, 20)))])[0]
    assert both.p_looks == pytest.approx(
        max(one.adjusted(plain.p_value or 0.0, 4) for one in (looks, Looks(2, 20)))
    )


def test_what_must_not_be_tested_is_undecided() -> None:
    single = Asked(difference=difference(5.0, seeds=1), higher_is_better=True)
    lost = asked(5.0, trouble="a: seed 1 diverged")
    equal = Asked(difference=crossed_mean(np.ones((3, 4))), higher_is_better=True)
    found = judge_answers([single, lost, equal])
    assert [one.verdict for one in found] == ["undecided"] * 3
    assert [one.p_holm for one in found] == [None] * 3
    reasons = [ONE_SEED, "a: seed 1 diverged", "all figures are equal"]
    assert [one.reason for one in found] == reasons
    assert found[0].confidence == 0.95, "an interval of the items alone is not corrected"


@pytest.mark.parametrize("looks", [Looks(3, 3), Looks(2, 5)])
def test_studies_without_a_difference_have_few_verdicts(looks: Looks) -> None:
    """Of 400 studies of six comparisons at most 5% have one, and 3.3 standard errors more."""
    assert any_false(looks, 400, gap=1.0) < 0.05 + 3.3 * (0.05 * 0.95 / 400) ** 0.5
