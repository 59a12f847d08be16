"""Scaling of RoPE: what is refused, and what stays at both ends of the frequencies."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from windtunnel.nn.positions.rope_scaling import RoPEScaling


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"type": "llama3", "factor": 2.0}, "llama3 needs original_max_seq_len"),
        ({"type": "yarn", "factor": 2.0}, "yarn needs original_max_seq_len"),
        (
            {"type": "linear", "factor": 2.0, "original_max_seq_len": 9},
            "original_max_seq_len has no effect on a scaling of type linear",
        ),
        (
            {"type": "linear", "factor": 2.0, "attention_factor": 1.1},
            "attention_factor has no effect on a scaling of type linear",
        ),
        (
            {"type": "llama3", "factor": 2.0, "original_max_seq_len": 9, "beta_fast": 3.0},
            "beta_fast has no effect on a scaling of type llama3",
        ),
        (
            {"type": "yarn", "factor": 2.0, "original_max_seq_len": 9, "low_freq_factor": 1.0},
            "low_freq_factor has no effect on a scaling of type yarn",
        ),
        (
            {"type": "llama3", "factor": 2.0, "original_max_seq_len": 9, "low_freq_factor": 4.0},
            "low_freq_factor must be less than high_freq_factor",
        ),
        ({"type": "linear", "factor": 0.0}, "greater than 0"),
    ],
)
def test_what_has_no_effect_or_is_missing_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RoPEScaling.model_validate(values)


@pytest.mark.parametrize("kind", ["llama3", "yarn"])
def test_fast_waves_stay_and_slow_ones_are_divided(kind: str) -> None:
    scaling = RoPEScaling.model_validate(
        {"type": kind, "factor": 8.0, "original_max_seq_len": 4096}
    )
    frequencies = 500_000.0 ** (-torch.arange(0, 128, 2, dtype=torch.float64) / 128)
    found = scaling.scaled(frequencies, 500_000.0)
    assert torch.equal(found[:8], frequencies[:8])
    torch.testing.assert_close(found[-8:], frequencies[-8:] / 8, atol=0, rtol=1e-12)
    assert (found[:-1] > found[1:]).all(), "the order of the waves is lost"


def test_what_was_left_out_is_filled_in_once() -> None:
    yarn = RoPEScaling(type="yarn", factor=4.0, original_max_seq_len=64).resolved()
    assert yarn.resolved() == yarn
    assert yarn.attention_factor == pytest.approx(1.1386294361)
