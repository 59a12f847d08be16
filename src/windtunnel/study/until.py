"""Seeds until decided: which arms get one more, and what may be said when none does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from windtunnel.errors import UsageError
from windtunnel.study.ablate import point_results
from windtunnel.study.compare import Verdicts, judge
from windtunnel.study.comparison import Wanted
from windtunnel.study.design import Design
from windtunnel.study.effects import open_points
from windtunnel.study.plan import merged
from windtunnel.study.rounds import Round
from windtunnel.study.sequential import FIRST_LOOK, Looks

MAX_SEEDS = 10


@dataclass(frozen=True)
class UntilDecided:
    """All arms get the first seeds; then every arm that is still open gets one more, and the first
    arm with it, until none is open or the last look is reached.

    An arm that is better, worse or equivalent stops there, and so does one that no seed can decide
    (:attr:`ArmVerdict.is_open`). The error rate holds over all looks: :class:`Looks`.
    """

    looks: Looks = field(default_factory=lambda: Looks(FIRST_LOOK, MAX_SEEDS))
    margin: float | None = None

    def asked(self) -> Any:
        """All that decides it, as plain JSON."""
        looks = [self.looks.first, self.looks.last, self.looks.shape]
        return {"until_decided": looks, "margin": self.margin}

    def wanted(self, past: Sequence[Round]) -> Wanted | None:
        """The seeds of the next round and its arms (None: all); None when there is enough."""
        if not past:
            return tuple(range(self.looks.first)), None
        verdicts = self.judge(past)
        first = verdicts.arms[0]
        going = tuple(arm.name for arm in verdicts.arms[1:] if arm.is_open)
        if not going or first.seeds >= self.looks.last:
            return None
        return (first.seeds,), (first.name, *going)

    def judge(self, past: Sequence[Round]) -> Verdicts:
        """The verdicts over all rounds of confirmation."""
        return _judged(past, self.looks, self.margin)

    def outlook(self, arms: int) -> str:
        """What it will take, in words."""
        first, last = self.looks.first, self.looks.last
        return (
            f"until decided: {first} seeds of each arm, then one more for each that is still open, "
            f"up to {last}: {arms * first} to {arms * last} runs; every look is allowed for"
        )


@dataclass(frozen=True)
class UntilEffectsDecided:
    """All arms of an ablation get the first seeds; then one more goes to every arm that an effect
    or an interaction which is still open is made of, and to the first arm with them, until none is
    open or the last look is reached.

    The error rate of each family holds over all looks: :func:`judge_family`.
    """

    design: Design
    looks: Looks = field(default_factory=lambda: Looks(FIRST_LOOK, MAX_SEEDS))
    margin: float | None = None

    def asked(self) -> Any:
        """All that decides it, as plain JSON; the design stands in the ablation's own question."""
        asked: dict[str, Any] = {
            "until_effects_decided": [self.looks.first, self.looks.last, self.looks.shape]
        }
        return asked if self.margin is None else {**asked, "margin": self.margin}

    def wanted(self, past: Sequence[Round]) -> Wanted | None:
        """The seeds of the next round and its arms; None when there is enough."""
        if not past:
            return tuple(range(self.looks.first)), None
        verdicts = self.judge(past)
        results = point_results(self.design, verdicts)
        going = open_points(self.design, results, self.looks, self.margin)
        seeds = verdicts.arms[0].seeds
        if not going or seeds >= self.looks.last:
            return None
        first, *others = zip(self.design.points, verdicts.arms, strict=True)
        names = [arm.name for point, arm in others if point in going]
        return (seeds,), (first[1].name, *names)

    def judge(self, past: Sequence[Round]) -> Verdicts:
        """The verdicts of the arms over all rounds of confirmation."""
        return _judged(past, self.looks, self.margin)

    def outlook(self, arms: int) -> str:
        """What it will take, in words."""
        first, last = self.looks.first, self.looks.last
        return (
            f"until decided: {first} seeds of each arm, then one more for the arms of every effect "
            f"and interaction that is still open, up to {last}: {arms * first} to {arms * last} "
            "runs; every look is allowed for"
        )


def _judged(past: Sequence[Round], looks: Looks, margin: float | None = None) -> Verdicts:
    records = {key: record for done in past for key, record in done.records.items()}
    return judge(merged([done.plan for done in past]), records, looks=looks, margin=margin)


def planned_looks(*, seeds: int | None, first: int | None, last: int | None) -> Looks:
    """The looks of ``--first-seeds`` and ``--max-seeds``; where only the last is given, it bounds
    the first.

    Raises:
        UsageError: they do not go together, or a fixed number of seeds is asked for too.
    """
    if seeds is not None:
        raise UsageError("--until-decided takes --first-seeds and --max-seeds, not --seeds")
    chosen = FIRST_LOOK if first is None else first
    most = max(MAX_SEEDS, chosen) if last is None else last
    return Looks(max(2, min(chosen, most)) if first is None else chosen, most)
