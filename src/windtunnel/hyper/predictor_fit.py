"""Fitting a performance predictor, and measuring on left-out structures what it is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.errors import UsageError
from windtunnel.hyper import regression
from windtunnel.hyper.picks import picks
from windtunnel.hyper.predictor import (
    LEAST,
    Features,
    Predictor,
    Subject,
    encoder_digest,
    encoder_of,
    features_of,
)
from windtunnel.hyper.predictor_results import Measured
from windtunnel.hyper.stored import Stored
from windtunnel.study.held_out_ranks import Ordering, Resampling, draw_folds, held_out_taus

Floats = NDArray[np.float64]

FOLDS, REPEATS = 5, 5
_BINS = 4
_FEW = 6
"""A part with fewer structures has no row of its own."""


@dataclass(frozen=True)
class Outcome:
    """The results of one structure."""

    subject: Subject
    loss: float
    """The mean."""
    count: int
    ghn_loss: float | None
    """The mean, where every result has one."""
    early: Mapping[str, float] = field(default_factory=dict)
    """The means of those that every result has."""


def outcomes_of(measured: Sequence[Measured]) -> list[Outcome]:
    """Results by structure, in the order in which structures first stand: what is one to the
    predictor, such as members that differ in dropout, is one here and never on two sides of a
    split."""
    found: dict[Subject, list[Measured]] = {}
    for one in measured:
        found.setdefault(Subject.of(one.architecture), []).append(one)
    outcomes = []
    for subject, own in found.items():
        steps = [one.ghn_loss for one in own if one.ghn_loss is not None]
        shared = set.intersection(*(set(one.early) for one in own))
        outcomes.append(
            Outcome(
                subject,
                float(np.mean([one.loss for one in own])),
                len(own),
                float(np.mean(steps)) if len(steps) == len(own) else None,
                {name: float(np.mean([one.early[name] for one in own])) for name in shared},
            )
        )
    return outcomes


def fit_predictor(
    stored: Stored, measured: Sequence[Measured], *, seed: int = 0,
    source: Mapping[str, Any] | None = None,
) -> Predictor:  # fmt: skip
    """The predictor of some results, with what cross-validation says of it.

    Args:
        seed: of folds and resamples.

    Raises:
        UsageError: there are too few structures.
    """
    encoder = encoder_of(stored)
    outcomes = outcomes_of(measured)
    if len(outcomes) < LEAST:
        raise UsageError(
            f"{len(measured)} results are of {len(outcomes)} structures, and at least {LEAST} are "
            "needed (about 100 for intervals of use)"
        )
    features = features_of(encoder, [one.subject for one in outcomes])
    losses = np.array([one.loss for one in outcomes])
    counts = np.array([float(one.count) for one in outcomes])
    made = regression.fit(features.numbers, features.embedding, losses, counts)
    told = quality(features, outcomes, seed=seed)
    return Predictor(
        stored.name, encoder_digest(encoder), features, losses, counts, made.kernel, made.noise,
        made.variance * told["sd_factor"] ** 2, told, {"results": len(measured), **(source or {})},
    )  # fmt: skip


@dataclass(frozen=True)
class HeldOut:
    """Predictions of structures that were left out with their fold: (r, n) each."""

    folds: NDArray[np.int64]
    means: Floats
    sds: Floats


def held_out(features: Features, losses: Floats, counts: Floats, seed: int) -> HeldOut:
    """Each structure predicted by fits that know nothing of its fold; kernel and noise are chosen
    anew in each."""
    folds = draw_folds(len(losses), FOLDS, REPEATS, seed)
    means, sds = np.zeros(folds.shape), np.zeros(folds.shape)
    for repeat, numbers in enumerate(folds):
        for fold in range(FOLDS):
            out = numbers == fold
            known = features[~out]
            made = regression.fit(known.numbers, known.embedding, losses[~out], counts[~out])
            asked = features[out]
            means[repeat, out], sds[repeat, out] = made.predict(asked.numbers, asked.embedding)
    return HeldOut(folds, means, sds)


def quality(features: Features, outcomes: Sequence[Outcome], *, seed: int = 0) -> dict[str, Any]:
    """Kendall's τ on left-out structures, with bootstrap intervals over structures: of the
    predictor, of log parameters alone and, where every result has them, of the hypernetwork's own
    loss at step 0 and of a predictor that also reads losses after short trainings. A guess is right
    where the one it says is worse ends with the higher loss.

    ``overall``, within families, within quarters of log parameters, and each of these by itself;
    what it is worth to train first what is ranked first (``picks``); the error in nats, and how
    often a result lies in the interval of 95% that was told. Where errors are larger than was told,
    ``sd_factor`` says by how much, and the predictor's own deviations are multiplied by it: kernel
    and noise were chosen among many, which flatters them.
    """
    losses = np.array([one.loss for one in outcomes])
    counts = np.array([float(one.count) for one in outcomes])
    found = held_out(features, losses, counts, seed)
    guesses = {"predictor": Ordering.of_folds(found.means, found.folds)}
    guesses["log_params"] = Ordering.of(-features.numbers[:, 0])
    steps = [one.ghn_loss for one in outcomes if one.ghn_loss is not None]
    if len(steps) == len(outcomes):
        guesses["ghn_step_0"] = Ordering.of(steps)
    if (more := _with_early(features, outcomes)) is not None:
        again = held_out(more, losses, counts, seed)
        guesses["with_early"] = Ordering.of_folds(again.means, again.folds)
    resampling = Resampling.of(len(outcomes), seed=seed)
    against = [name for name in guesses if name != "predictor"]
    told = {
        name: {
            "structures": int(pairs.any(1).sum()),
            "tau": held_out_taus(guesses, losses, pairs, resampling, against=against),
        }
        for name, pairs in _parts(features, outcomes).items()
    }
    errors = found.means - losses
    inside = np.abs(errors) <= 1.96 * found.sds
    excess = float(((errors / found.sds) ** 2).mean())
    root = np.sqrt((errors**2).mean(0) @ resampling.weights.T / len(losses))
    return {
        "structures": len(outcomes),
        "folds": FOLDS,
        "repeats": REPEATS,
        "seed": seed,
        "rmse": resampling.told(root, float(np.sqrt((errors**2).mean()))),
        "spread": float(losses.std()),
        "coverage_95": resampling.told(
            inside.mean(0) @ resampling.weights.T / len(losses), float(inside.mean())
        ),
        "sd_factor": max(1.0, excess) ** 0.5,
        "picks": picks(found.means, found.folds, losses),
        "parts": told,
    }


def _with_early(features: Features, outcomes: Sequence[Outcome]) -> Features | None:
    """The features with the losses after short trainings that all results have; None without."""
    shared = sorted(set.intersection(*(set(one.early) for one in outcomes)))
    columns = np.array([[one.early[name] for name in shared] for one in outcomes])
    columns = columns[:, np.isfinite(columns).all(0)]
    if not columns.shape[1]:
        return None
    return replace(features, numbers=np.concatenate([features.numbers, columns], axis=1))


def _parts(features: Features, outcomes: Sequence[Outcome]) -> dict[str, NDArray[np.bool_]]:
    """Which pairs each row of the table is about: (n, n)."""
    families = np.array([one.subject.family for one in outcomes])
    bins = np.zeros(len(outcomes), dtype=np.int64)
    ordered = np.argsort(features.numbers[:, 0], kind="stable")
    for number, rows in enumerate(np.array_split(ordered, _BINS)):
        bins[rows] = number
    pairs = ~np.eye(len(outcomes), dtype=bool)
    parts = {
        "overall": pairs,
        "within families": pairs & (families[:, None] == families),
        "within sizes": pairs & (bins[:, None] == bins),
    }
    for family in sorted(set(families.tolist())):
        parts[family] = pairs & np.outer(families == family, families == family)
    sizes = 2.0 ** features.numbers[:, 0]
    for number in range(_BINS):
        own = bins == number
        low, high = round(float(sizes[own].min())), round(float(sizes[own].max()))
        parts[f"{low:,} to {high:,} parameters"] = pairs & np.outer(own, own)
    return {
        name: mask for name, mask in parts.items() if name == "overall" or mask.any(1).sum() >= _FEW
    }
