"""From the answers of arms to what is told of them: means, differences, verdicts, as plain JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.data.tasks import Task
from windtunnel.errors import UsageError
from windtunnel.runs import RunFolder
from windtunnel.study.crossed import Crossed, crossed_mean
from windtunnel.study.sequential import Looks
from windtunnel.study.statistics import Interval
from windtunnel.study.task_verdicts import Asked, Judged, judge_answers
from windtunnel.train.task_scores import (
    BOUNDS,
    DECIDING,
    HIGHER_IS_BETTER,
    MEASURES,
    Answers,
    Measure,
)

_NO_FIGURES: Mapping[str, Any] = {
    "mean": None, "low": None, "high": None, "seeds": 0, "items": 0, "of_items_only": False,
    "reason": "no run has answers",
}  # fmt: skip


@dataclass(frozen=True)
class AskedRun:
    """A run with its answers."""

    folder: RunFolder
    step: int
    answers: Sequence[Answers]
    """By the number of the task."""
    seq_len: int


@dataclass(frozen=True)
class AskedArm:
    """An arm whose runs have answered."""

    name: str
    runs: Mapping[int, AskedRun]
    troubles: Mapping[int, str]
    looks: Looks | None = None
    """Where its seeds were added until the loss was decided."""

    @property
    def trouble_words(self) -> str:
        return ", ".join(f"seed {seed} {what}" for seed, what in self.troubles.items())


def deciding_measures(tasks: Sequence[Task], wanted: Measure | None) -> list[Measure]:
    """By task, the measure that its verdicts are about: the wanted one where the task has it."""
    return [
        wanted if wanted is not None and wanted in MEASURES[task.kind] else DECIDING[task.kind]
        for task in tasks
    ]


def task_trees(
    tasks: Sequence[Task], arms: Sequence[AskedArm], wanted: Measure | None = None
) -> list[dict[str, Any]]:
    """Of each task: every measure of every arm, and what may be said of the differences.

    Raises:
        UsageError: a task without an item that every run can be asked.
    """
    found = [_Figures(number, task, arms) for number, task in enumerate(tasks)]
    deciding = deciding_measures(tasks, wanted)
    asked = [
        one.asked(measure, arm)
        for one, measure in zip(found, deciding, strict=True)
        for arm in arms[1:]
    ]
    judged = iter(judge_answers(asked))
    return [one.tree(m, judged) for one, m in zip(found, deciding, strict=True)]


class _Figures:
    """The figures of one task, over the items that every run was asked."""

    def __init__(self, number: int, task: Task, arms: Sequence[AskedArm]) -> None:
        self._number, self._task, self._arms = number, task, arms
        every = [run.answers[number] for arm in arms for run in arm.runs.values()]
        count = range(len(task.items))
        self._kept = [i for i in count if all(i not in one.left_out for one in every)]
        if not self._kept:
            raise UsageError(f"{task.path}: there is no item that every run can be asked")

    def tree(self, deciding: Measure, judged: Iterator[Judged]) -> dict[str, Any]:
        """All of it; the next of ``judged`` are its arms', by the deciding measure."""
        task, kept = self._task, self._kept
        chances = [1 / len(task.items[i].choices) for i in kept]
        notes = list(task.notes)
        if len(kept) < len(task.items):
            notes.append(
                f"{len(task.items) - len(kept)} of {len(task.items)} items are left out for all "
                "runs: not every run can be asked them"
            )
        found = {
            measure: [self._row(measure, arm) for arm in self._arms]
            for measure in MEASURES[task.kind]
        }
        for row in found[deciding][1:]:
            row["difference"] = _told(row["difference"], next(judged), deciding)
        return {
            "name": task.name,
            "file": str(task.path),
            "kind": task.kind,
            "digest": task.digest,
            "items": len(kept),
            "left_out": len(task.items) - len(kept),
            "chance": None if task.kind == "cloze" else sum(chances) / len(chances),
            "deciding": deciding,
            "measures": found,
            "notes": notes + self._notes(),
        }

    def asked(self, measure: Measure, arm: AskedArm) -> Asked:
        """The arm's difference to the first one, as it is tested."""
        first = self._arms[0]
        return Asked(
            difference=self._difference(measure, arm),
            higher_is_better=measure in HIGHER_IS_BETTER,
            looks=tuple(dict.fromkeys(one.looks for one in (first, arm) if one.looks is not None)),
            trouble="; ".join(
                f"{one.name}: {one.trouble_words}" for one in (first, arm) if one.troubles
            ),
        )

    def _notes(self) -> list[str]:
        """What is to be known of the answers; what is so for several arms is told once."""
        names = dict[str, list[str]]()
        for arm in self._arms:
            runs = arm.runs.values()
            every = [w for run in runs for w in run.answers[self._number].words(run.seq_len)]
            for words, count in Counter(every).items():
                some = "" if count == len(runs) else f" ({count} of {len(runs)} runs)"
                names.setdefault(words, []).append(arm.name + some)
        return [f"{', '.join(who)}: {words}" for words, who in names.items()]

    def _row(self, measure: Measure, arm: AskedArm) -> dict[str, Any]:
        """An arm's mean with its interval, and its difference to the first arm."""
        values = self._values(measure, arm)
        mean = crossed_mean(np.stack(list(values.values()))) if values else None
        found = None if arm is self._arms[0] else self._difference(measure, arm)
        difference = None
        if found is not None:
            lowest, highest = BOUNDS[measure]
            most = max(len(values), len(self._values(measure, self._arms[0])))
            shown = _interval_tree(found, found.interval(), lowest - highest, highest - lowest)
            difference = {
                **shown, "low_95": shown["low"], "high_95": shown["high"], "of_seeds": most,
                "confidence": None if shown["low"] is None else 0.95, "verdict": None,
            }  # fmt: skip
        return {
            "arm": arm.name,
            **(
                dict(_NO_FIGURES)
                if mean is None
                else _interval_tree(mean, mean.interval(), *BOUNDS[measure])
            ),
            "by_seed": {str(seed): float(row.mean()) for seed, row in values.items()},
            "difference": difference,
        }

    def _difference(self, measure: Measure, arm: AskedArm) -> Crossed | None:
        """Minus the first arm, item by item and seed by seed; None where no seeds go together. Of
        two single runs only the items go together, so their seeds may be any."""
        values, base = self._values(measure, arm), self._values(measure, self._arms[0])
        pairs = [(values[seed], base[seed]) for seed in values if seed in base]
        if len(values) == len(base) == 1:
            pairs = list(zip(values.values(), base.values(), strict=True))
        return crossed_mean(np.stack([mine - its for mine, its in pairs])) if pairs else None

    def _values(self, measure: Measure, arm: AskedArm) -> dict[int, Any]:
        found = dict[int, Any]()
        for seed, run in arm.runs.items():
            items = run.answers[self._number].items
            kept = (items[i] for i in self._kept)
            found[seed] = np.array([one.measures[measure] for one in kept if one is not None])
        return found


