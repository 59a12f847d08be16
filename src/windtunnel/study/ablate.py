"""``ablate``: from a design to a plan, and from the verdicts of its runs to effects."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from windtunnel.config import canonical_json, digest, format_path
from windtunnel.errors import ConfigError, Problem, UsageError
from windtunnel.study.arms import Ground
from windtunnel.study.budget import Match
from windtunnel.study.compare import ArmVerdict, Verdicts
from windtunnel.study.comparison import COMPARED, Comparing, Confirmation
from windtunnel.study.contrast_tests import PointResult
from windtunnel.study.contrasts import effect_pairs, levels_without_effect
from windtunnel.study.design import Design, Point
from windtunnel.study.effects import (
    Effect,
    effect_tree,
    effects_of,
    interactions_of,
    level_means,
)
from windtunnel.study.plan import Plan
from windtunnel.study.planning import plan_compare
from windtunnel.study.rounds import Recall, Round
from windtunnel.study.sequential import Looks
from windtunnel.study.tune import Tuning
from windtunnel.study.verdicts import (
    UNITS,
    effects_span,
    is_small,
    overestimated,
    seeds_span,
)

_WORDS = {
    "one": "one change at a time",
    "grid": "grid",
    "both": "each change alone, and taken back from all",
    "leave_one_out": "each change taken back from all",
}


def plan_ablation(
    design: Design,
    *,
    seeds: int | Sequence[int],
    match: Match = "tokens",
    budget: float | None = None,
    ground: Ground,
    recall: Callable[[str], Plan | None] = lambda digest: None,
) -> Plan:
    """The plan of an ablation: one arm for each point, in their order. Arguments as of
    :func:`plan_compare`.

    Raises:
        ConfigError: a factor changes nothing once the budget is matched.
        UsageError, StudyError: as plan_compare.
    """

    plan = plan_compare(
        design.runs,
        seeds=seeds,
        match=match,
        budget=budget,
        ground=ground,
        recall=lambda of_arms: recall(_asked(design, of_arms)),
    )
    if plan.kind == "ablate":
        return plan
    _check_matched(design, plan)
    return replace(
        plan, kind="ablate", question=question(design), digest=_asked(design, plan.digest)
    )


def _asked(design: Design, of_arms: str) -> str:
    """The digest of the question, given that of its arms."""
    factors = [(f.name, [level.label for level in f.levels]) for f in design.factors]
    return digest({"kind": "ablate", "of": of_arms, "design": design.kind, "factors": factors})


class Ablating:
    """The inquiry of ``ablate`` where it takes more than one round, since every point is tuned
    first, seeds are added until decided or there is a margin: that of ``compare`` over the points
    of a design, with their effects in its result.

    Raises:
        UsageError: what is tuned is varied too.
    """

    kind = "ablate"

    def __init__(
        self,
        design: Design,
        *,
        match: Match,
        budget: float | None,
        ground: Ground,
        confirmation: Confirmation,
        tuning: Tuning | None = None,
    ) -> None:
        varied = {format_path(path) for factor in design.factors for path in factor.paths}
        for path in tuning.paths if tuning is not None else ():
            if path in varied:
                raise UsageError(f"--tune {path}: is varied too; tuning would undo that")
        self._design, self._confirmation = design, confirmation
        self._comparing = Comparing(
            design.runs, match=match, budget=budget, ground=ground, confirmation=confirmation,
            tuning=tuning,
        )  # fmt: skip
        self.question = question(design)
        self.digest = _asked(design, self._comparing.digest)
        self.outlook = self._comparing.outlook

    def next(self, past: Sequence[Round], recall: Recall) -> Plan | None:
        plan = self._comparing.next(past, recall)
        if not past and plan is not None:
            _check_matched(self._design, plan)
        return plan

    def verdicts(self, past: Sequence[Round]) -> Verdicts:
        """Of every point against the reference, after all rounds."""
        return self._confirmation.judge([r for r in past if r.plan.kind == COMPARED])

    def result(self, past: Sequence[Round]) -> dict[str, Any]:
        found = ablation(self._design, self.verdicts(past))
        return {**self._comparing.result(past), "ablation": found}


def question(design: Design) -> str:
    """The study in a line."""
    varied = ", ".join(f"{f.name} ({len(f.levels)} levels)" for f in design.factors)
    return f"ablation, {_WORDS[design.kind]}: {varied}"


def _check_matched(design: Design, plan: Plan) -> None:
    """Raises ConfigError for a level that gives the same runs as the one it is held against."""
    trained = [(arm.arch_digest, canonical_json({**arm.config, "arch": None})) for arm in plan.arms]
    key_of = dict(zip(design.points, trained, strict=True))
    problems = []
    for name, pairs in effect_pairs(design):
        if all(key_of[one] == key_of[other] for one, other in pairs):
            text = f"has no effect: with {plan.match} matched these are the same runs"
            problems.append(Problem(name, text, "--vary"))
    if problems:
        raise ConfigError(problems)


def ablation(design: Design, verdicts: Verdicts) -> dict[str, Any]:
    """Everything that an ablation says, as plain JSON: the entry ``ablation`` of ``study.json``."""
    results = point_results(design, verdicts)
    looks = None if verdicts.looks is None else Looks(*verdicts.looks)
    effects = effects_of(design, results, looks, verdicts.margin)
    interactions = interactions_of(design, results, looks, verdicts.margin)
    names = dict(zip(design.points, (arm.name for arm in verdicts.arms), strict=True))
    lowest = _lowest(design, results)
    return {
        "design": design.kind,
        "metric": verdicts.metric,
        "seeds": list(verdicts.seeds),
        "looks": None if verdicts.looks is None else list(verdicts.looks),
        "margin": verdicts.margin,
        "factors": [
            {
                "name": factor.name,
                "written": factor.text,
                "levels": [{"label": lv.label, "value": lv.value} for lv in factor.levels],
                "baseline": factor.levels[own].label,
            }
            for factor, own in zip(design.factors, design.baseline, strict=True)
        ],
        "points": [
            {
                "arm": names[point],
                "settings": _labels(design, point),
                "seeds": len(results[point].values),
            }
            for point in design.points
        ],
        "skipped": [
            {"settings": _labels(design, skipped.point), "reason": skipped.reason}
            for skipped in design.skipped
        ],
        "effects": [effect_tree(effect) for effect in effects],
        "interactions": [effect_tree(effect) for effect in interactions],
        "means": [effect_tree(mean) for mean in level_means(design, results)],
        "lowest": None if lowest is None else names[lowest],
        "conclusion": conclusion(
            effects,
            interactions,
            verdicts,
            lowest=None if design.kind != "grid" or lowest is None else names[lowest],
            untold=levels_without_effect(design),
        ),
    }


def _labels(design: Design, point: Point) -> dict[str, str]:
    return {name: level.label for name, level in design.settings(point).items()}


def point_results(design: Design, verdicts: Verdicts) -> dict[Point, PointResult]:
    """What each point came to, in the metric that the verdicts are about."""
    return {
        point: PointResult(
            values=_values(arm, verdicts.metric),
            diverged=arm.diverged,
            failed=arm.failed,
            params=arm.params,
            flops_per_token=arm.flops_per_token,
        )
        for point, arm in zip(design.points, verdicts.arms, strict=True)
    }


def _values(arm: ArmVerdict, metric: str) -> tuple[float | None, ...]:
    summary = arm.loss if metric == "loss" else arm.bits_per_byte
    return tuple(summary["values"])


def _lowest(design: Design, results: Mapping[Point, PointResult]) -> Point | None:
    """The point of the lowest mean loss, each over its own seeds."""
    means = {
        point: math.fsum(v for v in found.values if v is not None) / len(found.values)
        for point, found in results.items()
        if None not in found.values
    }
    return min(means, key=lambda point: (means[point], point), default=None)


def conclusion(
    effects: Sequence[Effect],
    interactions: Sequence[Effect],
    verdicts: Verdicts,
    lowest: str | None = None,
    untold: Sequence[str] = (),
) -> str:
    """The ablation in a paragraph: what is decided, what makes no difference that matters, how much
    is undecided, what could not be seen, what looks larger than it is."""
    unit = UNITS[verdicts.metric]
    sentences = [_sentence(effect, unit) for effect in effects if effect.verdict != "undecided"]
    undecided = [effect for effect in effects if effect.verdict == "undecided"]
    if undecided:
        shown = _some_names(undecided)
        sentences.append(f"Undecided: {len(undecided)} of {len(effects)} effects ({shown}).")
    sentences += _of_interactions(interactions, verdicts.margin, unit)
    seen = [effect for effect in undecided if effect.mde_corrected is not None]
    if seen:
        span = effects_span([effect.mde_corrected or 0.0 for effect in seen])
        sentences.append(
            f"With {seeds_span([effect.seeds for effect in seen])}, a true effect below {span} "
            f"{unit} would probably have been missed in what is undecided (power under 80%)."
        )
    sentences += overestimated([e.name for e in (*effects, *interactions) if _is_lucky(e)])
    if untold:
        sentences.append(
            f"No effect can be told of {'; '.join(untold)}: of the points that are left none "
            "differs from another in that alone."
        )
    if lowest is not None:
        sentences.append(
            f"The lowest mean loss is that of {lowest}; as the best of {len(verdicts.arms)} that "
            "were looked at, it looks better than it is: confirm it on fresh seeds."
        )
    return " ".join(sentences)


def _of_interactions(interactions: Sequence[Effect], margin: float | None, unit: str) -> list[str]:
    if not interactions:
        return []
    found = [i for i in interactions if i.verdict != "undecided"]
    additive = [i for i in found if i.verdict == "additive"]
    sentences = [_sentence(i, unit) for i in found if i.verdict != "additive"]
    sentences.append(f"{len(found)} of {len(interactions)} interactions are decided.")
    if additive:
        sentences.append(
            f"Additive (within ±{margin:g} {unit}): {len(additive)} of {len(interactions)} "
            f"interactions ({_some_names(additive)})."
        )
    return sentences


def _some_names(effects: Sequence[Effect]) -> str:
    names = [effect.name for effect in effects]
    return "; ".join(names[:6]) + ("; …" if len(names) > 6 else "")


def _is_lucky(effect: Effect) -> bool:
    tested = not effect.by_divergence
    return tested and is_small(effect.verdict, effect.delta, effect.mde_corrected)


def _sentence(effect: Effect, unit: str) -> str:
    why, delta, shown = effect.reason, effect.delta, ""
    if delta is not None and delta.low is not None and delta.high is not None:
        shown = f"{delta.mean:+.4f} [{delta.low:+.4f}, {delta.high:+.4f}] {unit}"
    if effect.by_divergence and shown:  # which may point the other way
        why, shown = f"{why}; at the others {shown}", ""
    if effect.verdict == "equivalent":
        return f"{effect.name} makes no difference that matters: {shown} ({why})."
    by = f", by {shown}" if shown else ""
    return f"{effect.name}: {effect.verdict}{by}{f' ({why})' if why else ''}."


def flat_results(design: Design, verdicts: Verdicts) -> list[dict[str, Any]]:
    """One entry a point, ``{"params": …, "metrics": {"loss", "perplexity"}}``: the varied values,
    and the mean final validation loss over the seeds with its exponential. Without a result: null.
    """
    found = []
    for point, arm in zip(design.points, verdicts.arms, strict=True):
        loss = arm.loss["mean"]
        perplexity = None if loss is None or loss > 700 else math.exp(loss)
        metrics = {"loss": loss, "perplexity": perplexity}
        found.append({"params": design.params(point), "metrics": metrics})
    return found
