"""What answers to tasks say of arms: better, worse or undecided, corrected for how many are asked.

Each arm and task is one comparison with the first arm, by one measure that is named beforehand.
The rule stands in ``docs/design/tasks.md``, its error rates in ``docs/design/statistics.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from windtunnel.study.crossed import Crossed
from windtunnel.study.sequential import Looks
from windtunnel.study.statistics import ALPHA, Interval, holm, holm_factors

TaskVerdict = Literal["better", "worse", "undecided"]
ONE_SEED = "one seed tells nothing of how seeds differ"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An arm's difference to the first arm in a task."""

    difference: Crossed | None
    """None where no seeds go together."""
    higher_is_better: bool
    looks: tuple[Looks, ...] = ()
    """Of the studies whose seeds were added until something else was decided."""
    trouble: str = ""
    """Why it must not be tested: runs without answers would make it a selection."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What may be said of a comparison."""

    verdict: TaskVerdict
    p_value: float | None
    p_looks: float | None
    """After allowing for looks; None where there are none."""
    p_holm: float | None
    """After that and Holm's correction over all arms and tasks."""
    interval: Interval
    """At the level that the corrections left: it leaves out zero exactly where there is a
    verdict."""
    confidence: float
    """Of that interval, over all looks."""
    reason: str


def judge_answers(asked: Sequence[Asked]) -> list[Judged]:
    """The verdicts of a family of comparisons, in their order.

    A comparison without a p-value keeps its place in the family. Where seeds were added until
    something else was decided, the p-value allows for all planned looks: then it holds whatever
    made the study stop.
    """
    plain = [_p_value(one) for one in asked]
    looked = [_after_looks(one, p) for one, p in zip(asked, plain, strict=True)]
    p_values = [p if after is None else after for p, after in zip(plain, looked, strict=True)]
    adjusted, factors = holm(p_values), holm_factors(p_values)
    return [
        _judged(one, p, after, corrected, factor)
        for one, p, after, corrected, factor in zip(
            asked, plain, looked, adjusted, factors, strict=True
        )
    ]


def _p_value(asked: Asked) -> float | None:
    found = asked.difference
    if found is None or found.of_items_only or asked.trouble:
        return None
    return found.p_value()


def _after_looks(asked: Asked, p_value: float | None) -> float | None:
    if p_value is None or not asked.looks:
        return None
    assert asked.difference is not None
    seeds = asked.difference.seeds
    return max(looks.adjusted(p_value, _within(looks, seeds)) for looks in asked.looks)


def _within(looks: Looks, seeds: int) -> int:
    return min(max(seeds, looks.first), looks.last)


def _judged(
    asked: Asked, p: float | None, p_looks: float | None, p_holm: float | None, factor: float
) -> Judged:
    alpha = ALPHA if p is None else ALPHA / factor
    found = asked.difference
    return Judged(
        verdict=_verdict(asked, p_holm),
        p_value=p,
        p_looks=p_looks,
        p_holm=p_holm,
        interval=Interval(None, None, None) if found is None else _interval(asked, found, alpha),
        confidence=1 - alpha,
        reason=_reason(asked, p if p_looks is None else p_looks, p_holm),
    )


def _interval(asked: Asked, found: Crossed, alpha: float) -> Interval:
    levels = [looks.nominal(alpha, _within(looks, found.seeds)) for looks in asked.looks]
    return found.interval(min([alpha, *levels]))


def _verdict(asked: Asked, p_holm: float | None) -> TaskVerdict:
    if p_holm is None or p_holm >= ALPHA:
        return "undecided"
    assert asked.difference is not None
    return "better" if (asked.difference.mean > 0) == asked.higher_is_better else "worse"


def _reason(asked: Asked, alone: float | None, p_holm: float | None) -> str:
    found = asked.difference
    if asked.trouble:
        return asked.trouble
    if found is None:
        return "no seeds that both arms have"
    if found.of_items_only:
        return ONE_SEED
    if found.reason:
        return found.reason
    if alone is not None and alone < ALPHA and p_holm is not None and p_holm >= ALPHA:
        return "visible by itself, not after the correction for several comparisons"
    return ""
