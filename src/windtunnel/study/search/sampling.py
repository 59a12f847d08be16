"""What asks for the next trials: Optuna's samplers, told everything in order.

The answers depend on the question and on what was told, in the order of the trials: not on when a
run ended. Asking again from the beginning gives the same trials, which is how a search that was
killed goes on.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from windtunnel.study.search.config import (
    CmaEsConfig,
    GridConfig,
    Nsga2Config,
    SamplerConfig,
    SearchConfig,
    TpeConfig,
)
from windtunnel.study.search.knob import KnobConfig, Params, rounded, stepped
from windtunnel.study.search.space import grid_points, same_point

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

_FITS = "fits"
"""The constraint that a trial without a loss does not meet."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What became of a trial."""

    params: Params
    state: Literal["complete", "pruned", "failed"]
    """failed: it has no loss, for whatever reason."""
    values: tuple[float, ...] = ()
    """Of each objective, where it is complete."""
    reports: Mapping[int, float] = field(default_factory=dict)
    """Losses at rungs, by step."""


class Asker:
    """Asks for batches of trials, and is told what became of each.

    A trial without a loss (invalid, too large, diverged) is told as one that breaks a constraint:
    TPE and NSGA-II then count it as worse than every other. CMA-ES knows no constraints, but asks
    only for the order: it is told a value above the worst one so far.

    >>> from windtunnel.study.search.config import RandomConfig
    >>> knobs = {"train.lr": KnobConfig(log=(1e-4, 1e-2))}
    >>> asker = Asker(SearchConfig(space=knobs, sampler=RandomConfig()))
    >>> asker.ask(1)
    [{'train.lr': 0.001252}]
    """

    def __init__(self, config: SearchConfig, first: Sequence[Params] = ()) -> None:
        """``first``: values of some or all knobs that are asked before all else, in this order;
        the sampler chooses the other knobs."""
        self._config = config
        self._grid: list[Params] | None = None
        self._study: Study | None = None
        self._open: list[tuple[Trial, Params]] = []
        self._worst = 0.0
        if isinstance(config.sampler, GridConfig):
            self._grid = _with_first(_grid_order(config), first)
        else:
            self._study = _study(config)
            self._enqueue(first)

    def _enqueue(self, first: Sequence[Params]) -> None:
        assert self._study is not None
        space = self._config.space
        with quiet():
            for point in first:
                self._study.enqueue_trial({p: internal(space[p], v) for p, v in point.items()})

    def ask(self, count: int) -> list[Params]:
        """The next trials; fewer where a grid has no more."""
        if self._grid is not None:
            asked, self._grid = self._grid[:count], self._grid[count:]
            return asked
        assert self._study is not None
        assert not self._open, "told before asked again"
        with quiet():
            for _ in range(count):
                trial = self._study.ask()
                self._open.append((trial, self._chosen(trial)))
        return [params for _, params in self._open]

    def _chosen(self, trial: Trial) -> Params:
        chosen: dict[str, Any] = {}
        for path, knob in self._config.space.items():
            if knob.is_there(chosen):
                chosen[path] = suggested(trial, path, knob)
        return chosen

    def tell(self, told: Sequence[Told]) -> None:
        """What became of the trials that were last asked, in their order. Where other parameters
        were trained than were asked, those count that were trained."""
        if self._study is None:
            return
        assert len(told) == len(self._open)
        with quiet():
            for (trial, asked), one in zip(self._open, told, strict=True):
                self._tell(trial, asked, one)
        self._open = []

    def _tell(self, trial: Trial, asked: Params, told: Told) -> None:
        from optuna.trial import TrialState, create_trial

        assert self._study is not None
        values = self._values(told)
        state = TrialState.PRUNED if told.state == "pruned" else TrialState.COMPLETE
        broken = float(told.state == "failed")
        if not same_point(asked, told.params):
            self._study.tell(trial, state=TrialState.FAIL)
            space = self._config.space
            frozen = create_trial(
                state=state, values=values, intermediate_values=dict(told.reports),
                params={p: internal(space[p], v) for p, v in told.params.items()},
                distributions={p: distribution(space[p]) for p in told.params},
                constraints={_FITS: broken},
            )  # fmt: skip
            self._study.add_trial(frozen)
            return
        for step, loss in told.reports.items():
            trial.report(loss, step)
        trial.set_constraint(_FITS, broken)
        self._study.tell(trial, values=values, state=state)

    def _values(self, told: Told) -> list[float] | None:
        if told.state == "complete":
            self._worst = max(self._worst, *told.values)
            return list(told.values)
        if told.state == "pruned":
            return None
        return [self._worst + 1.0] * len(self._config.objectives)


