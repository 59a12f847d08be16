"""How well what is known before training orders architectures by their loss after it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.hyper.evaluation.plan import IN_REACH, STRONG, Course, Group
from windtunnel.study.held_out_ranks import Ordering, Resampling, held_out_taus

Floats = NDArray[np.float64]

_BINS = 4
_FEW = 6
"""A part with fewer architectures has no row of its own."""
_RESAMPLES = 1000
LOG_PARAMS = "log_params"


def ranking(
    guesses: Mapping[str, Floats], outcome: Floats, params: Floats, kinds: Sequence[str]
) -> dict[str, Any]:
    """Kendall's τ of each guess with an outcome, a lower guess for a lower loss, with 95% intervals
    over architectures: overall, within kinds and within quarters of log parameters; and how far
    each is above (minus) log parameters on the same resamples."""
    every = {**guesses, LOG_PARAMS: -params}
    orders = {name: Ordering.of(guess) for name, guess in every.items()}
    resampling = Resampling.of(len(outcome), _RESAMPLES, seed=1)
    found: dict[str, Any] = {}
    for part, pairs in _parts(params, kinds).items():
        rows = {}
        for name, own in orders.items():
            others = {LOG_PARAMS: orders[LOG_PARAMS]} if name != LOG_PARAMS else {}
            rows[name] = held_out_taus(
                {name: own, **others}, outcome, pairs, resampling, against=tuple(others)
            )[name]
        found[part] = {"of": int(pairs.any(1).sum()), "tau": rows}
    return found


def _parts(params: Floats, kinds: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Which pairs each row is about: (n, n)."""
    pairs = ~np.eye(len(params), dtype=bool)
    names = np.array(kinds)
    bins = np.zeros(len(params), dtype=np.int64)
    for number, rows in enumerate(np.array_split(np.argsort(params, kind="stable"), _BINS)):
        bins[rows] = number
    parts = {
        "overall": pairs,
        "within kinds": pairs & (names[:, None] == names),
        "within sizes": pairs & (bins[:, None] == bins),
    }
    return {
        name: mask for name, mask in parts.items() if name == "overall" or mask.any(1).sum() >= _FEW
    }


def ranked_losses(course: Course) -> tuple[dict[str, Floats], Floats]:
    """Of every architecture of in_distribution, those that are only ranked included, in the order
    of :meth:`Course.everyone`: the guesses, and the loss at which the strong one ends.

    Guesses: the loss at step 0 from each start but the strong one, on the text of the outcome;
    after short trainings, on the tuning text; and signs of the first gradient, of which more is
    taken for better.
    """
    steps = course.config.steps
    own = [group for group in course.groups if group.split == IN_REACH]
    outcome: list[float] = []
    guesses: dict[str, list[float]] = {init: [] for init in course.inits if init != STRONG}
    for group in own:
        for index in group.measure:
            outcome.append(course.mean(group, index, STRONG, steps[-1]))
            for init, values in guesses.items():
                values.append(course.mean(group, index, init, 0))
    for unit in course.ranked():
        found = course.results[unit]
        if unit.init in guesses:
            guesses[unit.init].append(found[0])
        else:
            outcome.append(found[steps[-1]])
    named = {f"{init}_0": np.array(values) for init, values in guesses.items()}
    return named | _early(course), np.array(outcome)


def _early(course: Course) -> dict[str, Floats]:
    found: dict[str, list[float]] = {}
    for init, unit in course.early():
        losses, more = course.results[unit], course.results.more(unit)
        for step in course.config.early:
            found.setdefault(f"{init}_{step}", []).append(losses[step])
        for sign in ("grad_norm", "snip"):
            found.setdefault(f"{init}_{sign}", []).append(-more.get(sign, -math.inf))
    return {name: np.array(values) for name, values in found.items()}


def of_split(
    groups: Sequence[Group], losses: Mapping[str, Floats], params: Floats
) -> dict[str, Any]:
    """The ranking of a split of its own: by the losses at step 0."""
    kinds = [group.kind for group in groups for _ in group.measure]
    guesses = {f"{init}_0": values[:, 0] for init, values in losses.items() if init != STRONG}
    return ranking(guesses, losses[STRONG][:, -1], params, kinds)
