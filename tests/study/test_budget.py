"""Steps for a budget, widths for parameters."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.errors import StudyError, UsageError
from windtunnel.study.budget import (
    MATCHES,
    mismatches,
    parse_match,
    solve_width,
    steps_for,
    steps_within,
)


def test_steps_come_closest_to_the_budget() -> None:
    assert steps_for(200_000, 64 * 32) == 98
    assert steps_for(3 * 0.1, 0.1) == 3  # 0.30000000000000004 / 0.1 is above 3
    assert steps_for(56.26, 1) == 56  # up would give an arm 1.3% more than the first
    assert steps_for(56.5, 1) == 57
    assert steps_for(1, 1000) == 1
    assert steps_within(10.0, 3.99) == 39
    assert steps_within(0.01, 1.0) == 1


@given(st.integers(1, 10**6), st.floats(1e-3, 1e4))
def test_steps_at_a_speed_take_the_time_for_as_many_steps(steps: int, speed: float) -> None:
    """An arm that is matched with its own seconds keeps its steps."""
    assert steps_within(steps / speed, speed) == steps
    assert steps_within((steps + 0.999) / speed, speed) == steps


@given(st.integers(1, 10**12), st.integers(1, 10**7))
def test_no_other_number_of_steps_is_closer(amount: int, per_step: int) -> None:
    steps = steps_for(amount, per_step)
    assert steps >= 1
    assert steps == 1 or abs(steps * per_step - amount) <= per_step / 2 + 1e-9 * amount


@settings(max_examples=100)
@given(st.integers(1, 3000), st.integers(1, 2000), st.sampled_from([1, 2, 4, 12, 48, 128]))
def test_no_valid_width_is_closer(goal: int, start: int, divisor: int) -> None:
    def params(width: int) -> int | None:
        return 100 * width + 12 * width * width if width % divisor == 0 else None

    target = 100 * goal + 12 * goal * goal + 7
    found = solve_width(params, target, start=start)
    assert found.params == params(found.width)
    near = range(max(divisor, found.width - 2 * divisor), found.width + 2 * divisor + 1)
    counts = [count for width in near if (count := params(width)) is not None]
    assert abs(found.params - target) == min(abs(count - target) for count in counts)
    assert found.error == pytest.approx(found.params / target - 1)


def test_widths_stay_in_their_range() -> None:
    found = solve_width(lambda w: w, 10_000, start=100, low=75, high=125)
    assert (found.width, found.fits) == (125, False)
    assert solve_width(lambda w: w, 1, start=100, low=75, high=125).width == 75


def test_an_architecture_without_a_valid_width_is_told() -> None:
    with pytest.raises(StudyError, match="no width near 64"):
        solve_width(lambda width: None, 100, start=64)


def test_mismatches_are_relative_and_unknown_where_unknown() -> None:
    arm = {"tokens": 103.0, "flops": 50.0, "seconds": None}
    first = {"tokens": 100.0, "flops": 100.0, "seconds": 3.0}
    assert mismatches(arm, first) == {"tokens": 0.03, "flops": -0.5, "seconds": None}


def test_a_budget_is_named() -> None:
    assert [parse_match(name) for name in MATCHES] == list(MATCHES)
    with pytest.raises(UsageError, match="did you mean 'tokens'"):
        parse_match("token")
