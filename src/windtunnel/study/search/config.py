"""A search's question as a typed file: space, sampler, pruning. No torch, no Optuna."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from windtunnel.config import Choice, Config, offer
from windtunnel.study.search.knob import KnobConfig

Count = Annotated[int, Field(gt=0)]
Objective = Literal["loss", "flops", "params", "memory"]


def _named(value: Any) -> Any:
    return {"best": value} if isinstance(value, int) and not isinstance(value, bool) else value


class SamplerConfig(Config):
    """The base of all samplers; ``type`` picks one."""

    type: str
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the sampler alone: the same question asks the same trials."""


class TpeConfig(SamplerConfig):
    """Tree-structured Parzen estimators (Bergstra et al. 2011), multivariate; where several
    objectives are given, their multi-objective form (Ozaki et al. 2022)."""

    type: Literal["tpe"] = "tpe"
    startup_trials: Count = 10
    """Drawn at random before the estimators are used."""
    candidates: Count = 24
    """Drawn for each trial, of which the best by the estimators is asked."""


class RandomConfig(SamplerConfig):
    """Each knob drawn by itself, evenly over its values (evenly in the logarithm for ``log``)."""

    type: Literal["random"] = "random"


class GridConfig(SamplerConfig):
    """Every combination once; ``range`` and ``log`` without a step need ``points``. Where fewer
    trials are asked than the grid has points, they are drawn from it without repetition."""

    type: Literal["grid"] = "grid"


class CmaEsConfig(SamplerConfig):
    """Covariance matrix adaptation (Hansen 2016) over the numbers that are always there; choices
    and conditional knobs are drawn at random."""

    type: Literal["cma-es"] = "cma-es"
    population: Annotated[int, Field(ge=4)] | None = None
    """Trials of a generation. None: 4 + ⌊3 ln n⌋ for n numbers."""
    startup_trials: Count = 1
    """Drawn at random before it begins."""


class Nsga2Config(SamplerConfig):
    """The genetic algorithm NSGA-II (Deb et al. 2002), for several objectives."""

    type: Literal["nsga2"] = "nsga2"
    population: Annotated[int, Field(ge=2)] = 20
    """Trials of a generation; the first generation is drawn at random."""
    crossover: Annotated[float, Field(ge=0, le=1)] = 0.9
    """How often a trial comes from two parents and not from one."""


class PruningConfig(Config):
    """The base of all ways to prune; ``type`` picks one."""

    type: str


class NoPruningConfig(PruningConfig):
    """Every trial is trained to its end."""

    type: Literal["none"] = "none"


class RungConfig(PruningConfig):
    """What all that prune share."""

    rungs: tuple[Count, ...] = ()
    """Steps at which trials are judged, rising, below train.steps. Empty: train.steps divided by
    ``factor`` once, twice, … as often as at least ``min_steps`` are left."""
    factor: Annotated[int, Field(ge=2)] = 3
    """Between rungs that are not written; for halving, one in so many goes on."""
    min_steps: Count = 10
    """Of the first rung, where rungs are not written."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if any(a >= b for a, b in zip(self.rungs, self.rungs[1:], strict=False)):
            raise ValueError(f"rungs must rise, not {list(self.rungs)}")
        return self


class MedianConfig(RungConfig):
    """A trial goes on where it is not worse than the median of all that were judged at the rung."""

    type: Literal["median"] = "median"
    startup_trials: Count = 5
    """So many must have been judged at a rung, this batch's included, before it prunes."""


class HalvingConfig(RungConfig):
    """Successive halving: one in ``factor`` of all that were judged at the rung so far goes on,
    rounded up (the promotion rule of ASHA, Li et al. 2020, asked once for each batch)."""

    type: Literal["halving"] = "halving"


class HyperbandConfig(RungConfig):
    """Halving in brackets (Li et al. 2018): each trial belongs to one, the first of which begins at
    the first rung, the second at the second, …, so that slow starters are not all pruned."""

    type: Literal["hyperband"] = "hyperband"


class ConfirmConfig(Config):
    """The best configurations, trained again on seeds that no trial has seen."""

    best: Annotated[int, Field(ge=0)] = 3
    """How many; 0: none."""
    seeds: Annotated[int, Field(ge=2)] = 3
    """Fresh seeds of each, and of the file as it stands."""


class SearchConfig(Config):
    """What a search asks.

    >>> SearchConfig(space={"train.lr": KnobConfig(log=(1e-4, 1e-2))}).sampler.type
    'tpe'
    """

    space: dict[str, KnobConfig]
    """Dotted paths of the run's file, as for ``--set``, and the values to try there."""
    sampler: Annotated[SamplerConfig, Choice("sampler", "tpe")] = TpeConfig()
    """What asks for the next trials."""
    trials: Count = 30
    """Configurations asked for; invalid ones and those that do not fit count too."""
    batch: Count = 6
    """Trials asked at a time, before any of them is judged. Part of the question: workers do not
    change it."""
    objectives: tuple[Objective, ...] = Field(default=("loss",), min_length=1)
    """What is to be small: the loss, and what it costs (flops of a run's training, parameters,
    predicted peak memory)."""
    pruning: Annotated[PruningConfig, Choice("pruning")] = NoPruningConfig()
    """Whether trials that look bad end early."""
    seeds: Count = 1
    """Of each trial; its loss is the mean over them."""
    confirm: Annotated[ConfirmConfig, BeforeValidator(_named)] = ConfirmConfig()
    """The best ones on fresh seeds. A number: so many."""


class _Kinds:
    """The configs of a part by their types."""

    def __init__(self, *classes: type[BaseModel]) -> None:
        self._classes = {str(cls.model_fields["type"].default): cls for cls in classes}

    def names(self) -> Iterable[str]:
        return tuple(self._classes)

    def config_class(self, name: str) -> type[BaseModel] | None:
        return self._classes.get(name)


SAMPLERS = _Kinds(TpeConfig, RandomConfig, GridConfig, CmaEsConfig, Nsga2Config)
PRUNING = _Kinds(NoPruningConfig, MedianConfig, HalvingConfig, HyperbandConfig)
offer("sampler", SAMPLERS)
offer("pruning", PRUNING)
