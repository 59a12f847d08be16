"""Loss curves of several seeds as one mean line with a band, ready to be drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.report.study_report import AXES, Curve, Point

METRICS = ("loss", "bits_per_byte", "train_loss")

MOST_TRAIN_POINTS = 300
"""Training losses of one run that are drawn; more are averaged in equal groups."""

Series = dict[str, list[float | None]]


def number(value: object) -> float | None:
    """A finite number, or None for everything that cannot be drawn."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def series(points: Sequence[Point], metrics: Mapping[str, str]) -> Series:
    """Points turned into columns: one for each axis and each metric (column name -> key)."""
    keys = {axis: axis for axis in AXES} | dict(metrics)
    return {name: [number(point.get(key)) for point in points] for name, key in keys.items()}


def thinned(points: Sequence[Point], most: int = MOST_TRAIN_POINTS) -> list[dict[str, Any]]:
    """At most `most` points, each the mean of equally many consecutive ones, at their last x.

    A loss that is not finite is left out of the mean; a group with no finite loss has None.
    """
    size = max(1, math.ceil(len(points) / most))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [_mean_point(group) for group in groups]


def _mean_point(group: Sequence[Point]) -> dict[str, Any]:
    losses = [x for point in group if (x := number(point.get("loss"))) is not None]
    mean = math.fsum(losses) / len(losses) if losses else None
    return {axis: group[-1].get(axis) for axis in AXES} | {"loss": mean}


def band(seeds: Sequence[Series], metric: str) -> dict[str, list[float]]:
    """Mean, lowest and highest over the seeds at each step that *every* seed reached.

    Where a seed has no finite value (it diverged, or was stopped) the line ends or has a gap: a
    mean over the survivors alone would flatter. The x values are the means over the seeds.
    """
    by_step = [_by_step(one, metric) for one in seeds]
    shared = set.intersection(*(set(one) for one in by_step)) if by_step else set()
    axes = [axis for axis in AXES if _axis_known(by_step, shared, axis)]
    columns: dict[str, list[float]] = {name: [] for name in (*axes, "mean", "low", "high")}
    for step in sorted(shared):
        rows = [one[step] for one in by_step]
        for axis in axes:
            columns[axis].append(_mean([row[axis] for row in rows]))
        values = [row[metric] for row in rows]
        columns["mean"].append(_mean(values))
        columns["low"].append(min(values))
        columns["high"].append(max(values))
    return columns


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _by_step(one: Series, metric: str) -> dict[float, dict[str, float]]:
    """step -> the finite values at it, for the steps at which the metric is finite."""
    rows = {}
    for i, step in enumerate(one["step"]):
        row = {name: value for name, column in one.items() if (value := column[i]) is not None}
        if step is not None and metric in row:
            rows[step] = row
    return rows


def _axis_known(
    by_step: Sequence[Mapping[float, Mapping[str, float]]], shared: set[float], axis: str
) -> bool:
    return all(axis in one[step] for one in by_step for step in shared)


def drawable(curves: Mapping[int, Curve]) -> dict[str, Any]:
    """One architecture's curves: every seed, and for each metric the mean with its band."""
    evals = {"loss": "loss", "bits_per_byte": "bits_per_byte"}
    seeds = {seed: series(curve.evals, evals) for seed, curve in curves.items()}
    train = {
        seed: series(thinned(curve.train), {"train_loss": "loss"}) for seed, curve in curves.items()
    }
    return {
        "seeds": [{"seed": seed, "evals": seeds[seed], "train": train[seed]} for seed in curves],
        "bands": {
            metric: band(list((train if metric == "train_loss" else seeds).values()), metric)
            for metric in METRICS
        },
    }
