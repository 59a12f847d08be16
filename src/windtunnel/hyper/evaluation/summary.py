"""What the finished units of an evaluation say, with intervals over architectures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.hyper.evaluation.plan import STRONG, Course, Group
from windtunnel.hyper.evaluation.units import Unit
from windtunnel.study.rank_agreement import kendall

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
    ranked = (losses, params, kinds)
    if split == "in_distribution":
        ranked = _with_ranked(*ranked, course, context)
    found["ranking"] = _ranking(*ranked)
    found["rows"] = [
        {"index": index, "name": space[index].name, "kind": kind,
         **{init: _by_step(course, values[row]) for init, values in losses.items()}}
        for row, (index, kind) in enumerate(zip(indices, kinds, strict=True))
    ]  # fmt: skip
    return found


def _with_ranked(
    losses: dict[str, Floats],
    params: Floats,
    kinds: list[str],
    course: Course,
    context: Context,
) -> tuple[dict[str, Floats], Floats, list[str]]:
    """The first and last losses, with those of architectures that are only ranked."""
    ends = {init: [values[:, [0, -1]]] for init, values in losses.items()}
    first, last = course.config.steps[0], course.config.steps[-1]
    for unit in course.ranked():
        found = course.results[unit]
        init = unit.init if unit.init in ends else STRONG
        ends[init].append(np.array([[found[first], found.get(last, math.nan)]]))
    space = context.members.space.whole
    more = np.log([float(space[index].params) for index, _ in course.ranks])
    return (
        {init: np.concatenate(values) for init, values in ends.items()},
        np.concatenate([params, more]),
        kinds + [kind for _, kind in course.ranks],
    )


def _losses(init: str, groups: Sequence[Group], course: Course) -> Floats:
    """(architectures, steps): the mean over seeds."""
    rows = []
    for group in groups:
        lr = course.rates[group.split, group.kind, init]
        name = course.strong[group.kind] if init == STRONG else init
        for index in group.measure:
            units = [Unit(index, name, lr, seed, "test") for seed in course.config.seeds]
            found = [[course.results[unit][step] for step in course.config.steps] for unit in units]
            rows.append(np.mean(found, axis=0))
    return np.array(rows)


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


def _ranking(losses: dict[str, Floats], params: Floats, kinds: Sequence[str]) -> dict[str, Any]:
    """Kendall's τ with the strong initialisation's last loss: of the loss at step 0, and of (minus)
    log parameters; over all, and the mean within kinds."""
    outcome = losses[STRONG][:, -1]
    guesses = {init: values[:, 0] for init, values in losses.items()}
    guesses["log_params"] = -params
    generator = np.random.default_rng(1)
    drawn = generator.integers(0, len(outcome), size=(1000, len(outcome)))
    found = {}
    for name, guess in guesses.items():
        tau = float(kendall(guess, outcome))
        taus = kendall(guess[drawn], outcome[drawn])
        low, high = np.nanquantile(taus, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
        inside = []
        for kind in dict.fromkeys(kinds):
            rows = np.array([k == kind for k in kinds])
            if rows.sum() >= 4:
                inside.append(float(kendall(guess[rows], outcome[rows])))
        found[name] = {
            "tau": tau, "low": float(low), "high": float(high), "of": len(outcome),
            "within_kinds": float(np.nanmean(inside)) if inside else None,
            "within_sizes": _within_sizes(guess, outcome, params),
        }  # fmt: skip
    return found


def _within_sizes(guess: Floats, outcome: Floats, params: Floats) -> float | None:
    """The mean τ within quarters of log parameters; None where a quarter has too few."""
    quarters = np.array_split(np.argsort(params, kind="stable"), 4)
    if min(len(rows) for rows in quarters) < 4:
        return None
    return float(np.nanmean([kendall(guess[rows], outcome[rows]) for rows in quarters]))
