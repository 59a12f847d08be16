"""A comparison in rounds: matching, the same tuning for every arm, then fresh seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from windtunnel.config import Document, digest, parse_path
from windtunnel.errors import ConfigError, UsageError
from windtunnel.study.arms import (
    Ground,
    Settled,
    as_tree,
    plain_plan,
    read_tree,
    replanned,
    with_known_stages,
)
from windtunnel.study.budget import Match
from windtunnel.study.compare import Verdicts, judge
from windtunnel.study.folder import VERDICT_ROUNDS
from windtunnel.study.matching import Candidate
from windtunnel.study.pairing import Pairing
from windtunnel.study.plan import Arm, Plan
from windtunnel.study.planning import ask_compare
from windtunnel.study.rounds import Recall, Round
from windtunnel.study.tune import Point, Tuning, best_point, point_words
from windtunnel.train.run_config import LoadedRun

MATCHED, TUNED, COMPARED = "match", "tune", "compare"
"""The kinds of its rounds."""


Wanted = tuple[tuple[int, ...], tuple[str, ...] | None]
"""Seeds, and the names of the arms that get them; None: all arms."""


class Confirmation(Protocol):
    """With which seeds arms are compared, once each has its settings."""

    def asked(self) -> Any:
        """All that decides it, as plain JSON."""

    def wanted(self, past: Sequence[Round]) -> Wanted | None:
        """The seeds of the next round and its arms (None: all); None when there is enough."""

    def judge(self, past: Sequence[Round]) -> Verdicts:
        """The verdicts over all rounds of confirmation."""

    def outlook(self, arms: int) -> str:
        """What it will take, in words."""


@dataclass(frozen=True)
class FixedSeeds:
    """Every arm with the same seeds, once."""

    seeds: tuple[int, ...]
    margin: float | None = None
    """A difference of less does not matter, in the verdict's metric."""
    pairing: Pairing = "design"

    def asked(self) -> Any:
        asked: dict[str, Any] = {"seeds": list(self.seeds)}
        if self.margin is not None:
            asked["margin"] = self.margin
        return asked if self.pairing == "design" else {**asked, "pairing": self.pairing}

    def wanted(self, past: Sequence[Round]) -> Wanted | None:
        return None if past else (self.seeds, None)

    def judge(self, past: Sequence[Round]) -> Verdicts:
        last = past[-1]
        return judge(last.plan, last.records, margin=self.margin, pairing=self.pairing)

    def outlook(self, arms: int) -> str:
        return f"comparison: {len(self.seeds)} seeds of each arm = {arms * len(self.seeds)} runs"


