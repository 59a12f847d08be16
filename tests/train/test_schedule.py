"""The recipe's fields, and the learning rate as a function of config and step."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from standins import recipe

from windtunnel.train.config import TrainConfig
from windtunnel.train.schedule import lr_at, preview
from windtunnel.train.schedule_config import ScheduleConfig


def rates(**schedule: object) -> list[float]:
    config = TrainConfig(steps=10, lr=2.0, schedule=schedule)
    return [lr_at(config, step) for step in range(10)]


def test_cosine_golden() -> None:
    expected = [2 / 3, 4 / 3] + [
        2 * (0.1 + 0.9 * (1 + math.cos(math.pi * k / 8)) / 2) for k in range(8)
    ]
    assert rates(type="cosine", warmup=2) == pytest.approx(expected, rel=1e-12)
    golden = [0.666667, 1.333333, 2.0, 1.931492, 1.736396, 1.444415, 1.1, 0.755585, 0.463604]
    assert rates(type="cosine", warmup=2)[:9] == pytest.approx(golden, abs=1e-6)


def test_linear_golden() -> None:
    assert rates(type="linear", warmup=0.2, min_ratio=0.0) == pytest.approx(
        [2 / 3, 4 / 3, 2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25]
    )


def test_wsd_golden() -> None:
    assert rates(type="wsd", warmup=1, decay=0.4) == pytest.approx(
        [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5]
    )


def test_flat_golden() -> None:
    assert rates(type="flat", warmup=1) == pytest.approx([1.0] + [2.0] * 9)


def test_cosine_with_restarts_golden() -> None:
    """One warm-up step, then cycles of 3 and 6 steps."""
    found = rates(type="cosine", warmup=1, cycles=2, cycle_factor=2.0, min_ratio=0.0)
    half = [2 * (1 + math.cos(math.pi * k / 3)) / 2 for k in range(3)]
    whole = [2 * (1 + math.cos(math.pi * k / 6)) / 2 for k in range(6)]
    assert found == pytest.approx([1.0, *half, *whole], rel=1e-12)
    golden = [1.0, 2.0, 1.5, 0.5, 2.0, 1.866025, 1.5, 1.0, 0.5, 0.133975]
    assert found == pytest.approx(golden, abs=1e-6)


def test_tail_golden() -> None:
    found = rates(type="linear", warmup=0, tail=0.3, min_ratio=0.3)
    assert found == pytest.approx([2.0, 1.8, 1.6, 1.4, 1.2, 1.0, 0.8, 0.6, 0.6, 0.6])
    assert rates(type="cosine", warmup=0, tail=2)[-2:] == pytest.approx([0.2, 0.2])


def test_step_golden() -> None:
    found = rates(type="step", warmup=1, milestones=(0.4, 7), factor=0.5)
    assert found == [1.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5]
    assert rates(type="step", warmup=0)[::5] == pytest.approx([2.0, 0.2])


def test_inverse_sqrt_golden() -> None:
    found = rates(type="inverse_sqrt", warmup=2)
    assert found[:3] == pytest.approx([2 / 3, 4 / 3, 2.0])
    assert found[4] == pytest.approx(2 * math.sqrt(2 / 4))
    assert found[8] == pytest.approx(2 * math.sqrt(2 / 8))
    assert rates(type="inverse_sqrt", warmup=0)[3] == pytest.approx(1.0)


@given(
    steps=st.integers(40, 400),
    cycles=st.integers(1, 4),
    factor=st.sampled_from([0.5, 1.0, 1.5, 2.0]),
    tail=st.sampled_from([0, 3, 0.1]),
)
def test_each_cycle_begins_at_the_peak_and_falls(
    steps: int, cycles: int, factor: float, tail: float
) -> None:
    schedule = {"type": "cosine", "warmup": 2, "cycles": cycles, "tail": tail}
    schedule |= {"cycle_factor": factor} if cycles > 1 else {}
    config = TrainConfig(steps=steps, lr=1.0, schedule=schedule)
    values = [lr_at(config, step) for step in range(steps)]
    bounds = config.schedule.restarts(steps)
    assert bounds[0] == 2
    assert bounds[-1] == steps - config.schedule.steps_of(tail, steps)
    for start, end in itertools.pairwise(bounds):
        assert values[start] == 1.0
        assert values[start:end] == sorted(values[start:end], reverse=True)
    assert all(value == pytest.approx(0.1) for value in values[bounds[-1] :])


@given(
    kind=st.sampled_from(["cosine", "linear", "wsd", "flat", "step", "inverse_sqrt"]),
    steps=st.integers(3, 300),
    warmup=st.floats(0, 0.6),
)
def test_the_rate_is_positive_never_above_the_peak_and_falls_after_the_warm_up(
    kind: str, steps: int, warmup: float
) -> None:
    own = {"milestones": (0.7, 0.8)} if kind == "step" and steps > 10 else {}
    kind = "flat" if kind == "step" and not own else kind
    config = TrainConfig(steps=steps, lr=3e-3, schedule={"type": kind, "warmup": warmup, **own})
    values = [lr_at(config, step) for step in range(steps)]
    assert all(0 < value <= 3e-3 for value in values)
    peak = config.warmup_steps
    assert values[:peak] == sorted(values[:peak])
    assert values[peak:] == sorted(values[peak:], reverse=True)
    assert values[peak] == 3e-3


def test_the_last_step_is_just_above_the_floor() -> None:
    config = TrainConfig(
        steps=1000, lr=1.0, schedule={"type": "linear", "warmup": 0, "min_ratio": 0.1}
    )
    assert lr_at(config, 999) == pytest.approx(0.1 + 0.9 / 1000)


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_the_run_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match="not one of 0 … 9"):
        lr_at(TrainConfig(steps=10), step)


def test_a_name_alone_is_a_schedule() -> None:
    assert TrainConfig(schedule="wsd").schedule == ScheduleConfig(type="wsd")
    assert TrainConfig(schedule="flat").schedule.min_ratio is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "greater than 0"),
        ({"steps": True}, "valid integer"),
        ({"lr": 0.0}, "greater than 0"),
        ({"lr": math.inf}, "finite"),
        ({"micro_batch_size": 5}, r"micro_batch_size \(5\) must be at most batch_size \(4\)"),
        ({"device": "gpu"}, "'gpu' is no device; allowed: auto, cpu"),
        ({"precision": "float8"}, "'float32', 'bfloat16'"),
        ({"betas": (0.9, 1.0)}, "less than 1"),
        ({"schedule": "cos"}, "'flat', 'step' or 'inverse_sqrt'"),
        ({"schedule": {"warmup": 1.0}}, "less than 1"),
        ({"schedule": {"warmup": 41}}, r"schedule.warmup \(41 steps\) must be at most"),
        ({"schedule": {"type": "wsd", "warmup": 0.9}}, "must fit into steps"),
        ({"schedule": {"type": "flat", "min_ratio": 0.1}}, "no effect on a flat schedule"),
        ({"schedule": {"type": "cosine", "decay": 0.1}}, "it belongs to wsd"),
        ({"schedule": {"type": "linear", "cycles": 2}}, "it belongs to cosine"),
        ({"schedule": {"type": "wsd", "tail": 2}}, "it belongs to cosine and linear"),
        ({"schedule": {"cycle_factor": 2.0}}, "no effect on one cycle"),
        ({"schedule": {"tail": 2, "min_ratio": 0.0}}, "would train nothing"),
        ({"schedule": {"tail": 39, "warmup": 2}}, "must leave some of the steps"),
        ({"schedule": {"cycles": 39, "warmup": 2}}, r"schedule.cycles \(39\) need more steps"),
        ({"schedule": {"cycles": 10**9}}, r"schedule.cycles \(1000000000\) need more steps"),
        ({"schedule": {"cycles": 5, "cycle_factor": 1e300}}, r"cycles \(5\) need more steps"),
        ({"schedule": {"cycles": 5, "cycle_factor": 1e-300}}, r"cycles \(5\) need more steps"),
        ({"optimizer": {"type": "schedule_free_adamw", "betas": (0.0, 0.9)}}, "greater than 0"),
        ({"schedule": {"type": "step", "milestones": (20, 10)}}, "milestones .20, 10. must grow"),
        ({"schedule": {"type": "step", "milestones": (40,)}}, "to below steps .40."),
        ({"stpes": 3}, "Extra inputs"),
    ],
)
def test_bad_values_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(**values)


def test_every_field_is_described() -> None:
    for config in (TrainConfig, ScheduleConfig):
        for name, field in config.model_fields.items():
            assert field.description, f"{config.__name__}.{name}"


def test_a_config_survives_json_and_replace() -> None:
    cycles = {"type": "cosine", "cycles": 2, "cycle_factor": 2.0, "tail": 5}
    for kind in ("cosine", "linear", "wsd", "flat", "step", "inverse_sqrt", cycles):
        config = TrainConfig(schedule=kind)
        assert TrainConfig.model_validate_json(config.model_dump_json()) == config
        assert config.replace(lr=0.5).schedule == config.schedule


def test_the_preview_shows_the_shape() -> None:
    text = preview(TrainConfig(steps=100, schedule={"type": "wsd", "warmup": 20}), width=20)
    bars, numbers = text.splitlines()
    assert len(bars) == 20
    assert bars[4:16] == "█" * 12
    assert bars[0] == bars[-1] == "▁"
    assert numbers == "wsd: 4.76e-05 at step 0, peak 0.001 at step 20, 5e-05 at step 99"
    assert preview(TrainConfig(steps=1, schedule={"warmup": 1})).startswith("▄\n")
