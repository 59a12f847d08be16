"""Effects and interactions of an ablation, from its losses. Pure; formulas in ``ablate.md``.

Everything here is a *contrast*: settings of the other factors (blocks), in each a sum of losses
with signs. It is computed for each seed, averaged over the blocks, and tested over the seeds by the
paired t-test of ``statistics.py``. Seeds are independent of each other, so no assumption about how
the points of a grid vary together is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from windtunnel.study.compare import Delta, Verdict
from windtunnel.study.contrasts import (
    Block,
    Contrast,
    Role,
    effect_contrasts,
    interaction_contrasts,
)
from windtunnel.study.design import Design, Point
from windtunnel.study.statistics import (
    ALPHA,
    Comparison,
    Interval,
    compare_arms,
    holm,
    holm_factors,
    mean_interval,
    minimum_detectable,
)

InteractionVerdict = Literal["better together", "worse together", "undecided"]


@dataclass(frozen=True, kw_only=True)
class PointResult:
    """What a point's runs came to."""

    values: tuple[float | None, ...]
    """By seed; None for a run without a result."""
    diverged: int = 0
    failed: int = 0
    params: float = 0.0
    flops_per_token: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One contrast and what may be said of it; below zero is better."""

    role: Role
    name: str
    """In words, such as ``activation: silu against gelu``."""
    factors: tuple[str, ...]
    levels: tuple[str, ...]
    against: tuple[str, ...]
    delta: Delta | None
    p_value: float | None
    p_holm: float | None
    """Corrected within its family: all effects of the study, or all its interactions."""
    mde: float | None
    """Minimum detectable effect; before the correction."""
    mde_corrected: float | None
    """After it."""
    verdict: Verdict | InteractionVerdict
    reason: str
    settings: int
    """Of the other factors, averaged over."""
    of_settings: int
    """That there are; the others lack a result."""
    params: float | None
    """How the parameters change, on average: 0.03 is 3% more. None for an interaction."""
    flops_per_token: float | None


@dataclass(frozen=True, kw_only=True)
class LevelMean:
    """The mean loss at a level of a grid, over everything else."""

    factor: str
    level: str
    loss: dict[str, Any]
    settings: int


def effects_of(design: Design, results: Mapping[Point, PointResult]) -> tuple[Effect, ...]:
    """The effects of a design, as one family for Holm's correction."""
    return _tested(effect_contrasts(design), results)


def interactions_of(design: Design, results: Mapping[Point, PointResult]) -> tuple[Effect, ...]:
    """The interactions of each two factors of a grid (of a change with all others, where both
    directions were asked for), as a family of their own."""
    return _tested(interaction_contrasts(design), results)


def level_means(design: Design, results: Mapping[Point, PointResult]) -> tuple[LevelMean, ...]:
    """The mean loss at each level of a grid, over the points that have results."""
    found = []
    for place, factor in enumerate(design.factors if design.kind == "grid" else ()):
        for index, level in enumerate(factor.levels):
            points = [p for p in design.points if p[place] == index and _whole(results[p])]
            seeds = zip(*(results[p].values for p in points), strict=True)
            means = [_mean([v for v in seed if v is not None]) for seed in seeds]
            loss = mean_interval(means).to_dict()
            found.append(
                LevelMean(factor=factor.name, level=level.label, loss=loss, settings=len(points))
            )
    return tuple(found)


def _tested(
    contrasts: Sequence[Contrast], results: Mapping[Point, PointResult]
) -> tuple[Effect, ...]:
    """Every contrast tested, p-values and intervals corrected for how many there are."""
    compared = [_compare(contrast, results) for contrast in contrasts]
    p_values = [None if c is None else c.p_value for c in compared]
    corrected = zip(holm(p_values), holm_factors(p_values), strict=True)
    return tuple(
        _effect(contrast, comparison, p_holm, factor, results)
        for contrast, comparison, (p_holm, factor) in zip(
            contrasts, compared, corrected, strict=True
        )
    )


def _whole(result: PointResult) -> bool:
    return None not in result.values


def _usable(contrast: Contrast, results: Mapping[Point, PointResult]) -> list[Block]:
    """The blocks of which every run has a result."""
    return [
        (plus, minus)
        for plus, minus in contrast.blocks
        if all(_whole(results[p]) for p in (*plus, *minus))
    ]


def _compare(contrast: Contrast, results: Mapping[Point, PointResult]) -> Comparison | None:
    blocks = _usable(contrast, results)
    if not blocks:
        return None
    plus = _by_seed([points for points, _ in blocks], results)
    minus = _by_seed([points for _, points in blocks], results)
    return compare_arms(minus, plus, paired=True)


