"""A study made by hand, with hostile names, for the tests of the report."""

from __future__ import annotations

from typing import Any

from windtunnel.report.study_report import Curve, StudyReport

HOSTILE = '<script>alert("x")</script>'


def estimate(mean: float, half: float) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def arm(name: str, verdict: str, delta: float, **changes: Any) -> dict[str, Any]:
    first = verdict == "reference"
    loss = 1.9 + delta
    return {
        "name": name,
        "params": 1_234_567,
        "tokens": 819_200,
        "flops_per_token": 6.4e6,
        "loss": {**estimate(loss, 0.021), "values": [loss - 0.01, loss, loss + 0.01]},
        "bits_per_byte": {**estimate(loss / 2, 0.0105), "values": []},
        "delta": None if first else estimate(delta, 0.0183),
        "delta_bits_per_byte": None if first else estimate(delta / 2, 0.009),
        "p_value": None if first else 0.0041,
        "p_holm": None if first else 0.0082,
        "correlation": None if first else 0.72,
        "paired": None if first else True,
        "mde": None if first else 0.024,
        "verdict": verdict,
        "reason": "" if first else "paired t over 3 seeds",
        "diverged": False,
        "tokens_per_second": 18234.0,
        "peak_memory_bytes": 512 * 2**20,
        "mismatch": {"tokens": 0.0, "flops": 0.066, "params": -0.044, "seconds": 0.1},
        **changes,
    }


def verdicts(**changes: Any) -> dict[str, Any]:
    return {
        "arms": [
            arm("gpt2", "reference", 0.0),
            arm("llama", "better", -0.045),
            arm(HOSTILE, "undecided", 0.004),
        ],
        "match": "tokens",
        "budget": 819_200,
        "seeds": [0, 1, 2],
        "note": "A note.",
        "conclusion": "llama is better than gpt2.",
        **changes,
    }


def curve(shift: float = 0.0) -> Curve:
    def point(step: int) -> dict[str, Any]:
        loss = 5.5 / (1 + step) + shift
        return {"step": step, "tokens": 8 * step, "flops": 80 * step, "seconds": 0.1, "loss": loss}

    return Curve(
        evals=[{**point(step), "bits_per_byte": 2.0} for step in range(0, 40, 10)],
        train=[point(step) for step in range(40)],
    )


def report(**changes: Any) -> StudyReport:
    names = ["gpt2", "llama", HOSTILE]
    values: dict[str, Any] = {
        "title": f"A study {HOSTILE}",
        "verdicts": verdicts(),
        "curves": {name: {seed: curve(seed / 10) for seed in range(2)} for name in names},
        "configs": {name: f"arch:\n  name: {name}\n" for name in names},
        "diffs": {"llama": [("arch.mlp", "dense", HOSTILE), ("arch.bias", None, False)]},
        "samples": {f"Once {HOSTILE}": dict.fromkeys(names, f"upon {HOSTILE}")},
        "environment": {"torch": "2.13.0", "git": {"commit": HOSTILE, "dirty": False}},
        "command": f"windtunnel compare {HOSTILE}",
    }
    return StudyReport(**(values | changes))
