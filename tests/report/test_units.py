"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.report.units import (
    Estimate,
    bytes_text,
    count_text,
    decimals_for,
    duration_text,
    fixed,
    flops_text,
    p_text,
    percent_text,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (512, "512"),
        (999, "999"),
        (1000, "1k"),
        (1234, "1.23k"),
        (999_600, "1M"),
        (1_234_567, "1.23M"),
        (12_345_678, "12.3M"),
        (70e9, "70B"),
        (-1500, "-1.5k"),
        (3.5, "3.50"),
        (None, "n/a"),
        (math.inf, "n/a"),
    ],
)
def test_counts(value: float | None, text: str) -> None:
    assert count_text(value) == text


def test_flops_and_bytes() -> None:
    assert flops_text(3.4e9) == "3.4 GFLOP"
    assert bytes_text(512 * 2**20) == "512 MB"
    assert bytes_text(1023) == "1023 B"
    assert bytes_text(1024 * 1023.9) == "1 MB"
    assert bytes_text(None) == "n/a"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (2.5e-7, "250 ns"),
        (0.85, "850 ms"),
        (3.14, "3.1 s"),
        (42.4, "42 s"),
        (59.7, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (100_000, "1 d 03 h"),
        (None, "n/a"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration_text(seconds) == text


def test_percentages() -> None:
    assert percent_text(0.125) == "+12.5%"
    assert percent_text(-2.5) == "-250%"
    assert percent_text(3e-9) == "+3e-07%"
    assert percent_text(None) == "n/a"


def test_p_values_never_read_as_zero() -> None:
    assert [p_text(p) for p in (0.5, 0.001, 0.0009999, 0.0, None)] == [
        "0.500",
        "0.001",
        "<0.001",
        "<0.001",
        "n/a",
    ]


def test_value_and_interval_have_the_same_digits() -> None:
    estimate = Estimate(-0.04512, -0.0634, -0.0268)
    assert estimate.mean_text(signed=True) == "-0.045"
    assert estimate.interval_text(signed=True) == "[-0.063, -0.027]"
    assert Estimate(1.9).mean_text() == "1.9000"
    assert Estimate(None, None, None).mean_text() == "n/a"
    assert Estimate(None).interval_text() == ""
    assert Estimate(math.inf, 1.0, math.inf).mean_text() == "inf"


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-6, 1e6))
def test_an_interval_is_shown_with_two_significant_digits_or_whole_numbers(half: float) -> None:
    decimals = decimals_for(half)
    shown = float(f"{half:.{decimals}f}")
    assert abs(shown - half) <= 0.05 * half or decimals == 0
    assert decimals == 0 or float(f"{half:.{decimals - 1}f}") != shown or half * 10**decimals < 100


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e-3, 1e-3), st.integers(0, 4))
def test_no_number_is_minus_zero(value: float, decimals: int) -> None:
    text = fixed(value, decimals, signed=True)
    assert (float(text) == 0) == (not text.startswith(("+", "-")))
