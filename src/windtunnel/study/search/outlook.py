"""What a search will take, said before it starts: how many runs, how long, what will not fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from windtunnel.study.search.config import (
    GridConfig,
    HalvingConfig,
    PruningConfig,
    RandomConfig,
    RungConfig,
)
from windtunnel.study.search.gate import make_trial
from windtunnel.study.search.sampling import Asker
from windtunnel.study.search.space import grid_points
from windtunnel.study.search.trial import Gate
from windtunnel.study.starts import start_seconds

if TYPE_CHECKING:
    from windtunnel.study.search.inquiry import Searching

DRAWS = 24
"""Configurations that are looked at beforehand; nothing of them is built."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is to come."""

    trials: int
    """At most: a grid may have fewer points."""
    runs: int
    """Of the trials; at most."""
    confirming: int
    """Runs on fresh seeds; at most."""
    drawn: int
    invalid: int
    """Of those drawn."""
    too_large: int
    ratios: tuple[float, ...]
    """FLOPs of the others, in those of the file's own run, rising."""
    share: float | None
    """Of all steps that pruning is expected to leave; None: not known."""
    seconds: float | None
    """With one worker; None where the speed is not known."""

    @property
    def ratio(self) -> float:
        return sum(self.ratios) / len(self.ratios) if self.ratios else 1.0


def look_ahead(inquiry: Searching) -> Outlook:
    """Counts what is asked, and draws some configurations at random to see what they cost."""
    config = inquiry.config
    trials = config.trials
    if isinstance(config.sampler, GridConfig):
        trials = min(trials, len(grid_points(config.space)))
    sampler = RandomConfig(seed=config.sampler.seed)
    drawn = Asker(config.replace(sampler=sampler, objectives=("loss",))).ask(DRAWS)
    looked = [
        make_trial(number, params, inquiry.base, seed=0, ground=inquiry.ground, gate=Gate())
        for number, params in enumerate(drawn)
    ]
    valid = [trial.costs for trial in looked if trial.costs is not None]
    fitting = [costs for costs in valid if inquiry.fits(costs.memory_bytes)]
    ratios = tuple(sorted(costs.flops / inquiry.base_costs.flops for costs in fitting))
    best = config.confirm.best
    confirming = (min(best, trials) + 1) * config.confirm.seeds if best else 0
    share = steps_share(config.pruning, inquiry.rungs, inquiry.base.config.train.steps)
    expected = Outlook(
        trials=trials, runs=trials * config.seeds, confirming=confirming, drawn=len(drawn),
        invalid=len(drawn) - len(valid), too_large=len(valid) - len(fitting), ratios=ratios,
        share=share, seconds=None,
    )  # fmt: skip
    seconds = _seconds(expected, inquiry)
    return Outlook(**{**vars(expected), "seconds": seconds})


def _seconds(outlook: Outlook, inquiry: Searching) -> float | None:
    """With one worker: steps by FLOPs and speed of the file's own run, evaluations a third of a
    step's work for each token, and what a process takes to start, at each rung."""
    if inquiry.speed is None:
        return None
    train = inquiry.base.config.train
    evaluated = (train.steps // train.eval_every + 2) * (train.eval_tokens or 0)
    own = train.steps / inquiry.speed * (1 + evaluated / 3 / train.tokens)
    trained = 1 - (outlook.invalid + outlook.too_large) / outlook.drawn
    steps = outlook.runs * trained * outlook.ratio * (outlook.share or 1.0)
    starts = outlook.runs * trained * (1 + len(inquiry.rungs) / 2) + outlook.confirming
    return own * (steps + outlook.confirming) + start_seconds() * starts


def steps_share(pruning: PruningConfig, rungs: tuple[int, ...], steps: int) -> float | None:
    """The part of all steps that halving leaves; None for other ways, where it is not known.

    >>> steps_share(HalvingConfig(factor=2), (25, 50), 100)
    0.5
    """
    if not isinstance(pruning, RungConfig):
        return 1.0
    if not isinstance(pruning, HalvingConfig):
        return None
    ends = (*rungs, steps)
    parts = [b - a for a, b in zip((0, *rungs), ends, strict=True)]
    return math.fsum(part / pruning.factor**i for i, part in enumerate(parts)) / steps
