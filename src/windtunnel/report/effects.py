"""The effects of an ablation as the report reads them: plain JSON in, checked values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from windtunnel.errors import StudyError
from windtunnel.report.units import Estimate

UNITS = {"loss": "nats/token", "bits_per_byte": "bits/byte"}
_STYLES = {"better together": "better", "worse together": "worse"}
_VERDICTS = ("better", "worse", "undecided", *_STYLES)


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
    settings: int
    of_settings: int
    params: float | None
    flops_per_token: float | None

    @property
    def verdict(self) -> str:
        """better, worse or undecided: what colours the row."""
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
    seeds: int
    factors: tuple[tuple[str, tuple[str, ...], str], ...]
    """Name, levels, baseline."""
    points: int
    skipped: Mapping[str, int]
    """How many points were left out for each reason."""
    effects: tuple[Row, ...]
    interactions: tuple[Row, ...]
    means: tuple[Mean, ...]
    conclusion: str

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
        for point in tree["skipped"]:
            skipped[point["reason"]] = skipped.get(point["reason"], 0) + 1
        return Ablation(
            design=tree["design"],
            metric=tree["metric"],
            seeds=len(tree["seeds"]),
            factors=tuple(
                (f["name"], tuple(level["label"] for level in f["levels"]), f["baseline"])
                for f in tree["factors"]
            ),
            points=len(tree["points"]),
            skipped=skipped,
            effects=_rows(tree["effects"]),
            interactions=_rows(tree["interactions"]),
            means=tuple(_mean(mean, baselines) for mean in tree["means"]),
            conclusion=tree["conclusion"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise StudyError(f"the ablation is damaged: {error}") from error


def _rows(trees: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    return tuple(_row(tree) for tree in trees)


def _row(tree: Mapping[str, Any]) -> Row:
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
