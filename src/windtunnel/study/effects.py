"""Effects and interactions of an ablation, from its losses. Pure; formulas in ``ablate.md``.

Everything here is a *contrast*: settings of the other factors (blocks), in each a sum of losses
with signs. It is computed for each seed, averaged over the blocks, and tested over the seeds by the
paired t-test of ``statistics.py``. Seeds are independent of each other, so no assumption about how
the points of a grid vary together is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from windtunnel.study.compare import Delta, Verdict
from windtunnel.study.contrast_tests import Judged, PointResult, Results, judge_family
from windtunnel.study.contrasts import Contrast, Role, effect_contrasts, interaction_contrasts
from windtunnel.study.design import Design, Point
from windtunnel.study.sequential import Looks
from windtunnel.study.statistics import (
    ALPHA,
    Interval,
    mean_interval,
)

__all__ = ["Effect", "PointResult", "effect_tree", "effects_of", "interactions_of", "level_means"]

InteractionVerdict = Literal["better together", "worse together", "additive", "undecided"]


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
    seeds: int
    """Behind all of this; where seeds are added until decided, effects may have unlike numbers."""
    p_value: float | None
    p_looks: float | None
    """After allowing for every planned look; None where none are planned."""
    p_holm: float | None
    """After that, corrected within its family: all effects of the study, or all its
    interactions."""
    p_equivalence: float | None = None
    """That the effect reaches the margin: after looks and Holm's correction over the family's
    equivalences; None without a margin."""
    mde: float | None
    """Minimum detectable effect; before any correction."""
    mde_corrected: float | None
    """At the level that looks and Holm's correction left."""
    verdict: Verdict | InteractionVerdict
    by_divergence: bool
    """Whether runs that diverged gave the verdict, not the test."""
    reason: str
    is_open: bool
    """Whether more seeds could still give a verdict."""
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


def effects_of(
    design: Design, results: Results, looks: Looks | None = None, margin: float | None = None
) -> tuple[Effect, ...]:
    """The effects of a design, as one family for Holm's correction; with the planned looks, where
    seeds were added until decided, and with the margin below which a difference does not matter."""
    return _judged(effect_contrasts(design), results, looks, margin)


def interactions_of(
    design: Design, results: Results, looks: Looks | None = None, margin: float | None = None
) -> tuple[Effect, ...]:
    """The interactions of each two factors of a grid (of a change with all others, where both
    directions were asked for), as a family of their own."""
    return _judged(interaction_contrasts(design), results, looks, margin)


def open_points(
    design: Design, results: Results, looks: Looks, margin: float | None = None
) -> frozenset[Point]:
    """The points of which a further seed could still decide an effect or an interaction."""
    contrasts = [*effect_contrasts(design), *interaction_contrasts(design)]
    asked = (design, results, looks, margin)
    found = [*effects_of(*asked), *interactions_of(*asked)]
    return frozenset(
        point
        for contrast, effect in zip(contrasts, found, strict=True)
        if effect.is_open
        for plus, minus in contrast.blocks
        if all(_whole(results[p]) for p in (*plus, *minus))
        for point in (*plus, *minus)
    )


def level_means(design: Design, results: Results) -> tuple[LevelMean, ...]:
    """The mean loss at each level of a grid, over the points that have results and the seeds that
    all of these have."""
    found = []
    for place, factor in enumerate(design.factors if design.kind == "grid" else ()):
        for index, level in enumerate(factor.levels):
            points = [p for p in design.points if p[place] == index and _whole(results[p])]
            seeds = zip(*(results[p].values for p in points), strict=False)
            means = [_mean([v for v in seed if v is not None]) for seed in seeds]
            loss = mean_interval(means).to_dict()
            found.append(
                LevelMean(factor=factor.name, level=level.label, loss=loss, settings=len(points))
            )
    return tuple(found)


def _judged(
    contrasts: Sequence[Contrast], results: Results, looks: Looks | None, margin: float | None
) -> tuple[Effect, ...]:
    """Every contrast of a family, with what its tests and its diverged runs say."""
    judged = judge_family(contrasts, results, looks, margin)
    return tuple(_effect(*pair, results, margin) for pair in zip(contrasts, judged, strict=True))


