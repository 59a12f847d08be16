"""One schedule for many budgets: a trunk at a constant rate, and decays that branch from it.

A run of warm-up, stable rate and decay (WSD) of n steps is, until its decay begins, a run of any
larger n. So the largest budget of a size is trained whole, and keeps a checkpoint where the decay
of each smaller one begins; those decays go on from there. They end with the same weights, to the
bit, as if they had been trained from their first step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from windtunnel.config import suggestion
from windtunnel.errors import UsageError
from windtunnel.train.config import TrainConfig
from windtunnel.train.schedule_config import ScheduleConfig

LrRule: TypeAlias = Literal["auto", "constant", "inverse_width", "inverse_sqrt_width", "mup"]
LR_RULES: tuple[LrRule, ...] = get_args(LrRule)
LR_WORDS: Mapping[LrRule, str] = {
    "constant": "lr as written at every size",
    "inverse_width": "lr ∝ 1/d_model, as written at the written d_model",
    "inverse_sqrt_width": "lr ∝ 1/√d_model, as written at the written d_model",
    "mup": "lr as written at every size; muP (train.mup) scales the rates of matrices",
}
_FACTORS: Mapping[LrRule, Callable[[float], float]] = {
    "constant": lambda wider: 1.0,
    "inverse_width": lambda wider: 1 / wider,
    "inverse_sqrt_width": lambda wider: wider**-0.5,
    "mup": lambda wider: 1.0,
}
DECAY = 0.2


def parse_lr_rule(text: str) -> LrRule:
    """The rule of that name; UsageError for another."""
    for rule in LR_RULES:
        if text.replace("-", "_") == rule:
            return rule
    raise UsageError(f"--lr-rule: unknown {text!r}{suggestion(text, LR_RULES)}")


def settled_lr_rule(rule: LrRule, train: TrainConfig, name: str) -> LrRule:
    """What ``auto`` means for a recipe: muP where the file has it, else 1/width (the limit in which
    Adam's updates of a matrix stay of one size: Yang et al. 2022, arXiv 2203.03466, table 3).

    Raises:
        UsageError: muP is asked for and the file has none; or it has, and another rule would change
            the rate a second time.
    """
    if rule == "auto":
        return "mup" if train.mup is not None else "inverse_width"
    if rule == "mup" and train.mup is None:
        raise UsageError(f"--lr-rule mup: {name} has no train.mup; give it there (base_width)")
    if rule not in ("mup", "constant") and train.mup is not None:
        raise UsageError(
            f"--lr-rule {rule}: {name} has train.mup, which scales the rates already; "
            "choose mup, or take train.mup out"
        )
    return rule


def scaled_lr(rule: LrRule, lr: float, wider: float) -> float:
    """The rate of a model ``wider`` times as wide as written, with four digits.

    >>> scaled_lr("inverse_width", 3e-3, 2.0)
    0.0015
    """
    return float(f"{lr * _FACTORS[rule](wider):.4g}")


@dataclass(frozen=True)
class Lengths:
    """The steps of a size's budgets, growing."""

    steps: tuple[int, ...]
    schedule: ScheduleConfig
    """WSD, its warm-up in steps."""

    @property
    def branches(self) -> tuple[int, ...]:
        """The steps at which the decays of the smaller budgets begin."""
        return tuple(self.begin(steps) for steps in self.steps[:-1])

    def begin(self, steps: int) -> int:
        """Where the decay of a run of so many steps begins."""
        return steps - self.schedule.decay_steps(steps)

    @property
    def trained(self) -> int:
        """Steps of the trunk and all decays."""
        return self.steps[-1] + sum(n - self.begin(n) for n in self.steps[:-1])

    @property
    def alone(self) -> int:
        """Steps that the budgets would take without branching."""
        return sum(self.steps)


def lengths_of(train: TrainConfig, steps: tuple[int, ...], where: str) -> Lengths:
    """The schedule of a size.

    The file's own schedule is kept where it is ``wsd``; of another one its warm-up alone. A warm-up
    that is a fraction is that fraction of the smallest budget.

    Raises:
        UsageError: the recipe has stages; budgets come to the same number of steps; or the smallest
            one is too short for its warm-up and decay.
    """
    if train.stages:
        raise UsageError(f"{where}: train.stages have schedules of their own; a ladder needs none")
    if len(set(steps)) < len(steps):
        raise UsageError(
            f"{where}: two budgets come to {max(s for s in steps if steps.count(s) > 1):,} steps "
            "each; take them further apart, or lower train.batch_size"
        )
    own = train.schedule
    wsd = own if own.type == "wsd" else ScheduleConfig(type="wsd", decay=DECAY)
    schedule = wsd.replace(warmup=own.steps_of(own.warmup, steps[0]))
    found = Lengths(steps, schedule)
    if (reason := schedule.misfit(steps[0])) is not None:
        raise UsageError(f"{where}: the smallest budget has {steps[0]:,} steps: {reason}")
    if found.begin(steps[0]) < 1:
        raise UsageError(f"{where}: the smallest budget has {steps[0]:,} steps: nothing but decay")
    return found


def recipe_at(train: TrainConfig, lengths: Lengths, steps: int, lr: float) -> TrainConfig:
    """The recipe of one budget; the largest one's is the trunk."""
    trunk = steps == lengths.steps[-1]
    return train.replace(
        steps=steps,
        schedule=lengths.schedule,
        lr=lr,
        checkpoint_at=lengths.branches if trunk else (),
    )