def _told(
    difference: Mapping[str, Any] | None, judged: Judged, measure: Measure
) -> dict[str, Any] | None:
    """A difference with its verdict, and the interval behind that."""
    if difference is None:
        return None
    lowest, highest = BOUNDS[measure]
    low, high = _within(judged.interval, lowest - highest, highest - lowest)
    return {
        **difference, "low": low, "high": high,
        "confidence": None if low is None else judged.confidence,
        "p_value": judged.p_value, "p_looks": judged.p_looks, "p_holm": judged.p_holm,
        "verdict": judged.verdict, "why": judged.reason,
    }  # fmt: skip


def _interval_tree(
    found: Crossed, interval: Interval, lowest: float, highest: float
) -> dict[str, Any]:
    low, high = _within(interval, lowest, highest)
    return {
        "mean": found.mean, "low": low, "high": high, "seeds": found.seeds, "items": found.items,
        "of_items_only": found.of_items_only, "reason": found.reason,
    }  # fmt: skip


def _within(interval: Interval, lowest: float, highest: float) -> tuple[float | None, float | None]:
    """An interval as far as it lies within what is possible: few items reach beyond, and what is
    cut off there cannot be the truth, so the confidence stays."""
    if interval.low is None or interval.high is None:
        return None, None
    return max(interval.low, lowest), min(interval.high, highest)