def _by_seed(
    sides: Sequence[tuple[Point, ...]], results: Mapping[Point, PointResult]
) -> list[float]:
    """For each seed the sum of a side's losses, averaged over the blocks."""
    rows = [results[point].values for points in sides for point in points]
    return [
        math.fsum(v for v in seed if v is not None) / len(sides) for seed in zip(*rows, strict=True)
    ]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _effect(
    contrast: Contrast,
    comparison: Comparison | None,
    p_holm: float | None,
    factor: float,
    results: Mapping[Point, PointResult],
) -> Effect:
    verdict, reason = _decide(contrast, comparison, p_holm, results)
    used = _usable(contrast, results)
    interaction = contrast.role == "interaction"
    return Effect(
        role=contrast.role,
        name=contrast.name,
        factors=contrast.factors,
        levels=contrast.levels,
        against=contrast.against,
        delta=None if comparison is None else delta_of(comparison, factor),
        p_value=None if comparison is None else comparison.p_value,
        p_holm=p_holm,
        mde=None if comparison is None else comparison.mde,
        mde_corrected=None if comparison is None else _corrected_mde(comparison, factor),
        verdict=_together(verdict) if interaction else verdict,
        reason=reason,
        settings=len(used),
        of_settings=len(contrast.blocks),
        params=None if interaction else _change(contrast, results, "params"),
        flops_per_token=None if interaction else _change(contrast, results, "flops_per_token"),
    )


def _corrected_mde(comparison: Comparison, factor: float) -> float | None:
    if comparison.mde is None or comparison.std_error is None or comparison.df is None:
        return None
    return minimum_detectable(comparison.std_error, comparison.df, alpha=ALPHA / factor)


def delta_of(comparison: Comparison, factor: float) -> Delta:
    """The difference, its interval at the level that Holm's correction left."""
    alone = comparison.interval()
    alpha = ALPHA / factor
    shown = comparison.interval(alpha) if alone.low is not None else Interval(None, None, None)
    return Delta(
        mean=comparison.delta, low=shown.low, high=shown.high,
        confidence=1 - alpha if shown.low is not None else None,
        low_95=alone.low, high_95=alone.high,
    )  # fmt: skip


def _together(verdict: Verdict) -> InteractionVerdict:
    if verdict == "better":
        return "better together"
    return "worse together" if verdict == "worse" else "undecided"


def _change(
    contrast: Contrast,
    results: Mapping[Point, PointResult],
    what: Literal["params", "flops_per_token"],
) -> float | None:
    pairs = [(getattr(results[a], what), getattr(results[b], what))
             for (a,), (b,) in contrast.blocks]  # fmt: skip
    known = [plus / minus - 1 for plus, minus in pairs if minus]
    return _mean(known) if known else None


def _decide(
    contrast: Contrast,
    comparison: Comparison | None,
    p_holm: float | None,
    results: Mapping[Point, PointResult],
) -> tuple[Verdict, str]:
    """The rule of ``statistics.md``, block by block: where only one side diverged, that decides."""
    plus, minus = _diverged(contrast, results)
    left_out = _left_out(contrast, results)
    if contrast.role != "interaction" and (plus or minus):
        reason = _divergence(contrast, plus, minus)
        if plus and minus:
            return "undecided", reason
        return ("worse" if plus else "better"), reason
    if comparison is None or p_holm is None:
        own = "" if comparison is None else comparison.reason
        return "undecided", "; ".join(text for text in (own, left_out) if text)
    reasons = [comparison.reason, left_out]
    verdict: Verdict = "undecided"
    if p_holm < ALPHA:
        verdict = "better" if comparison.delta < 0 else "worse"
    elif comparison.p_value is not None and comparison.p_value < ALPHA:
        reasons.insert(0, "visible by itself, not after the correction")
    return verdict, "; ".join(text for text in reasons if text)


def _diverged(contrast: Contrast, results: Mapping[Point, PointResult]) -> tuple[int, int]:
    """Blocks in which only the added side has diverged runs, and only the other one; blocks with a
    run that failed say nothing."""
    only_plus = only_minus = 0
    for plus, minus in contrast.blocks:
        if any(results[point].failed for point in (*plus, *minus)):
            continue
        one = any(results[point].diverged for point in plus)
        other = any(results[point].diverged for point in minus)
        only_plus += one and not other
        only_minus += other and not one
    return only_plus, only_minus


def _divergence(contrast: Contrast, plus: int, minus: int) -> str:
    of = len(contrast.blocks)
    if of == 1:
        return "diverged" if plus else "what it is held against diverged"
    words = []
    if plus:
        words.append(f"diverged at {plus} of {of} settings where the other level did not")
    if minus:
        words.append(f"the other level diverged at {minus} of {of} settings where this one did not")
    return "; ".join(words)


def _left_out(contrast: Contrast, results: Mapping[Point, PointResult]) -> str:
    missing = len(contrast.blocks) - len(_usable(contrast, results))
    if not missing:
        return ""
    points = {p for plus, minus in contrast.blocks for p in (*plus, *minus)}
    kinds = [k for k in ("failed", "diverged") if any(getattr(results[p], k) for p in points)]
    return f"{missing} of {len(contrast.blocks)} settings left out: runs {' or '.join(kinds)}"


def effect_tree(effect: Effect | LevelMean) -> dict[str, Any]:
    """As plain JSON."""
    tree = asdict(effect)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in tree.items()}
