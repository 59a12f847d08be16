"""Seeds until decided: which arms get one more, and what may be said when none does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from windtunnel.study.compare import Verdicts, judge
from windtunnel.study.comparison import Wanted
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
        records = {key: record for done in past for key, record in done.records.items()}
        plan = merged([done.plan for done in past])
        return judge(plan, records, looks=self.looks, margin=self.margin)

    def outlook(self, arms: int) -> str:
        """What it will take, in words."""
        first, last = self.looks.first, self.looks.last
        return (
            f"until decided: {first} seeds of each arm, then one more for each that is still open, "
            f"up to {last}: {arms * first} to {arms * last} runs; every look is allowed for"
        )