class Comparing:
    """The inquiry of ``compare`` where it takes more than one round.

    Rounds: ``match`` (nothing is trained: the arms with their budgets, so that speeds are measured
    once), ``tune`` for as long as an arm's optimum lies at an edge, ``compare``.
    """

    kind = "compare"

    def __init__(
        self,
        loaded: Sequence[LoadedRun],
        *,
        match: Match,
        budget: float | None,
        ground: Ground,
        confirmation: Confirmation,
        tuning: Tuning | None = None,
    ) -> None:
        self._ground = ground
        self._confirmation, self._tuning = confirmation, tuning
        self._question = ask_compare(loaded, seeds=(0,), match=match, budget=budget, ground=ground)
        if tuning is not None:
            for run, facts in zip(self._question.named, self._question.settled, strict=True):
                _check_tunable(run, facts, tuning)
        self.question = self._question.words
        self.digest = digest(
            {
                "matching": self._question.digest,
                "confirmation": confirmation.asked(),
                "tuning": tuning and _tuning_tree(tuning),
            }
        )

    def next(self, past: Sequence[Round], recall: Recall) -> Plan | None:
        if not past:
            matched = self._question.plan(self._ground, recall)
            return replace(matched, kind=MATCHED, runs=(), seeds=())
        matched = past[0].plan
        if (plan := self._tuning_plan(matched, past, recall)) is not None:
            return plan
        wanted = self._confirmation.wanted(_of_kind(past, COMPARED))
        if wanted is None:
            return None
        seeds, arms = wanted
        return replanned(
            replace(matched, kind=COMPARED), ground=self._ground, seeds=seeds, arms=arms,
            changes=self._chosen(matched, past), recall=recall,
        )  # fmt: skip

    def result(self, past: Sequence[Round]) -> dict[str, Any]:
        found = self._confirmation.judge(_of_kind(past, COMPARED)).to_dict()
        found[VERDICT_ROUNDS] = [i for i, one in enumerate(past) if one.plan.kind == COMPARED]
        found["spent"] = spent(past)
        if self._tuning is not None:
            found["tuning"] = self._told(past)
            notes = [found["note"], *_tuning_notes(found["tuning"])]
            found["note"] = "\n".join(text for text in notes if text)
        return found

    def outlook(self, matched: Plan) -> list[str]:
        """What is still to come after matching, in words."""
        confirmation = self._confirmation.outlook(len(matched.arms))
        if self._tuning is None:
            return [confirmation]
        count = [len(self._tuning.grid(self._own(arm))) for arm in matched.arms]
        seeds, most = len(self._tuning.seeds), self._tuning.extensions
        total = sum(count) * seeds
        return [
            f"tuning: {' and '.join(self._tuning.paths)}, {min(count)} points for each of "
            f"{len(count)} arms = {total} runs, and up to {most} more for an arm whose best lies "
            f"at the edge; chosen on validation with seed "
            f"{', '.join(map(str, self._tuning.seeds))}, which no comparison uses",
            confirmation,
        ]

    def _own(self, arm: Arm) -> Point:
        """The values of the arm's file that are tuned."""
        assert self._tuning is not None
        return tuple(_value_at(arm.name, arm.config, path) for path in self._tuning.paths)

    def _tuning_plan(self, matched: Plan, past: Sequence[Round], recall: Recall) -> Plan | None:
        tuning = self._tuning
        if tuning is None or _of_kind(past, COMPARED):
            return None
        named, speeds = [], []
        for arm in matched.arms:
            for point in self._next_points(arm, self._tried(arm, past)):
                changes = dict(zip(tuning.paths, point, strict=True))
                named.append((_trial_name(arm, tuning, point), read_tree(arm.config, changes)))
                speeds.append(arm.steps_per_second)
        if not named:
            return None
        return plain_plan(
            TUNED, f"tuning {' and '.join(tuning.paths)}", named,
            seeds=tuning.seeds, ground=self._ground, speeds=speeds, recall=recall,
        )  # fmt: skip

    def _next_points(self, arm: Arm, tried: Mapping[Point, float]) -> tuple[Point, ...]:
        """What is to be trained next for an arm; nothing beyond what its config allows."""
        tuning = self._tuning
        assert tuning is not None

        def is_valid(point: Point) -> bool:
            try:
                read_tree(arm.config, dict(zip(tuning.paths, point, strict=True)))
            except ConfigError:
                return False
            return True

        return tuning.next_points(self._own(arm), tried, is_valid)

    def _tried(self, arm: Arm, past: Sequence[Round]) -> dict[Point, float]:
        """The mean loss of each point that was trained for an arm, in the order of the rounds."""
        tuning, tried = self._tuning, dict[Point, float]()
        assert tuning is not None
        for past_round in _of_kind(past, TUNED):
            for point in self._next_points(arm, tried):
                losses = past_round.losses(_trial_name(arm, tuning, point))
                known = [loss for loss in losses if loss is not None]
                whole = len(known) == len(losses)
                tried[point] = math.fsum(known) / len(known) if whole else math.inf
        return tried

    def _chosen(self, matched: Plan, past: Sequence[Round]) -> dict[str, Mapping[str, Any]]:
        """By arm, the values that tuning found; an arm of which nothing was trained to its end
        keeps its own."""
        if self._tuning is None:
            return {}
        found: dict[str, Mapping[str, Any]] = {}
        for arm in matched.arms:
            point = best_point(self._tried(arm, past)) or self._own(arm)
            found[arm.name] = dict(zip(self._tuning.paths, point, strict=True))
        return found

    def _told(self, past: Sequence[Round]) -> dict[str, Any]:
        """By arm: what was tried, what was chosen, and whether that lies at an edge."""
        tuning, matched = self._tuning, past[0].plan
        assert tuning is not None
        told = {}
        for arm in matched.arms:
            tried = self._tried(arm, past)
            point = best_point(tried)
            told[arm.name] = {
                "paths": list(tuning.paths),
                "chosen": list(point or self._own(arm)),
                "at_edge": point is None or bool(tuning.beyond(tried)),
                "seeds": list(tuning.seeds),
                "trials": [
                    {"values": list(values), "loss": loss if math.isfinite(loss) else None}
                    for values, loss in tried.items()
                ],
            }
        return told


