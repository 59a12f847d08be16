"""A search that begins with what is expected to be good: architectures ranked before any is
trained."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from windtunnel.arch import Architecture
from windtunnel.config import canonical_json
from windtunnel.errors import ConfigError, DataError, UsageError
from windtunnel.study.arms import as_arm
from windtunnel.study.search.config import GridConfig, RandomConfig, SearchConfig
from windtunnel.study.search.gate import candidate, costs_of
from windtunnel.study.search.knob import Params
from windtunnel.study.search.sampling import Asker
from windtunnel.study.search.space import applied, grid_points

if TYPE_CHECKING:
    from windtunnel.study.search.inquiry import Searching


@dataclass(frozen=True)
class Prior:
    """What ranks architectures."""

    rank: Callable[[Sequence[Architecture]], Sequence[float]]
    """The loss that each is expected to train to; equal where it cannot tell two apart."""
    source: Mapping[str, Any]
    """What it is, as plain values: part of the question."""
    trials: int = 6
    """So many of the best are asked first."""
    sample: int = 256
    """Points of the space that are ranked."""

    def facts(self) -> dict[str, Any]:
        """What makes two priors the same."""
        return {**self.source, "trials": self.trials, "sample": self.sample}


def architecture_knobs(config: SearchConfig) -> list[str]:
    """The paths of a space that are the architecture's.

    Raises:
        UsageError: there are none.
    """
    found = [path for path in config.space if path.partition(".")[0].partition("[")[0] == "arch"]
    if not found:
        raise UsageError("a prior ranks architectures, and the space has no path below arch")
    return found


def first_points(prior: Prior, inquiry: Searching) -> list[Params]:
    """The best of a seeded sample by the prior, the best first: values of the architecture's knobs
    alone, so that the sampler chooses all others. Points that are not valid, that do not fit or
    that the prior cannot tell from a better one are left out.
    """
    config = inquiry.config
    knobs = set(architecture_knobs(config))
    points: list[Params] = []
    architectures = []
    drawn: dict[str, tuple[Params, Params]] = {}
    for params in _sample(config, prior.sample):
        own = {path: value for path, value in params.items() if path in knobs}
        drawn.setdefault(canonical_json(own), (own, params))
    for point, params in drawn.values():
        try:
            run = as_arm(applied(inquiry.base, params), inquiry.base.name)
            made, _ = candidate(run, inquiry.ground)
            costs = costs_of(made)
        except (ConfigError, UsageError, DataError):
            continue
        if inquiry.fits(costs.memory_bytes):
            points.append(point)
            architectures.append(made.architecture)
    losses = prior.rank(architectures) if architectures else []
    first: dict[float, Params] = {}
    for loss, point in zip(losses, points, strict=True):
        first.setdefault(loss, point)
    return [first[loss] for loss in sorted(first)][: prior.trials]


def _sample(config: SearchConfig, count: int) -> list[Params]:
    """Points drawn evenly; of a grid some of its own."""
    seed = (config.sampler.seed + 1) % 2**32
    if isinstance(config.sampler, GridConfig):
        points = grid_points(config.space)
        random.Random(seed).shuffle(points)
        return points[:count]
    drawn = config.replace(sampler=RandomConfig(seed=seed), objectives=("loss",))
    return Asker(drawn).ask(count)
