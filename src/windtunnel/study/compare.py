"""From a plan and its records to verdicts. Pure; the rules stand in ``statistics.md``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from windtunnel.errors import StudyError
from windtunnel.study.budget import mismatches
from windtunnel.study.pairing import Pairing, compare_as_measured
from windtunnel.study.plan import Arm, Plan
from windtunnel.study.sequential import Looks
from windtunnel.study.statistics import (
    ALPHA,
    Comparison,
    Interval,
    compare_arms,
    holm,
    holm_factors,
    mean_interval,
)
from windtunnel.study.timing import Pace, time_tree
from windtunnel.study.verdicts import UNITS, ArmVerdict, Delta, Verdict, Verdicts, conclusion

__all__ = ["ArmVerdict", "Delta", "Record", "Verdict", "Verdicts", "judge"]

Record = Mapping[str, Any]


@dataclass(frozen=True)
class _Results:
    """An arm's runs by seed; None for a run without a final loss."""

    arm: Arm
    seeds: tuple[int, ...]
    keys: tuple[str, ...]
    records: tuple[Record, ...]
    loss: tuple[float | None, ...]
    bits: tuple[float | None, ...]

    @property
    def failed(self) -> int:
        return sum(record["status"] == "failed" for record in self.records)

    @property
    def diverged(self) -> int:
        """Runs that ended without a finite loss, for the arm's own reasons."""
        return sum(loss is None for loss in self.loss) - self.failed

    def values(self, metric: str) -> tuple[float | None, ...]:
        return self.loss if metric == "loss" else self.bits

    def mean(self, name: str) -> float | None:
        known = [float(r[name]) for r in self.records if _finite(r.get(name)) is not None]
        return math.fsum(known) / len(known) if known else None

    def median(self, name: str) -> float | None:
        known = [float(r[name]) for r in self.records if _finite(r.get(name)) is not None]
        return statistics.median(known) if known else None

    @property
    def pace(self) -> Pace:
        known = [r for r in self.records if _finite(r.get("train_seconds")) is not None]
        return Pace.of([r["train_seconds"] / (r.get("steps") or self.arm.steps) for r in known])

    @property
    def seconds(self) -> float | None:
        """Of one run's training."""
        typical = self.pace.typical
        return None if typical is None else typical * self.trained("steps")

    def trained(self, name: Literal["tokens", "steps", "flops"]) -> float:
        """Of one run: as planned, or the mean over the records where a run ended early."""
        found = self.mean(name) if self.diverged else None
        return float(getattr(self.arm, name)) if found is None else found


@dataclass(frozen=True)
class _Pair:
    """An arm and the first one over the seeds of the arm: further ones of the first are not used,
    so that a verdict stands when others go on."""

    mine: _Results
    first: _Results
    metric: str
    pairing: Pairing = "design"

    @property
    def shared(self) -> bool:
        """Whether both are the same runs under two names."""
        return self.mine.keys == self.first.keys

    def compare(self, metric: str) -> Comparison | None:
        """The comparison over all seeds; None where a run of either has no result: what is left
        would be a selection."""
        base, arm = self.first.values(metric), self.mine.values(metric)
        if None in base or None in arm:
            return None
        x, y = [a for a in base if a is not None], [b for b in arm if b is not None]
        if self.pairing == "measured":
            return compare_as_measured(x, y)
        return compare_arms(x, y, paired=True)


@dataclass(frozen=True)
class _Tested:
    """What the tests say of an arm, allowing for looks and for the other arms."""

    comparison: Comparison | None
    p_looks: float | None = None
    p_holm: float | None = None
    p_equivalence: float | None = None
    alpha: float = ALPHA
    """The level, over all looks, that Holm's correction left to the interval behind the verdict."""
    level: float = ALPHA
    """The same at the arm's look."""
    level_95: float = ALPHA
    """The arm's look's level where this comparison is the only one."""

    @property
    def differs(self) -> bool:
        return self.p_holm is not None and self.p_holm < ALPHA

    @property
    def equivalent(self) -> bool:
        return self.p_equivalence is not None and self.p_equivalence < ALPHA


def judge(
    plan: Plan,
    records: Mapping[str, Record],
    *,
    looks: Looks | None = None,
    margin: float | None = None,
    pairing: Pairing = "design",
) -> Verdicts:
    """The verdicts of a plan's records.

    Args:
        plan: its arms may have unlike numbers of seeds, as long as the first has all of them.
        records: by the run's key: a run's record, or ``{"status": "failed", "reason": …}`` for a
            run that could not be trained.
        looks: the planned looks, where arms are judged after each further seed; each is judged at
            its own number of seeds.
        margin: a difference of less, in the plan's metric, does not matter: makes ``equivalent``
            a verdict.
        pairing: ``design``: runs of one seed are pairs; ``measured``: their correlation decides, at
            a level that allows for it (:mod:`windtunnel.study.pairing`); not beside ``looks``.

    Raises:
        StudyError: a run of the plan has no record, or an arm has a seed that the first has not.
    """
    assert pairing == "design" or looks is None, "the level of a choice holds for one look"
    missing = [key for key in plan.keys if key not in records]
    if missing:
        names = ", ".join(f"{plan.run(k).arm} seed {plan.run(k).seed}" for k in missing[:3])
        raise StudyError(f"{len(missing)} of {len(plan.keys)} runs have not ended: {names}")
    results = [_results(plan, arm, records) for arm in plan.arms]
    first = results[0]
    pairs = [_Pair(mine, _at(first, mine.seeds), plan.metric, pairing) for mine in results[1:]]
    tests = _test(pairs, looks, margin)
    arms = [_arm_verdict(_Pair(first, first, plan.metric), _Tested(None), "reference", "")]
    for pair, tested in zip(pairs, tests, strict=True):
        arms.append(_arm_verdict(pair, tested, *_decide(pair, tested, margin)))
    verdicts = Verdicts(
        arms=tuple(arms),
        match=plan.match,
        budget=plan.budget,
        seeds=plan.seeds,
        metric=plan.metric,
        margin=margin,
        looks=(looks.first, looks.last) if looks is not None else None,
        pairing=pairing,
        note="\n".join(plan.notes),
    )
    return replace(verdicts, conclusion=conclusion(verdicts))


def _results(plan: Plan, arm: Arm, records: Mapping[str, Record]) -> _Results:
    by_seed = plan.runs_of(arm.name)
    seeds, keys = tuple(by_seed), tuple(by_seed.values())
    mine = tuple(records[key] for key in keys)
    return _Results(
        arm, seeds, keys, mine, tuple(final_value(r, "loss") for r in mine),
        tuple(final_value(r, "bits_per_byte") for r in mine),
    )  # fmt: skip


def _at(results: _Results, seeds: Sequence[int]) -> _Results:
    """Of these seeds alone."""
    absent = [seed for seed in seeds if seed not in results.seeds]
    if absent:
        raise StudyError(f"{results.arm.name} has no run of seed {absent[0]} to compare with")
    places = [results.seeds.index(seed) for seed in seeds]

    def chosen(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[place] for place in places)

    return replace(
        results, seeds=tuple(seeds), keys=chosen(results.keys), records=chosen(results.records),
        loss=chosen(results.loss), bits=chosen(results.bits),
    )  # fmt: skip


def final_value(record: Record, name: str) -> float | None:
    """A finished run's last validation figure; None for a run without a finite one."""
    if record["status"] != "finished":
        return None
    return _finite((record.get("final") or {}).get(name))


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _test(pairs: Sequence[_Pair], looks: Looks | None, margin: float | None) -> list[_Tested]:
    """Every arm's tests. Differences and equivalences are two families: Holm's correction is made
    in each, so that a margin does not change what is better or worse."""
    compared = [pair.compare(pair.metric) for pair in pairs]
    counts = [len(pair.mine.seeds) for pair in pairs]
    plans = [looks or Looks.at(n) for n in counts]
    for pair, plan, n in zip(pairs, plans, counts, strict=True):
        if not plan.first <= n <= plan.last:
            raise StudyError(
                f"{pair.mine.arm.name}: {n} seeds, but looks are from {plan.first} to {plan.last}"
            )

    def looked(p_values: Sequence[float | None]) -> list[float | None]:
        rows = zip(p_values, plans, counts, strict=True)
        return [None if p is None else plan.adjusted(p, n) for p, plan, n in rows]

    p_looks = looked([c.p_value if c is not None else None for c in compared])
    p_equal = looked([_p_equivalence(c, margin) for c in compared])
    adjusted, equal = holm(p_looks), holm(p_equal)
    factors, equal_factors = holm_factors(p_looks), holm_factors(p_equal)
    found = []
    for i, comparison in enumerate(compared):
        shown = p_looks[i] if looks is not None else None
        tested = _Tested(comparison, shown, p_holm=adjusted[i], p_equivalence=equal[i])
        alpha = ALPHA / (equal_factors[i] if tested.equivalent else factors[i])
        level, level_95 = (plans[i].nominal(a, counts[i]) for a in (alpha, ALPHA))
        found.append(replace(tested, alpha=alpha, level=level, level_95=level_95))
    return found


def _p_equivalence(comparison: Comparison | None, margin: float | None) -> float | None:
    return None if comparison is None or margin is None else comparison.p_equivalence(margin)


