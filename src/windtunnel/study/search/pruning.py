"""Which trials go on at a rung: pure functions of the losses that were seen there.

A rung is judged once for each batch, when all of the batch's trials have reached it; so the
decision depends on the order of the batches and on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from windtunnel.errors import ConfigError, Problem
from windtunnel.study.search.config import (
    HyperbandConfig,
    MedianConfig,
    PruningConfig,
    RungConfig,
)


@dataclass(frozen=True)
class Judged:
    """A trial at a rung."""

    number: int
    loss: float
    """At that step; +inf where it is not a number."""


def rungs_of(pruning: PruningConfig, steps: int) -> tuple[int, ...]:
    """The steps at which trials are judged, rising.

    >>> from windtunnel.study.search.config import HalvingConfig
    >>> rungs_of(HalvingConfig(factor=3), 270)
    (10, 30, 90)

    Raises:
        ConfigError: there is no rung before the last step.
    """
    if not isinstance(pruning, RungConfig):
        return ()
    if pruning.rungs:
        if pruning.rungs[-1] >= steps:
            text = f"the last of {list(pruning.rungs)} is not below train.steps = {steps}"
            raise ConfigError([Problem("pruning.rungs", text)])
        return pruning.rungs
    found: list[int] = []
    rung = steps // pruning.factor
    while rung >= pruning.min_steps:
        found.append(rung)
        rung //= pruning.factor
    if not found:
        text = (
            f"no rung fits: train.steps = {steps} divided by {pruning.factor} is below min_steps = "
            f"{pruning.min_steps}"
        )
        raise ConfigError([Problem("pruning", text)])
    return tuple(sorted(found))


def bracket_of(pruning: PruningConfig, number: int, rungs: int) -> int:
    """The first rung (counted from 0) at which a trial is judged; ``rungs``: at none.

    For hyperband, trials belong to brackets in turn, in the proportions of Li et al. 2018 (arXiv
    1603.06560, algorithm 1): a bracket of s halvings has (S + 1) / (s + 1) · factor^s trials, for S
    rungs in all. All other ways begin at the first rung.

    >>> from windtunnel.study.search.config import HyperbandConfig
    >>> [bracket_of(HyperbandConfig(), n, 2) for n in range(8)]
    [0, 1, 0, 2, 0, 1, 0, 2]
    """
    if not isinstance(pruning, HyperbandConfig):
        return 0
    halvings = range(rungs, -1, -1)  # of each bracket
    weights = [math.ceil((rungs + 1) / (s + 1) * pruning.factor**s) for s in halvings]
    return _in_turn(weights, number)


def _in_turn(weights: Sequence[int], number: int) -> int:
    """The class of the ``number``-th of a sequence in which each class has its share at every
    length: whoever lags most behind its share is next, the first of those that lag alike."""
    counts = [0] * len(weights)
    total = sum(weights)
    chosen = 0
    for place in range(number % total + 1):
        lags = [w * (place + 1) / total - c for w, c in zip(weights, counts, strict=True)]
        chosen = max(range(len(weights)), key=lambda s: (lags[s], -s))
        counts[chosen] += 1
    return chosen


def go_on(
    pruning: PruningConfig,
    rung: int,
    batch: Sequence[Judged],
    earlier: Sequence[Judged],
    *,
    rungs: int,
) -> frozenset[int]:
    """The numbers of a batch's trials that go on after a rung.

    Args:
        rung: which one, counted from 0.
        batch: the batch's trials that have reached it.
        earlier: those of earlier batches that did.
        rungs: how many there are.
    """
    assert isinstance(pruning, RungConfig)
    if isinstance(pruning, MedianConfig):
        return _by_median(pruning, batch, earlier)
    groups: Mapping[int, list[Judged]] = {}
    chosen: set[int] = set()
    brackets = {one.number: bracket_of(pruning, one.number, rungs) for one in (*batch, *earlier)}
    groups = {s: [one for one in batch if brackets[one.number] == s] for s in range(rungs + 1)}
    for bracket, own in groups.items():
        if bracket > rung:  # not judged yet
            chosen |= {one.number for one in own if math.isfinite(one.loss)}
            continue
        others = [one for one in earlier if brackets[one.number] == bracket]
        ranked = sorted((*own, *others), key=lambda one: (one.loss, one.number))
        best = ranked[: math.ceil(len(ranked) / pruning.factor)]
        chosen |= {one.number for one in best if one in own and math.isfinite(one.loss)}
    return frozenset(chosen)


def _by_median(
    pruning: MedianConfig, batch: Sequence[Judged], earlier: Sequence[Judged]
) -> frozenset[int]:
    known = [one.loss for one in (*batch, *earlier)]
    enough = len(known) >= pruning.startup_trials
    bound = median(known) if enough else math.inf
    return frozenset(one.number for one in batch if math.isfinite(one.loss) and one.loss <= bound)
