"""What the finished units of an evaluation say, with intervals over architectures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.hyper.evaluation.plan import IN_REACH, STRONG, Course, Group
from windtunnel.hyper.evaluation.ranking import of_split, ranked_losses, ranking
from windtunnel.hyper.evaluation.saved import saved

if TYPE_CHECKING:
    from windtunnel.hyper.evaluation.run import Context

Floats = NDArray[np.float64]

_RESAMPLES = 4000
_LEVEL = 0.95


def summarized(course: Course, context: Context) -> dict[str, Any]:
    """Losses, gaps, win rates and ranks of every split."""
    splits = list(dict.fromkeys(group.split for group in course.groups))
    entropy = context.text.unigram_entropy
    with np.errstate(invalid="ignore"):  # differences of losses that diverged
        found = {split: _split(split, course, context, entropy) for split in splits}
    return {
        "unigram_entropy": entropy,
        "strong": course.strong,
        "rates": {"/".join(key): rate for key, rate in course.rates.items()},
        "at_edge": ["/".join(key) for key in course.at_edge],
        "splits": found,
    }


def _split(split: str, course: Course, context: Context, entropy: float) -> dict[str, Any]:
    groups = [group for group in course.groups if group.split == split]
    indices = [index for group in groups for index in group.measure]
    kinds = [group.kind for group in groups for _ in group.measure]
    losses = {init: _losses(init, groups, course) for init in course.inits}
    found: dict[str, Any] = {"architectures": len(indices), "inits": {}}
    for init, values in losses.items():
        found["inits"][init] = {
            "loss": _by_step(course, values.mean(0)),
            "below_unigram": float((values[:, 0] < entropy).mean()),
        }
        if init != STRONG:
            found["inits"][init]["gain"] = _gains(losses[STRONG] - values, course)
            found["inits"][init]["saved"] = saved(
                losses[STRONG], values, course.config.steps, _seconds(groups, course),
                context.cost(init),
            )  # fmt: skip
    for other in course.config.others:
        gaps = losses[other] - losses["ghn"]
        found["inits"][other]["ghn_gain_over_it"] = _gains(gaps, course)
    found["kinds"] = {
        kind: {
            init: _by_step(course, values[[k == kind for k in kinds]].mean(0))
            for init, values in losses.items()
        }
        for kind in dict.fromkeys(kinds)
    }
    space = context.members.space.whole
    params = np.log([space[index].params for index in indices])
    found["halves"] = _halves(losses, params, course)
    found["ranking"] = of_split(groups, losses, params)
    if split == IN_REACH and (course.ranks or course.config.early):
        everyone = course.everyone()
        sizes = np.log([space[index].params for index, _ in everyone])
        found["ranking"] = ranking(*ranked_losses(course), sizes, [kind for _, kind in everyone])
    found["rows"] = [
        {"index": index, "name": space[index].name, "kind": kind,
         **{init: _by_step(course, values[row]) for init, values in losses.items()}}
        for row, (index, kind) in enumerate(zip(indices, kinds, strict=True))
    ]  # fmt: skip
    return found


def _halves(losses: Mapping[str, Floats], params: Floats, course: Course) -> dict[str, Any]:
    """What the hypernetwork gains over each other start, on the smaller and on the larger half of
    the architectures; nothing where there are fewer than four."""
    order = np.argsort(params, kind="stable")
    if len(order) < 4:
        return {}
    others = [init for init in losses if init != "ghn"]
    return {
        name: {init: _gains((losses[init] - losses["ghn"])[rows], course) for init in others}
        for name, rows in zip(("smaller", "larger"), np.array_split(order, 2), strict=True)
    }


def _losses(init: str, groups: Sequence[Group], course: Course) -> Floats:
    """(architectures, steps): the mean over seeds."""
    steps = course.config.steps
    return np.array(
        [
            [course.mean(group, index, init, step) for step in steps]
            for group in groups
            for index in group.measure
        ]
    )


def _seconds(groups: Sequence[Group], course: Course) -> Floats | None:
    """(architectures,): what a training of each took, from the strong initialisation; None where
    results of older versions do not tell."""
    pairs = [(group, index) for group in groups for index in group.measure]
    units = [course.measured_units(group, index, STRONG) for group, index in pairs]
    told = [[course.results.more(unit).get("seconds", math.nan) for unit in own] for own in units]
    found = np.array([fmean(own) for own in told])
    return found if bool(np.isfinite(found).all()) else None


def _by_step(course: Course, values: Floats) -> dict[str, float | None]:
    steps = course.config.steps
    return {
        str(s): float(v) if math.isfinite(v) else None for s, v in zip(steps, values, strict=True)
    }


def _gains(gaps: Floats, course: Course) -> dict[str, Any]:
    """Mean differences in nats, with a bootstrap over architectures, and how often they are > 0.

    Where both diverged the difference is 0; where one did, it is infinite, and so is the mean,
    which then is None.
    """
    gaps = np.where(np.isnan(gaps), 0.0, gaps)
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, len(gaps), size=(_RESAMPLES, len(gaps)))
    tails = [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]
    found = {}
    for column, step in enumerate(course.config.steps):
        values = gaps[:, column]
        low, high = np.quantile(values[drawn].mean(1), tails)
        wins = values > 0
        share = np.quantile(wins[drawn].mean(1), tails)
        found[str(step)] = {
            "mean": _finite(values.mean()), "low": _finite(low), "high": _finite(high),
            "wins": int(wins.sum()), "of": len(values),
            "win_rate": [float(share[0]), float(share[1])],
        }  # fmt: skip
    return found


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