def spent(past: Sequence[Round]) -> dict[str, dict[str, dict[str, float]]]:
    """By arm and kind of round: runs, tokens, FLOPs and seconds of training, as recorded. A run
    that two arms share counts for both; one that failed counts as a run alone."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for past_round in past:
        for run in past_round.plan.runs:
            record = past_round.records[run.key]
            arm = run.arm.rpartition(_MARK)[0] if past_round.plan.kind == TUNED else run.arm
            total = found.setdefault(arm, {}).setdefault(
                past_round.plan.kind, {"runs": 0, "tokens": 0, "flops": 0, "seconds": 0}
            )
            total["runs"] += 1
            for name, key in (
                ("tokens", "tokens"),
                ("flops", "flops"),
                ("seconds", "train_seconds"),
            ):
                total[name] += record.get(key) or 0
    return found


_SPENT = {"tokens": "tokens", "flops": "flops", "seconds": "train_seconds"}
_MARK = " · "
"""Between an arm's name and the point of a trial."""


def _trial_name(arm: Arm, tuning: Tuning, point: Point) -> str:
    return f"{arm.name}{_MARK}{point_words(tuning.paths, point)}"


def _of_kind(past: Sequence[Round], kind: str) -> list[Round]:
    return [past_round for past_round in past if past_round.plan.kind == kind]


def _check_tunable(run: LoadedRun, facts: Settled, tuning: Tuning) -> None:
    """Raises a UsageError where an arm cannot be tuned so, before anything is measured."""
    tree = as_tree(run.config)
    own = tuple(_value_at(run.name, tree, path) for path in tuning.paths)
    before = Candidate(with_known_stages(run.config, facts), facts.vocab_size, step=facts.step)
    for point in tuning.grid(own):
        changes = dict(zip(tuning.paths, point, strict=True))
        changed = read_tree(tree, changes, origin=f"--tune, {run.name}").config
        after = replace(before, config=with_known_stages(changed, facts))
        for what in ("params", "flops_per_token"):
            if getattr(before, what) != getattr(after, what):
                raise UsageError(
                    f"--tune {' and '.join(tuning.paths)}: what is tuned must not change the arm's "
                    f"budget, but at {point_words(tuning.paths, point)} {run.name} has "
                    f"{getattr(after, what):,} {what} in place of {getattr(before, what):,}"
                )


def _value_at(name: str, tree: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of an arm's config.

    Raises:
        UsageError: there is no such value.
    """
    if "*" in path:
        raise UsageError(f"--tune {path}: one value at a time; write a layer's number for *")
    missing = object()
    value = Document(dict(tree)).get(parse_path(path), missing)
    if value is missing:
        read_tree(tree, {path: 1}, origin=f"--tune, {name}")  # says which key, and the nearest
        raise UsageError(f"--tune {path}: {name} has no such value")
    return value


def _tuning_tree(tuning: Tuning) -> dict[str, Any]:
    return {
        "knobs": [[knob.path, None if knob.values is None else list(knob.values)]
                  for knob in tuning.knobs],
        "seeds": list(tuning.seeds),
        "extensions": tuning.extensions,
    }  # fmt: skip


def _tuning_notes(tuned: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What must be known of what was chosen."""
    lost = [name for name, arm in tuned.items() if all(t["loss"] is None for t in arm["trials"])]
    edges = [name for name, arm in tuned.items() if arm["at_edge"] and name not in lost]
    notes = []
    if edges:
        notes.append(
            f"The best setting of {', '.join(edges)} lies at the edge of what was tried, after "
            "all extensions that are possible: a better one may lie beyond."
        )
    if lost:
        notes.append(
            f"No setting that was tried for {', '.join(lost)} came to a loss: the file's own was "
            "kept."
        )
    return notes
