"""The effects of an ablation as the report reads them: plain JSON in, checked values out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from windtunnel.errors import StudyError
from windtunnel.report.units import Estimate

UNITS = {"loss": "nats/token", "bits_per_byte": "bits/byte"}
_STYLES = {"better together": "better", "worse together": "worse", "additive": "equivalent"}
_VERDICTS = ("better", "worse", "equivalent", "undecided", *_STYLES)


@dataclass(frozen=True)
class Row:
    """One effect or interaction; below zero is better."""

    name: str
    role: str
    words: str
    """The verdict as it is said."""
    delta: Estimate | None
    p_value: float | None
    p_holm: float | None
    mde: float | None
    """After the correction."""
    reason: str
    seeds: int
    """Behind it."""
    settings: int
    of_settings: int
    params: float | None
    flops_per_token: float | None

    @property
    def verdict(self) -> str:
        """better, worse, equivalent or undecided: what colours the row."""
        return _STYLES.get(self.words, self.words)


@dataclass(frozen=True)
class Mean:
    """The mean loss at one level of a grid."""

    factor: str
    level: str
    loss: Estimate
    settings: int
    is_baseline: bool


@dataclass(frozen=True)
class Ablation:
    """All that an ablation says."""

    design: str
    metric: str
    seeds: tuple[int, ...]
    """Of each point."""
    factors: tuple[tuple[str, tuple[str, ...], str], ...]
    """Name, levels, baseline."""
    skipped: Mapping[str, int]
    """How many points were left out for each reason."""
    effects: tuple[Row, ...]
    interactions: tuple[Row, ...]
    means: tuple[Mean, ...]
    conclusion: str
    looks: tuple[int, int] | None = None
    """Seeds at the first and at the last planned look; None where seeds were fixed."""
    margin: float | None = None
    """A difference of less does not matter."""

    @property
    def margin_words(self) -> str:
        """What a margin means; empty without one."""
        if self.margin is None:
            return ""
        return (
            f"equivalent, additive: the interval lies within a margin of {self.margin:g} "
            f"{self.unit}"
        )

    @property
    def points(self) -> int:
        """How many were trained."""
        return len(self.seeds)

    @property
    def seeds_words(self) -> str:
        """How many seeds the points have: ``3 seeds each``, ``3 to 7 seeds``."""
        least, most = min(self.seeds), max(self.seeds)
        if least < most:
            return f"{least} to {most} seeds"
        return f"{most} seed{'' if most == 1 else 's'} each"

    @property
    def looks_words(self) -> str:
        """What was planned in place of a fixed number of seeds; else empty."""
        if self.looks is None:
            return ""
        first, last = self.looks
        return f"seeds until decided: looks from {first} to {last} seeds, all of them allowed for"

    @property
    def correction_words(self) -> str:
        """What intervals and p-values are corrected for."""
        return "Holm's correction" + (" and all looks" if self.looks is not None else "")

    @property
    def unit(self) -> str:
        return UNITS[self.metric]


def read_ablation(tree: Mapping[str, Any]) -> Ablation:
    """The entry ``ablation`` of a ``study.json``.

    Raises:
        StudyError: it has another shape.
    """
    try:
        baselines = {factor["name"]: factor["baseline"] for factor in tree["factors"]}
        skipped: dict[str, int] = {}
        seeds, looks = len(tree["seeds"]), tree.get("looks")
        if not tree["points"]:
            raise StudyError("the ablation is damaged: it has no points")
        for point in tree["skipped"]:
            skipped[point["reason"]] = skipped.get(point["reason"], 0) + 1
        return Ablation(
            design=tree["design"],
            metric=tree["metric"],
            seeds=tuple(point.get("seeds", seeds) for point in tree["points"]),
            factors=tuple(
                (f["name"], tuple(level["label"] for level in f["levels"]), f["baseline"])
                for f in tree["factors"]
            ),
            skipped=skipped,
            effects=tuple(_row(effect, seeds) for effect in tree["effects"]),
            interactions=tuple(_row(effect, seeds) for effect in tree["interactions"]),
            means=tuple(_mean(mean, baselines) for mean in tree["means"]),
            conclusion=tree["conclusion"],
            looks=(int(looks[0]), int(looks[1])) if looks else None,
            margin=None if tree.get("margin") is None else float(tree["margin"]),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise StudyError(f"the ablation is damaged: {error}") from error


def _row(tree: Mapping[str, Any], seeds: int) -> Row:
    """Studies of old have the same seeds behind everything."""
    delta = tree["delta"]
    if tree["verdict"] not in _VERDICTS:
        raise StudyError(f"the ablation is damaged: unknown verdict {tree['verdict']!r}")
    return Row(
        name=tree["name"],
        role=tree["role"],
        words=tree["verdict"],
        delta=None
        if delta is None
        else Estimate(delta["mean"], delta["low"], delta["high"], delta["confidence"]),
        p_value=tree["p_value"],
        p_holm=tree["p_holm"],
        mde=tree["mde_corrected"],
        reason=tree["reason"],
        seeds=tree.get("seeds", seeds),
        settings=tree["settings"],
        of_settings=tree["of_settings"],
        params=tree["params"],
        flops_per_token=tree["flops_per_token"],
    )


def _mean(tree: Mapping[str, Any], baselines: Mapping[str, str]) -> Mean:
    loss = tree["loss"]
    return Mean(
        factor=tree["factor"],
        level=tree["level"],
        loss=Estimate(loss["mean"], loss["low"], loss["high"]),
        settings=tree["settings"],
        is_baseline=baselines[tree["factor"]] == tree["level"],
    )
