"""What is written under ``train.schedule``. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from windtunnel.config import Config

Fraction = Annotated[float, Field(ge=0, lt=1)]
Steps = Annotated[int, Field(ge=0)]

ScheduleType = Literal["cosine", "linear", "wsd", "flat", "step", "inverse_sqrt"]

OF_TYPES = {
    "min_ratio": ("cosine", "linear", "wsd"),
    "decay": ("wsd",),
    "cycles": ("cosine",),
    "cycle_factor": ("cosine",),
    "tail": ("cosine", "linear"),
    "milestones": ("step",),
    "factor": ("step",),
}
"""The types of schedules that read a key; all read `warmup`."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "cosine": {"min_ratio": 0.1},
    "linear": {"min_ratio": 0.1},
    "wsd": {"min_ratio": 0.0, "decay": 0.2},
    "step": {"milestones": (0.5, 0.75), "factor": 0.1},
}
"""What a type's keys are where they are left out."""


class ScheduleConfig(Config):
    """The learning rate over the steps; a name alone (``schedule: cosine``) is enough.

    >>> ScheduleConfig(type="wsd")
    ScheduleConfig(type='wsd', warmup=0.05, min_ratio=0.0, decay=0.2)
    """

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset(
        {"cycles", "cycle_factor", "tail", "milestones", "factor"}
    )

    type: ScheduleType = "cosine"
    """The shape after the warm-up; wsd (warm-up, stable, decay): flat, then linear at the end."""
    warmup: Steps | Fraction = 0.05
    """Warm-up from near 0 to `lr`: a number of steps, or a fraction (below 1) of all steps."""
    min_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """Where the decay leads, as a part of `lr`; if not given 0.1, and 0 for wsd."""
    decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """wsd only: the fraction of all steps in which the rate falls; 0.2 if not given."""
    cycles: int = Field(default=1, gt=0)
    """cosine only: how often it falls; at each restart the rate is `lr` again."""
    cycle_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """cosine only: how many times longer each fall is than the one before (T_mult)."""
    tail: Steps | Fraction = 0
    """cosine and linear: steps at the end, or their fraction, at the lowest rate."""
    milestones: tuple[Steps | Fraction, ...] | None = None
    """step only: steps, or fractions of all steps, at which the rate falls; 0.5 and 0.75 if not
    given."""
    factor: Annotated[float, Field(gt=0, lt=1)] | None = None
    """step only: what the rate is multiplied by at each of them; 0.1 if not given."""

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            default = type(self).model_fields[name].default if name else None
            if name not in self.unwritten_defaults or value != default:
                yield name, value

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        defaults = DEFAULTS.get(values.get("type", "cosine"), {})
        given = {name: value for name, value in values.items() if value is not None}
        if isinstance(given.get("milestones"), list):
            given["milestones"] = tuple(given["milestones"])
        return defaults | given

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, types in OF_TYPES.items():
            default = type(self).model_fields[name].default
            if self.type not in types and getattr(self, name) != default:
                raise ValueError(
                    f"{name} has no effect on a {self.type} schedule; it belongs to "
                    + " and ".join(types)
                )
        if self.cycles == 1 and self.cycle_factor != 1:
            raise ValueError("cycle_factor has no effect on one cycle; give cycles")
        if self.tail and not self.min_ratio:
            raise ValueError("a tail at min_ratio 0 would train nothing; raise min_ratio")
        return self

    def steps_of(self, part: float, steps: int) -> int:
        """A number of steps, or a fraction of all of them, as a number of steps."""
        return part if isinstance(part, int) else round(part * steps)

    def decay_steps(self, steps: int) -> int:
        """wsd: steps of the final decay, at least 1; 0 for other schedules."""
        if self.decay is None:
            return 0
        # Its start is rounded, as the warm-up's end is: fractions that add up to 1 always fit.
        return max(1, steps - round((1 - self.decay) * steps))

    def drops(self, steps: int) -> list[int]:
        """step: the steps at which the rate falls."""
        return [self.steps_of(part, steps) for part in self.milestones or ()]

    def restarts(self, steps: int) -> list[int]:
        """cosine: where each cycle begins, and where the last one ends, counted from 0."""
        warmup, tail = self.steps_of(self.warmup, steps), self.steps_of(self.tail, steps)
        # Powers of what is at most 1: they never overflow. A growing factor is read backwards.
        growing = self.cycle_factor > 1
        ratio = 1 / self.cycle_factor if growing else self.cycle_factor
        lengths = [ratio**index for index in range(self.cycles)]
        ends = list(accumulate(reversed(lengths) if growing else lengths))
        share = (steps - warmup - tail) / ends[-1]
        return [warmup, *(warmup + round(end * share) for end in ends)]

    def misfit(self, steps: int) -> str | None:
        """Why the schedule does not fit into so many steps, or None where it does."""
        warmup, tail = self.steps_of(self.warmup, steps), self.steps_of(self.tail, steps)
        if warmup > steps:
            return f"schedule.warmup ({warmup} steps) must be at most steps ({steps})"
        falling = self.decay_steps(steps)
        if warmup + falling > steps:
            return (
                f"schedule.warmup ({warmup} steps) and schedule.decay "
                f"({falling} steps) must fit into steps ({steps})"
            )
        if tail and warmup + tail >= steps:
            return (
                f"schedule.warmup ({warmup} steps) and schedule.tail ({tail} steps) must leave "
                f"some of the steps ({steps})"
            )
        # Asked first: a million cycles need not be laid out to see that they do not fit.
        bounds = self.restarts(steps) if self.cycles <= steps else [0, 0]
        if self.cycles > 1 and any(b <= a for a, b in pairwise(bounds)):
            return f"schedule.cycles ({self.cycles}) need more steps than {steps}"
        drops = self.drops(steps)
        if drops != sorted(set(drops)) or any(not warmup <= drop < steps for drop in drops):
            return (
                f"schedule.milestones ({', '.join(map(str, drops))}) must grow, from the end of "
                f"the warm-up ({warmup}) to below steps ({steps})"
            )
        return None