def _whole(result: PointResult) -> bool:
    return None not in result.values


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _effect(contrast: Contrast, judged: Judged, results: Results, margin: float | None) -> Effect:
    comparison = judged.comparison
    lost = _by_divergence(contrast, results)
    verdict, reason = lost or _decide(contrast, judged, results, margin)
    interaction = contrast.role == "interaction"
    return Effect(
        role=contrast.role,
        name=contrast.name,
        factors=contrast.factors,
        levels=contrast.levels,
        against=contrast.against,
        delta=None if comparison is None else _delta(judged),
        seeds=judged.seeds,
        p_value=None if comparison is None else comparison.p_value,
        p_looks=judged.p_looks,
        p_holm=judged.p_holm,
        p_equivalence=judged.p_equivalence,
        mde=None if comparison is None else comparison.mde,
        mde_corrected=None if comparison is None else comparison.detectable(judged.level),
        verdict=_together(verdict) if interaction else verdict,
        by_divergence=lost is not None and verdict != "undecided",
        reason=reason,
        is_open=verdict == "undecided" and lost is None and _is_open(judged, results),
        settings=len(judged.blocks),
        of_settings=len(contrast.blocks),
        params=None if interaction else _change(contrast, results, "params"),
        flops_per_token=None if interaction else _change(contrast, results, "flops_per_token"),
    )


def _is_open(judged: Judged, results: Results) -> bool:
    """Whether a further seed of what is undecided could tell: not where all seeds agree to the bit,
    nor where its points have stopped before others."""
    comparison = judged.comparison
    if comparison is None or comparison.std_error == 0:
        return False
    return judged.latest == max(len(result.values) for result in results.values())


def _delta(judged: Judged) -> Delta:
    """The difference, its interval at the level that looks and Holm's correction left."""
    comparison = judged.comparison
    assert comparison is not None
    alone = comparison.interval(judged.level_95)
    known = alone.low is not None
    shown = comparison.interval(judged.level) if known else Interval(None, None, None)
    return Delta(
        mean=comparison.delta, low=shown.low, high=shown.high,
        confidence=1 - judged.alpha if known else None,
        low_95=alone.low, high_95=alone.high,
    )  # fmt: skip


def _together(verdict: Verdict) -> InteractionVerdict:
    words: dict[Verdict, InteractionVerdict] = {
        "better": "better together", "worse": "worse together", "equivalent": "additive",
    }  # fmt: skip
    return words.get(verdict, "undecided")


def _change(
    contrast: Contrast, results: Results, what: Literal["params", "flops_per_token"]
) -> float | None:
    pairs = [(getattr(results[a], what), getattr(results[b], what))
             for (a,), (b,) in contrast.blocks]  # fmt: skip
    known = [plus / minus - 1 for plus, minus in pairs if minus]
    return _mean(known) if known else None


def _by_divergence(contrast: Contrast, results: Results) -> tuple[Verdict, str] | None:
    """The rule of ``statistics.md``, block by block: where only one side diverged, that decides."""
    plus, minus = _diverged(contrast, results)
    if contrast.role == "interaction" or not (plus or minus):
        return None
    reason = _divergence(contrast, plus, minus)
    if plus and minus:
        return "undecided", reason
    return ("worse" if plus else "better"), reason


def _decide(
    contrast: Contrast, judged: Judged, results: Results, margin: float | None
) -> tuple[Verdict, str]:
    """What the test says, and what the reader must know of it."""
    comparison, p_holm = judged.comparison, judged.p_holm
    left_out = _left_out(contrast, judged, results)
    reasons = ["" if comparison is None else comparison.reason, left_out]
    verdict: Verdict = "undecided"
    if comparison is not None and judged.equivalent:
        verdict, within = "equivalent", f"the interval lies within ±{margin:g}"
        if judged.differs:
            how = _sign(comparison.delta, contrast)
            within = f"{how}, but by less than the margin: {within}"
        reasons[0] = reasons[0] or within
    elif comparison is not None and p_holm is not None:
        alone = comparison.p_value if judged.p_looks is None else judged.p_looks
        if judged.differs:
            verdict = "better" if comparison.delta < 0 else "worse"
        elif alone is not None and alone < ALPHA:
            reasons.insert(0, "visible by itself, not after the correction")
    return verdict, "; ".join(text for text in reasons if text)


def _sign(delta: float, contrast: Contrast) -> str:
    together = " together" if contrast.role == "interaction" else ""
    return f"{'better' if delta < 0 else 'worse'}{together}"


def _diverged(contrast: Contrast, results: Results) -> tuple[int, int]:
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


def _left_out(contrast: Contrast, judged: Judged, results: Results) -> str:
    """Which blocks are not behind what is said, and why; and where later seeds are not."""
    missing = len(contrast.blocks) - len(judged.blocks)
    words = []
    if missing:
        points = {p for plus, minus in contrast.blocks for p in (*plus, *minus)}
        kinds = [k for k in ("failed", "diverged") if any(getattr(results[p], k) for p in points)]
        words.append(f"{missing} of {len(contrast.blocks)} settings left out: "
                     f"runs {' or '.join(kinds)}")  # fmt: skip
    if judged.seeds < judged.latest:
        words.append(f"by its first {judged.seeds} seeds, not by all {judged.latest}")
    return "; ".join(words)


def effect_tree(effect: Effect | LevelMean) -> dict[str, Any]:
    """As plain JSON."""
    tree = asdict(effect)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in tree.items()}
