"""The rungs of a ladder: every architecture at every size, with its budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from windtunnel.arch import ArchSpec
from windtunnel.config import digest
from windtunnel.errors import UsageError
from windtunnel.study.arms import Ground, Settled, as_arm
from windtunnel.study.budget import steps_reaching
from windtunnel.study.ladder.amounts import Budget, Target, short
from windtunnel.study.ladder.recipe import (
    Lengths,
    LrRule,
    lengths_of,
    recipe_at,
    scaled_lr,
    settled_lr_rule,
)
from windtunnel.study.ladder.rules import Count, Rule, Scaler, Sized
from windtunnel.study.matching import Candidate
from windtunnel.study.planning import distinct_names
from windtunnel.study.statistics import Floats
from windtunnel.train.run_config import LoadedRun, RunConfig, extra_ids, objective_config

CURVE_SIZES = 60
_LARGEST_STEP = 1.1
"""Sizes along a rule lie no further apart than this, in width."""


@dataclass(frozen=True, kw_only=True)
class LadderRequest:
    """What is asked."""

    sizes: tuple[float, ...]
    budgets: tuple[Budget, ...]
    seeds: tuple[int, ...]
    rule: Rule
    count: Count
    lr_rule: LrRule
    target: Target
    backtest: bool | None = None
    """None: where there are sizes enough."""


@dataclass(frozen=True)
class Rung:
    """One architecture at one size."""

    arm: str
    base: LoadedRun
    facts: Settled
    sized: Sized
    lengths: Lengths
    lr: float
    budgets: tuple[Budget, ...]

    @property
    def name(self) -> str:
        """Of all its runs, of whatever budget."""
        return f"{self.arm}-{short(self.sized.target)}"

    def name_at(self, budget: int) -> str:
        return f"{self.name}-{self.budgets[budget].name.replace(' ', '-')}"

    def candidate(self, budget: int) -> Candidate:
        """The run of a budget, by its number; the last one is the trunk."""
        return _candidate(
            self.base,
            self.facts,
            self.sized.spec.replace(name=self.name_at(budget)),
            recipe_at(self.base.config.train, self.lengths, self.lengths.steps[budget], self.lr),
            self.sized.changes,
        )

    @cached_property
    def trunk(self) -> Candidate:
        return self.candidate(len(self.budgets) - 1)

    @cached_property
    def tokens(self) -> tuple[float, ...]:
        """Of each budget."""
        return tuple(steps * self.trunk.tokens_per_step for steps in self.lengths.steps)

    @cached_property
    def flops(self) -> tuple[float, ...]:
        """Of each budget, as if it were trained alone."""
        return tuple(tokens * self.trunk.flops_per_token for tokens in self.tokens)

    @property
    def trained_flops(self) -> float:
        """Of the trunk and its decays."""
        per_step = self.trunk.tokens_per_step * self.trunk.flops_per_token
        return self.lengths.trained * per_step


def _candidate(
    base: LoadedRun, facts: Settled, spec: ArchSpec, train: Any, changes: tuple[str, ...]
) -> Candidate:
    config: RunConfig = base.config.replace(arch=spec, train=train)
    return Candidate(config, _vocab_size(base, facts), changes, facts.step)


def _vocab_size(base: LoadedRun, facts: Settled) -> int:
    """The model's: with what the objective adds to the tokenizer's, where it is not written."""
    written = base.config.arch.vocab_size
    return facts.vocab_size + extra_ids(base.config) if written == "auto" else written


@dataclass(frozen=True)
class Ladder:
    """All rungs, by arm and then by size, and what decides them."""

    request: LadderRequest
    arms: tuple[str, ...]
    rungs: tuple[tuple[Rung, ...], ...]
    """One row for each arm."""
    costs: tuple[tuple[Floats, Floats], ...]
    """Of each arm: parameters along its rule, and the training FLOPs of a token there."""
    digest: str
    notes: tuple[str, ...]

    @property
    def all(self) -> tuple[Rung, ...]:
        return tuple(rung for row in self.rungs for rung in row)

    @property
    def question(self) -> str:
        sizes = ", ".join(short(size) for size in self.request.sizes)
        return f"{', '.join(self.arms)} at {sizes} parameters"


def make_ladder(loaded: Sequence[LoadedRun], request: LadderRequest, ground: Ground) -> Ladder:
    """Sizes every architecture and lays out its budgets.

    Raises:
        UsageError: a size cannot be reached within 2% (the message tells the nearest), the recipe
            does not suit, or the arms do not learn the same.
    """
    names = distinct_names(loaded)
    bases = [as_arm(run, name) for run, name in zip(loaded, names, strict=True)]
    settled = [ground.settle(run) for run in bases]
    _check_same(bases, settled)
    rules = [settled_lr_rule(request.lr_rule, run.config.train, run.name) for run in bases]
    if len(set(rules)) > 1:
        shown = ", ".join(f"{name} {rule}" for name, rule in zip(names, rules, strict=True))
        raise UsageError(f"--lr-rule auto means another rule for each arm ({shown}); name one")
    scalers = [
        Scaler(run.config.arch, _vocab_size(run, facts), request.rule, request.count)
        for run, facts in zip(bases, settled, strict=True)
    ]
    rungs = tuple(
        tuple(_rung(run, facts, scaler, size, rule, request) for size in request.sizes)
        for run, facts, scaler, rule in zip(bases, settled, scalers, rules, strict=True)
    )
    costs = tuple(
        _costs(run, facts, scaler, request)
        for run, facts, scaler in zip(bases, settled, scalers, strict=True)
    )
    settled_request = replace(request, lr_rule=rules[0])
    return Ladder(
        settled_request, tuple(names), rungs, costs,
        _digest(names, settled, settled_request), _notes(bases, settled_request),
    )  # fmt: skip


def _check_same(bases: Sequence[LoadedRun], settled: Sequence[Settled]) -> None:
    """Raises UsageError where losses of arms could not be compared at equal tokens."""
    first, what = bases[0], objective_config(bases[0].config)
    for run, facts in zip(bases[1:], settled[1:], strict=True):
        if facts.data_fingerprint != settled[0].data_fingerprint:
            raise UsageError(
                f"{run.name}: has other data or another tokenizer than {first.name}; a ladder "
                "counts tokens, so its arms must have the same"
            )
        if objective_config(run.config) != what:
            raise UsageError(f"{run.name}: train.objective differs from that of {first.name}")
        for field in ("seq_len", "eval_tokens"):
            mine, theirs = (getattr(r.config.train, field) for r in (run, first))
            if mine != theirs:
                raise UsageError(
                    f"{run.name}: train.{field} is {mine}, but {theirs} for {first.name}: their "
                    "losses would not be measured alike"
                )


def _rung(
    base: LoadedRun,
    facts: Settled,
    scaler: Scaler,
    size: float,
    rule: LrRule,
    request: LadderRequest,
) -> Rung:
    sized = scaler.sized(size)
    train = base.config.train
    probe = _candidate(base, facts, sized.spec, train.replace(stages=()), ())
    steps = tuple(
        steps_reaching(budget.tokens(sized.params, probe.flops_per_token), probe.tokens_per_step)
        for budget in request.budgets
    )
    lengths = lengths_of(train, steps, f"{base.name} at {short(size)}")
    lr = scaled_lr(rule, train.lr, sized.spec.d_model / base.config.arch.d_model)
    return Rung(base.name, base, facts, sized, lengths, lr, request.budgets)


def _costs(
    base: LoadedRun, facts: Settled, scaler: Scaler, request: LadderRequest
) -> tuple[Floats, Floats]:
    """FLOPs of a token over the size along the rule, from below the smallest to far above the
    largest: read between on straight lines of logarithms."""
    high = request.sizes[-1] * 10 * max(1.0, request.target.amount**0.5 * request.target.multiple)
    found: dict[int, float] = {}
    for sized in scaler.path(request.sizes[0] / 2, high, _LARGEST_STEP):
        probe = _candidate(base, facts, sized.spec, base.config.train.replace(stages=()), ())
        found[sized.params] = probe.flops_per_token
    params = np.array(sorted(found), dtype=np.float64)
    flops = np.array([found[int(n)] for n in params])
    grid = np.geomspace(params[0], params[-1], CURVE_SIZES)
    return grid, np.exp(np.interp(np.log(grid), np.log(params), np.log(flops)))


def _digest(names: Sequence[str], settled: Sequence[Settled], request: LadderRequest) -> str:
    """Of all that decides runs; what is asked of their losses may change."""
    return digest(
        {
            "kind": "ladder",
            "arms": [(name, facts.key) for name, facts in zip(names, settled, strict=True)],
            "sizes": list(request.sizes),
            "budgets": [budget.name for budget in request.budgets],
            "seeds": list(request.seeds),
            "rule": request.rule,
            "count": request.count,
            "lr_rule": request.lr_rule,
        }
    )


def _notes(bases: Sequence[LoadedRun], request: LadderRequest) -> tuple[str, ...]:
    notes = []
    for run in bases:
        kind = run.config.train.schedule.type
        if kind != "wsd":
            notes.append(
                f"{run.name}: its {kind} schedule becomes wsd (warm-up, stable rate, decay), so "
                "that one trunk gives every budget."
            )
    if len(request.budgets) == 1:
        notes.append("One budget: nothing branches, and laws are fitted over compute alone.")
    return tuple(notes)
