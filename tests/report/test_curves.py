"""Means and bands of loss curves."""

from __future__ import annotations

import math

from windtunnel.report.curves import band, drawable, series, thinned
from windtunnel.report.study_report import Curve, curve_from_events
from windtunnel.runs.events import Event


def points(losses: list[float], start: int = 0) -> list[dict[str, float]]:
    return [{"step": start + i, "tokens": 10 * i, "loss": loss} for i, loss in enumerate(losses)]


def columns(losses: list[float]) -> dict[str, list[float | None]]:
    return series(points(losses), {"loss": "loss"})


def test_mean_lowest_and_highest_at_each_step() -> None:
    result = band([columns([4.0, 2.0]), columns([2.0, 1.0])], "loss")
    assert result["step"] == [0, 1]
    assert result["tokens"] == [0, 10]
    assert (result["mean"], result["low"], result["high"]) == ([3.0, 1.5], [2.0, 1.0], [4.0, 2.0])


def test_no_mean_over_survivors() -> None:
    diverged = [4.0, math.inf, math.nan]
    result = band([columns([4.0, 2.0, 1.0]), columns(diverged)], "loss")
    assert result["mean"] == [4.0]
    stopped = band([columns([4.0, 2.0]), columns([4.0])], "loss")
    assert stopped["step"] == [0]


def test_an_axis_that_was_not_recorded_is_left_out() -> None:
    assert "flops" not in band([columns([1.0])], "loss")
    assert band([], "loss")["mean"] == []


def test_thinning_averages_equal_groups_and_loses_no_finite_value() -> None:
    thin = thinned(points([1.0, 3.0, 5.0, math.nan, 7.0]), most=3)
    assert [(p["step"], p["loss"]) for p in thin] == [(1, 2.0), (3, 5.0), (4, 7.0)]
    assert thinned(points([math.inf]))[0]["loss"] is None
    assert len(thinned(points([1.0] * 1001), most=300)) <= 300


def test_events_become_a_curve() -> None:
    events = [
        Event("start", 0.0),
        Event("step", 1.0, {"step": 1, "loss": 5.0}),
        Event("eval", 1.0, {"step": 1, "loss": 4.9, "bits_per_byte": 2.1}),
        Event("end", 2.0, {"status": "finished"}),
    ]
    curve = curve_from_events(events)
    assert curve.train == ({"step": 1, "loss": 5.0},)
    assert curve.evals == ({"step": 1, "loss": 4.9, "bits_per_byte": 2.1},)


def test_drawable_keeps_every_seed_and_the_two_losses_apart() -> None:
    one = Curve(evals=[{"step": 0, "loss": 4.0, "bits_per_byte": 2.0}], train=points([5.0, 3.0]))
    plain = drawable({7: one, 8: one})
    assert [seed["seed"] for seed in plain["seeds"]] == [7, 8]
    assert plain["bands"]["loss"]["mean"] == [4.0]
    assert plain["bands"]["bits_per_byte"]["mean"] == [2.0]
    assert plain["bands"]["train_loss"]["mean"] == [5.0, 3.0]
