"""The course of an evaluation: choose the strong initialisation, tune every rate, then measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from windtunnel.errors import UsageError
from windtunnel.hyper.evaluation.config import EvaluationConfig
from windtunnel.hyper.evaluation.units import (
    Results,
    Unit,
    best_rate,
    is_bracketed,
    next_rates,
    unique_units,
)
from windtunnel.spaces import Space
from windtunnel.spaces.families import twins_of

Run = Callable[[Sequence[Unit]], None]
"""Runs units and adds them to the results."""

STRONG, IN_REACH = "strong", "in_distribution"
AS_IS = 0.0
"""The rate of a unit that is measured at step 0 alone."""


@dataclass(frozen=True)
class Group:
    """Architectures of one split and kind: rates are tuned for each group."""

    split: str
    kind: str
    tune: tuple[int, ...]
    measure: tuple[int, ...]


@dataclass
class Course:
    """What was chosen so far, and what is left to do."""

    config: EvaluationConfig
    groups: Sequence[Group]
    results: Results
    strong: dict[str, str] = field(default_factory=dict)
    """The chosen initialisation of each kind."""
    rates: dict[tuple[str, str, str], float] = field(default_factory=dict)
    """(split, kind, init) -> the tuned rate."""
    at_edge: list[tuple[str, str, str]] = field(default_factory=list)
    """Of those the ones whose best rate is the lowest or highest that was tried."""
    ranks: Sequence[tuple[int, str]] = ()
    """Architectures that are only ranked, with their kinds."""
    part: str = ""
    """What is being done, in words."""

    @property
    def inits(self) -> tuple[str, ...]:
        """What is compared."""
        return (STRONG, "ghn", *self.config.others)

    def go(self, run: Run) -> None:
        """Runs all that is left, in three parts."""
        self.part = "1 of 3, choosing the strong initialisation"
        self._choose_strong(run)
        self.part = "2 of 3, tuning learning rates"
        self._tune(run)
        self.part = "3 of 3, measuring"
        run([unit for unit in self.measured() if unit not in self.results])

    def measured(self) -> list[Unit]:
        """All units that are measured, once rates are tuned."""
        found = [
            unit
            for group in self.groups
            for init in self.inits
            for index in group.measure
            for unit in self.measured_units(group, index, init)
        ]
        return unique_units(found + self.ranked() + [u for _, u in self.early()])

    def measured_units(self, group: Group, index: int, init: str) -> list[Unit]:
        """Those of one architecture and start, one for each seed."""
        lr = self.rates[group.split, group.kind, init]
        name = self.strong[group.kind] if init == STRONG else init
        return [Unit(index, name, lr, seed, "test") for seed in self.config.seeds]

    def mean(self, group: Group, index: int, init: str, step: int) -> float:
        """The mean loss over seeds at a step."""
        return fmean(self.results[u][step] for u in self.measured_units(group, index, init))

    def ranked(self) -> list[Unit]:
        """Those that are only ranked: trained from the strong one, predicted at step 0."""
        found = []
        for index, kind in self.ranks:
            lr = self.rates[IN_REACH, kind, STRONG]
            seed = self.config.seeds[0]
            found.append(Unit(index, self.strong[kind], lr, seed, "test"))
            predicted = (name for name in self.inits if name != STRONG)
            found += [Unit(index, name, AS_IS, seed, "test") for name in predicted]
        return found

    def everyone(self) -> list[tuple[int, str]]:
        """All architectures of in_distribution that are measured or only ranked, with their
        kinds, in the order of the summary."""
        own = [group for group in self.groups if group.split == IN_REACH]
        return [(i, group.kind) for group in own for i in group.measure] + list(self.ranks)

    def early(self) -> list[tuple[str, Unit]]:
        """The short trainings of :meth:`everyone`, with the name of what each begins from."""
        if not self.config.early:
            return []
        found = []
        for init in (STRONG, "ghn"):
            for index, kind in self.everyone():
                name = self.strong[kind] if init == STRONG else init
                lr = self.rates[IN_REACH, kind, init]
                found.append((init, Unit(index, name, lr, self.config.seeds[0], "early")))
        return found

    def _choose_strong(self, run: Run) -> None:
        """The candidate with the lowest tuned loss, of each kind, on in-distribution sizes (or the
        first split that there is)."""
        first: dict[str, Group] = {}
        for group in sorted(self.groups, key=lambda group: group.split != IN_REACH):
            first.setdefault(group.kind, group)
        wanted = [(group, name) for group in first.values() for name in self.config.candidates]
        tuned = self._searched(wanted, run)
        for kind, group in first.items():
            losses = {name: min(tuned[group, name].values()) for name in self.config.candidates}
            self.strong[kind] = min(losses, key=lambda name: losses[name])

    def _tune(self, run: Run) -> None:
        wanted = [
            (group, self.strong[group.kind] if init == STRONG else init)
            for group in self.groups
            for init in self.inits
        ]
        tuned = self._searched(wanted, run)
        for group in self.groups:
            for init in self.inits:
                name = self.strong[group.kind] if init == STRONG else init
                self.rates[group.split, group.kind, init] = best_rate(tuned[group, name])
                if not is_bracketed(tuned[group, name]):
                    self.at_edge.append((group.split, group.kind, init))

    def _searched(
        self, wanted: Sequence[tuple[Group, str]], run: Run
    ) -> dict[tuple[Group, str], dict[float, float]]:
        """The mean loss at each tried rate, of every group and initialisation."""
        found: dict[tuple[Group, str], dict[float, float]] = {pair: {} for pair in wanted}
        while True:
            asked = {pair: self._next(pair, done) for pair, done in found.items()}
            if not any(asked.values()):
                return found
            units = [u for (g, init), rates in asked.items() for u in self._units(g, init, rates)]
            run([unit for unit in unique_units(units) if unit not in self.results])
            for (group, init), rates in asked.items():
                for rate in rates:
                    found[group, init][rate] = self._mean(group, init, rate)

    def _next(self, pair: tuple[Group, str], done: Mapping[float, float]) -> list[float]:
        given = pair[1] in self.config.candidates
        first = self.config.first_lr * (1.0 if given else 1 / self.config.lr_factor)
        return next_rates(done, first, self.config.lr_factor)

    def _units(self, group: Group, init: str, rates: Sequence[float]) -> Iterator[Unit]:
        for rate in rates:
            for index in group.tune:
                yield Unit(index, init, rate, self.config.seeds[0], "tune")

    def _mean(self, group: Group, init: str, rate: float) -> float:
        last = self.config.steps[-1]
        losses = [self.results[unit][last] for unit in self._units(group, init, [rate])]
        return fmean(losses) if all(map(math.isfinite, losses)) else math.inf


def kind_of(family: str) -> str:
    """One name for a family and its twins."""
    return min(twins_of(family))


def groups_of(parts: Mapping[str, Space], config: EvaluationConfig) -> list[Group]:
    """The architectures of each split, alike many of each kind (of a kind with too few, all that
    there are, and of the others more), all structures different.

    Raises:
        UsageError: a split has too few.
    """
    groups = []
    for split, count in config.splits.items():
        if split not in parts:
            raise UsageError(f"splits.{split}: the hypernetwork's file makes no such split")
        part = parts[split]
        kinds: dict[str, Space] = {}
        for kind in dict.fromkeys(kind_of(family) for family in part.families()):
            names = ", ".join(name for name in part.families() if kind_of(name) == kind)
            kinds[kind] = part.where(f"family in [{names}]")
        n = config.tune_members
        room = [len(np.unique(own.structures())) - n for own in kinds.values()]
        if min(room) < 0 or sum(room) < count:
            there = ", ".join(f"{r + n} of {k}" for r, k in zip(room, kinds, strict=True))
            raise UsageError(
                f"splits.{split}: {count} structures to measure are asked for, and {n} of each "
                f"kind to tune on; there are {there}"
            )
        for (kind, own), share in zip(kinds.items(), shares(count, room), strict=True):
            chosen = _distinct(own, share + n)
            chosen.sort(key=lambda index: part.whole[index].params)
            tune = tuple(chosen[int((i + 0.5) * len(chosen) / n)] for i in range(n))
            measure = tuple(index for index in chosen if index not in tune)
            groups.append(Group(split, kind, tune, measure))
    return groups


def shares(count: int, room: Sequence[int]) -> list[int]:
    """``count`` in parts that are alike but for one, none larger than its room.

    >>> shares(10, [9, 9, 2])
    [4, 4, 2]
    """
    found = [0] * len(room)
    while count and any(own < most for own, most in zip(found, room, strict=True)):
        for place, most in enumerate(room):
            if count and found[place] < most:
                found[place] += 1
                count -= 1
    return found


def ranks_of(
    parts: Mapping[str, Space], config: EvaluationConfig, groups: Sequence[Group]
) -> list[tuple[int, str]]:
    """Further architectures of in_distribution with their kinds, all structures different.

    Raises:
        UsageError: there are too few, or that split is not measured.
    """
    if not config.ranking:
        return []
    own = [group for group in groups if group.split == IN_REACH]
    if not own:
        raise UsageError("ranking: needs the split in_distribution, whose rates it uses")
    part = parts[IN_REACH]
    taken = {i for group in own for i in (*group.tune, *group.measure)}
    known = {part.whole[index].structure for index in taken}
    found: list[tuple[int, str]] = []
    for index in _distinct(part, config.ranking + len(taken)):
        member = part.whole[index]
        if member.structure not in known and len(found) < config.ranking:
            found.append((index, kind_of(member.family)))
    if len(found) < config.ranking:
        raise UsageError(f"ranking: {config.ranking} asked for, {len(found)} structures are left")
    return found


def _distinct(space: Space, count: int) -> list[int]:
    """Indices of so many architectures of different structures, spread over log parameters."""
    found: dict[int, int] = {}
    size = min(len(space), count)
    while size <= len(space):
        sample = space.sample(size, seed=1)
        found = {}
        for member in sample:
            found.setdefault(member.structure, member.index)
        if len(found) >= count or size == len(space):
            break
        size = min(len(space), size + count)
    ordered = list(found.values())
    if len(ordered) <= count:
        return ordered
    step = len(ordered) / count
    return [ordered[int(i * step)] for i in range(count)]