def suggested(trial: Trial, path: str, knob: KnobConfig) -> Any:
    """The value of one knob that Optuna suggests."""
    if knob.choice is not None:
        return knob.choice[trial.suggest_categorical(path, list(range(len(knob.choice))))]
    if knob.int is not None:
        low, top, step = _whole_ends(knob.int, knob.step)
        return trial.suggest_int(path, low, top, step=step, log=knob.logarithmic)
    first, last = knob.bounds
    if knob.step is not None:
        return stepped(trial.suggest_float(path, first, _last(knob), step=knob.step))
    value = rounded(trial.suggest_float(path, first, last, log=knob.logarithmic))
    return min(max(value, first), last)


def distribution(knob: KnobConfig) -> BaseDistribution:
    """A knob as Optuna's distribution; of a choice, over the places of its values."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if knob.choice is not None:
        return CategoricalDistribution(list(range(len(knob.choice))))
    if knob.int is not None:
        low, top, step = _whole_ends(knob.int, knob.step)
        return IntDistribution(low, top, step=step, log=knob.logarithmic)
    first, last = knob.bounds
    if knob.step is not None:
        return FloatDistribution(first, _last(knob), step=knob.step)
    return FloatDistribution(first, last, log=knob.logarithmic)


def _whole_ends(bounds: tuple[int, int], step: float | None) -> tuple[int, int, int]:
    """The lowest whole number, the highest that the steps reach, and the step."""
    low, high = bounds
    whole = math.floor(step or 1)
    return low, low + (high - low) // whole * whole, whole


def _last(knob: KnobConfig) -> float:
    """The highest number that the steps of a range reach."""
    low, high = knob.bounds
    assert knob.step is not None
    return low + math.floor((high - low) / knob.step + 1e-9) * knob.step


def internal(knob: KnobConfig, value: Any) -> Any:
    """A knob's value as Optuna knows it: of a choice, its place."""
    if knob.choice is None:
        return value
    alone = KnobConfig(choice=knob.choice)
    fitting = [i for i, one in enumerate(alone.choice or ()) if same_point({"": one}, {"": value})]
    assert fitting, f"{value!r} is none of the choices"
    return fitting[0]


def _grid_order(config: SearchConfig) -> list[Params]:
    """The grid in its own order; where not all of it is tried, drawn from it."""
    points = grid_points(config.space)
    if len(points) > config.trials:
        random.Random(config.sampler.seed).shuffle(points)
    return points


def _with_first(points: list[Params], first: Sequence[Params]) -> list[Params]:
    """The points with, at their head, for each of ``first`` the first that has its values."""
    head: list[Params] = []
    rest = list(points)
    for wanted in first:
        fitting = (
            place
            for place, point in enumerate(rest)
            if same_point({p: v for p, v in point.items() if p in wanted}, wanted)
        )
        place = next(fitting, None)
        if place is not None:
            head.append(rest.pop(place))
    return head + rest


def _study(config: SearchConfig) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with quiet():
        return optuna.create_study(
            directions=["minimize"] * len(config.objectives),
            sampler=_sampler(
                config.sampler, conditional=any(k.when for k in config.space.values())
            ),
            pruner=optuna.pruners.NopPruner(),
        )


def _sampler(config: SamplerConfig, *, conditional: bool) -> BaseSampler:
    from optuna import samplers

    seed = config.seed
    if isinstance(config, TpeConfig):
        return samplers.TPESampler(
            n_startup_trials=config.startup_trials, n_ei_candidates=config.candidates,
            multivariate=True, group=conditional, constant_liar=True, seed=seed,
        )  # fmt: skip
    if isinstance(config, CmaEsConfig):
        return samplers.CmaEsSampler(
            n_startup_trials=config.startup_trials, popsize=config.population, seed=seed,
            warn_independent_sampling=False,
        )  # fmt: skip
    if isinstance(config, Nsga2Config):
        return samplers.NSGAIISampler(
            population_size=config.population, crossover_prob=config.crossover, seed=seed
        )
    return samplers.RandomSampler(seed=seed)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's notes on what is new or deprecated in it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="optuna")
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield
