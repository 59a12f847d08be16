"""From a plan and its records to verdicts. Pure; the rules stand in ``statistics.md``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from windtunnel.errors import StudyError
from windtunnel.study.budget import mismatches
from windtunnel.study.plan import Arm, Plan
from windtunnel.study.statistics import (
    ALPHA,
    Comparison,
    Interval,
    compare_arms,
    holm,
    holm_factors,
    mean_interval,
)

Record = Mapping[str, Any]
Verdict = Literal["reference", "better", "worse", "undecided"]
LN2 = math.log(2)


@dataclass(frozen=True, kw_only=True)
class Delta:
    """An arm minus the first one; below zero the arm is better."""

    mean: float
    low: float | None
    high: float | None
    """The interval behind the verdict: without zero exactly where the verdict is decided."""
    confidence: float | None
    """Of that interval: 0.95 for one comparison, more where Holm's correction asks for more."""
    low_95: float | None
    high_95: float | None
    """The interval of this comparison by itself."""


@dataclass(frozen=True, kw_only=True)
class ArmVerdict:
    """What is known of one arm; losses in nats per token. None where there is no such number."""

    name: str
    params: int
    tokens: int
    steps: int
    """Of one run; as trained, on average, where a run diverged."""
    flops_per_token: float
    loss: dict[str, Any]
    bits_per_byte: dict[str, Any]
    """mean, low, high (95%), and values by seed (None for a run without a result). With such a run
    there is no mean either: of those that are left it would be a selection."""
    delta: Delta | None
    delta_bits_per_byte: Delta | None
    p_value: float | None
    p_holm: float | None
    correlation: float | None
    pairing_gain: float | None
    paired: bool | None
    mde: float | None
    """Minimum detectable effect, in the metric's unit; before Holm's correction."""
    verdict: Verdict
    reason: str
    diverged: int
    failed: int
    tokens_per_second: float | None
    peak_memory_bytes: int | None
    mismatch: dict[str, float | None]
    """How far tokens, flops, params and seconds are from the first arm's: 0.03 is 3% above."""


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """All that a study says."""

    arms: tuple[ArmVerdict, ...]
    match: str
    budget: float
    seeds: tuple[int, ...]
    metric: str
    note: str
    conclusion: str = field(default="")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; no NaN among them."""
        return asdict(self)


@dataclass(frozen=True)
class _Results:
    """An arm's runs by seed; None for a run without a final loss."""

    arm: Arm
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

    def trained(self, name: Literal["tokens", "steps", "flops"]) -> float:
        """Of one run: as planned, or the mean over the records where a run ended early."""
        found = self.mean(name) if self.diverged else None
        return float(getattr(self.arm, name)) if found is None else found


def judge(plan: Plan, records: Mapping[str, Record]) -> Verdicts:
    """The verdicts of a plan's records.

    Args:
        records: by the run's key: a run's record, or ``{"status": "failed", "reason": …}`` for a
            run that could not be trained.

    Raises:
        StudyError: a run of the plan has no record.
    """
    missing = [key for key in plan.keys if key not in records]
    if missing:
        names = ", ".join(f"{plan.run(k).arm} seed {plan.run(k).seed}" for k in missing[:3])
        raise StudyError(f"{len(missing)} of {len(plan.keys)} runs have not ended: {names}")
    results = [_results(plan, arm, records) for arm in plan.arms]
    first, others = results[0], results[1:]
    compared = [_compare(first, other, plan.metric) for other in others]
    p_values = [c.p_value if c is not None else None for c in compared]
    adjusted, factors = holm(p_values), holm_factors(p_values)
    arms = [_arm_verdict(first, first, plan, None, None, 1.0)]
    for other, comparison, p_holm, factor in zip(others, compared, adjusted, factors, strict=True):
        arms.append(_arm_verdict(other, first, plan, comparison, p_holm, factor))
    verdicts = Verdicts(
        arms=tuple(arms),
        match=plan.match,
        budget=plan.budget,
        seeds=plan.seeds,
        metric=plan.metric,
        note=" ".join(plan.notes),
    )
    return Verdicts(**{**vars(verdicts), "conclusion": conclusion(verdicts)})


def _results(plan: Plan, arm: Arm, records: Mapping[str, Record]) -> _Results:
    keys = plan.keys_of(arm.name)
    mine = tuple(records[key] for key in keys)
    return _Results(
        arm, keys, mine, tuple(_final(r, "loss") for r in mine),
        tuple(_final(r, "bits_per_byte") for r in mine),
    )  # fmt: skip


def _final(record: Record, name: str) -> float | None:
    """A finished run's last validation figure; None for a run without a finite one."""
    if record["status"] != "finished":
        return None
    return _finite((record.get("final") or {}).get(name))


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _compare(first: _Results, other: _Results, metric: str) -> Comparison | None:
    """The comparison over all seeds; None where a run of either arm has no result: what is left
    would be a selection."""
    base, arm = first.values(metric), other.values(metric)
    if None in base or None in arm:
        return None
    return compare_arms(
        [x for x in base if x is not None], [y for y in arm if y is not None], paired=True
    )


def _arm_verdict(
    mine: _Results,
    first: _Results,
    plan: Plan,
    comparison: Comparison | None,
    p_holm: float | None,
    factor: float,
) -> ArmVerdict:
    arm = mine.arm
    verdict, reason = _decide(mine, first, comparison, p_holm)
    speed, memory = mine.mean("tokens_per_second"), mine.mean("peak_memory_bytes")
    return ArmVerdict(
        name=arm.name,
        params=arm.params,
        tokens=round(mine.trained("tokens")),
        steps=round(mine.trained("steps")),
        flops_per_token=arm.flops_per_token,
        loss=_summary(mine.loss),
        bits_per_byte=_summary(mine.bits),
        delta=_delta(first, mine, "loss", plan, factor),
        delta_bits_per_byte=_delta(first, mine, "bits_per_byte", plan, factor),
        p_value=comparison.p_value if comparison else None,
        p_holm=p_holm,
        correlation=comparison.correlation if comparison else None,
        pairing_gain=comparison.pairing_gain if comparison else None,
        paired=comparison.paired if comparison else None,
        mde=comparison.mde if comparison else None,
        verdict=verdict,
        reason=reason,
        diverged=mine.diverged,
        failed=mine.failed,
        tokens_per_second=speed,
        peak_memory_bytes=None if memory is None else round(memory),
        mismatch=mismatches(_budgets(mine), _budgets(first)),
    )


def _budgets(results: _Results) -> dict[str, float | None]:
    return {
        "tokens": results.trained("tokens"),
        "flops": results.trained("flops"),
        "params": results.arm.params,
        "seconds": results.mean("train_seconds"),
    }


def _summary(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    interval = mean_interval(known if len(known) == len(values) else [])
    return {**interval.to_dict(), "values": list(values)}


def _delta(first: _Results, mine: _Results, metric: str, plan: Plan, factor: float) -> Delta | None:
    """The difference in one metric, its interval at the level that Holm's correction left."""
    if mine is first:
        return None
    comparison = _compare(first, mine, metric)
    if comparison is None:
        return None
    alone = comparison.interval()
    alpha = ALPHA / factor
    shown = comparison.interval(alpha) if alone.low is not None else Interval(None, None, None)
    return Delta(
        mean=comparison.delta,
        low=shown.low,
        high=shown.high,
        confidence=1 - alpha if shown.low is not None else None,
        low_95=alone.low,
        high_95=alone.high,
    )


def _decide(
    mine: _Results, first: _Results, comparison: Comparison | None, p_holm: float | None
) -> tuple[Verdict, str]:
    if mine is first:
        return "reference", _trouble(mine)
    if mine.keys == first.keys:
        same = "the same architecture and recipe: the runs are shared"
        return "undecided", f"{same}; {_trouble(mine)}" if _trouble(mine) else same
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
    assert comparison is not None, "every run has a result"
    if p_holm is None:
        return "undecided", comparison.reason
    if p_holm < ALPHA:
        return ("better" if comparison.delta < 0 else "worse"), comparison.reason
    if comparison.p_value is not None and comparison.p_value < ALPHA:
        return "undecided", "visible by itself, not after the correction for several comparisons"
    return "undecided", comparison.reason


def _trouble(results: _Results) -> str:
    """What kept runs of an arm from a result; empty when nothing did."""
    of = len(results.records)
    if results.failed:
        reasons = [str(r.get("reason") or "") for r in results.records if r["status"] == "failed"]
        first = reasons[0].splitlines()[0] if reasons[0] else "for an unknown reason"
        return f"failed {results.failed} of {of} ({first})"
    return f"diverged {results.diverged} of {of}" if results.diverged else ""


def conclusion(verdicts: Verdicts) -> str:
    """The study in a paragraph."""
    first, others = verdicts.arms[0], verdicts.arms[1:]
    in_nats = verdicts.metric == "loss"
    unit = "nats/token" if in_nats else "bits/byte"
    sentences = [_sentence(arm, first.name, in_nats, unit) for arm in others]
    seen = [arm for arm in others if arm.mde is not None]
    if seen:
        count = len(verdicts.seeds)
        smallest, largest = min(a.mde or 0 for a in seen), max(a.mde or 0 for a in seen)
        span = f"{smallest:.2g}" if smallest == largest else f"{smallest:.2g} to {largest:.2g}"
        sentences.append(
            f"With {count} seeds, a true difference below {span} {unit} would probably have been "
            "missed (power under 80%, before Holm's correction)."
        )
    return " ".join(sentences)


def _sentence(arm: ArmVerdict, first: str, in_nats: bool, unit: str) -> str:
    delta = arm.delta if in_nats else arm.delta_bits_per_byte
    why = f" ({arm.reason})" if arm.reason else ""
    if delta is None:
        tail = "undecided" if arm.verdict == "undecided" else arm.verdict
        return f"{arm.name} against {first}: {tail}{why}."
    if arm.verdict == "undecided":
        if delta.low is None or delta.high is None:
            return f"{arm.name} against {first}: undecided, by {delta.mean:+.4f} {unit}{why}."
        return (
            f"{arm.name} against {first}: undecided, by {delta.mean:+.4f} "
            f"[{delta.low:+.4f}, {delta.high:+.4f}] {unit}{why}."
        )
    bounds = sorted(abs(b) for b in (delta.low, delta.high) if b is not None)
    return (
        f"{arm.name} is {arm.verdict} than {first} by {abs(delta.mean):.4f} "
        f"[{bounds[0]:.4f}, {bounds[1]:.4f}] {unit}{why}."
    )