def _arm_verdict(pair: _Pair, tested: _Tested, verdict: Verdict, reason: str) -> ArmVerdict:
    mine, comparison = pair.mine, tested.comparison
    arm = mine.arm
    is_first = verdict == "reference"
    memory = mine.mean("peak_memory_bytes")
    apart = mismatches(_budgets(mine), _budgets(pair.first))
    return ArmVerdict(
        name=arm.name,
        params=arm.params,
        tokens=round(mine.trained("tokens")),
        steps=round(mine.trained("steps")),
        flops_per_token=arm.flops_per_token,
        seeds=len(mine.seeds),
        loss=_summary(mine.loss),
        bits_per_byte=_summary(mine.bits),
        delta=None if is_first else _delta(pair, "loss", tested),
        delta_bits_per_byte=None if is_first else _delta(pair, "bits_per_byte", tested),
        p_value=comparison.p_value if comparison else None,
        p_looks=tested.p_looks,
        p_holm=tested.p_holm,
        p_equivalence=tested.p_equivalence,
        correlation=comparison.correlation if comparison else None,
        pairing_gain=comparison.pairing_gain if comparison else None,
        paired=comparison.paired if comparison else None,
        mde=comparison.mde if comparison else None,
        mde_corrected=None if comparison is None else comparison.detectable(tested.level),
        verdict=verdict,
        reason=_trouble(mine) if is_first else reason,
        is_open=verdict == "undecided" and comparison is not None and not pair.shared,
        diverged=mine.diverged,
        failed=mine.failed,
        tokens_per_second=mine.median("tokens_per_second"),
        peak_memory_bytes=None if memory is None else round(memory),
        mismatch=apart,
        time=time_tree(mine.pace, pair.first.pace, mine.seconds, apart["seconds"]),
    )


def _budgets(results: _Results) -> dict[str, float | None]:
    return {
        "tokens": results.trained("tokens"),
        "flops": results.trained("flops"),
        "params": results.arm.params,
        "seconds": results.seconds,
    }


def _summary(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    interval = mean_interval(known if len(known) == len(values) else [])
    return {**interval.to_dict(), "values": list(values)}


def _delta(pair: _Pair, metric: str, tested: _Tested) -> Delta | None:
    """The difference in one metric, its interval at the level that the corrections left."""
    comparison = pair.compare(metric)
    if comparison is None:
        return None
    alone = comparison.interval(tested.level_95)
    known = alone.low is not None
    shown = comparison.interval(tested.level) if known else Interval(None, None, None)
    return Delta(
        mean=comparison.delta,
        low=shown.low,
        high=shown.high,
        confidence=1 - tested.alpha if known else None,
        low_95=alone.low,
        high_95=alone.high,
    )


def _decide(pair: _Pair, tested: _Tested, margin: float | None) -> tuple[Verdict, str]:
    mine, first = pair.mine, pair.first
    if pair.shared:
        same = "the same architecture and recipe: the runs are shared"
        if _trouble(mine):
            return "undecided", f"{same}; {_trouble(mine)}"
        return ("undecided" if margin is None else "equivalent"), same
    if mine.failed or first.failed:
        broken = mine if mine.failed else first
        whose = "" if broken is mine else f"{first.arm.name}: "
        return "undecided", f"{whose}{_trouble(broken)}"
    if mine.diverged and first.diverged:
        return "undecided", f"both diverge: {_trouble(mine)}, {first.arm.name} {_trouble(first)}"
    if mine.diverged:
        return "worse", _trouble(mine)
    if first.diverged:
        return "better", f"{first.arm.name} {_trouble(first)}"
    assert tested.comparison is not None, "every run has a result"
    return _decide_by_tests(tested, tested.comparison, f"±{margin or 0:g} {UNITS[pair.metric]}")


def _decide_by_tests(tested: _Tested, comparison: Comparison, margin: str) -> tuple[Verdict, str]:
    if tested.equivalent:
        if tested.differs:
            how = "better" if comparison.delta < 0 else "worse"
            return "equivalent", f"{how}, but by less than the margin: the interval is in {margin}"
        return "equivalent", comparison.reason or f"the interval lies within {margin}"
    if tested.differs:
        return ("better" if comparison.delta < 0 else "worse"), comparison.reason
    alone = comparison.p_value if tested.p_looks is None else tested.p_looks
    if alone is not None and alone < ALPHA:
        return "undecided", "visible by itself, not after the correction for several comparisons"
    if comparison.p_value is not None and comparison.p_value < ALPHA:
        return "undecided", "visible in a single look, not after the correction for several looks"
    return "undecided", comparison.reason


def _trouble(results: _Results) -> str:
    """What kept runs of an arm from a result; empty when nothing did."""
    of = len(results.records)
    if results.failed:
        reasons = [str(r.get("reason") or "") for r in results.records if r["status"] == "failed"]
        first = reasons[0].splitlines()[0] if reasons[0] else "for an unknown reason"
        return f"failed {results.failed} of {of} ({first})"
    return f"diverged {results.diverged} of {of}" if results.diverged else ""
