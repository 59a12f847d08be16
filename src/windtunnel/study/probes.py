"""Probing: every architecture on every task, with the same tuning, scored on a test of its own.

The rate of each cell is chosen on the task's validation side with a seed that no score uses; the
score is the accuracy on the test side, of fresh seeds. A run that diverged is a failure of its
cell, and the cell then has no mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from windtunnel.arch import Architecture, cost, resolve
from windtunnel.config import digest
from windtunnel.errors import UsageError
from windtunnel.study.arms import Ground, Settled, as_arm, as_tree, plain_plan, read_tree
from windtunnel.study.compare import final_value
from windtunnel.study.plan import Plan
from windtunnel.study.planning import distinct_names
from windtunnel.study.probe_tasks import TEXT, ProbeTask, task_tree
from windtunnel.study.rounds import Recall, Round
from windtunnel.study.statistics import mean_interval
from windtunnel.study.tune import Knob, Point, Tuning, best_point
from windtunnel.train.probe_scores import TEST
from windtunnel.train.run_config import LoadedRun, objective_config

TUNED, SCORED = "tune", "probe"
"""The kinds of its rounds."""
LRS = (1e-3, 3e-3, 1e-2)
_MARK = " · "


@dataclass(frozen=True, kw_only=True)
class ProbeRecipe:
    """What every cell of the matrix gets. The rest (optimizer, schedule, …) is the file's own."""

    steps: int = 400
    batch_size: int = 64
    lrs: tuple[float, ...] = LRS
    """The rates that each cell may choose from."""
    extensions: int = 1
    """Rates that are tried beyond them, where the best lies at an edge."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the scores; tuning has its own."""
    data_seed: int = 0
    """Of the tasks' examples."""

    def tuning(self) -> Tuning:
        return Tuning((Knob("train.lr", self.lrs),), extensions=self.extensions)

    def to_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps, "batch_size": self.batch_size, "lrs": list(self.lrs),
            "extensions": self.extensions, "seeds": list(self.seeds), "data_seed": self.data_seed,
        }  # fmt: skip


@dataclass(frozen=True)
class _Cell:
    """One architecture on one task (or on text), as it is trained but for its rate and seed."""

    arch: str
    task: str
    run: LoadedRun
    facts: Settled

    @property
    def name(self) -> str:
        return f"{self.arch}{_MARK}{self.task}"

    def trial(self, point: Point) -> str:
        return f"{self.name}{_MARK}lr {point[0]:g}"

    @property
    def architecture(self) -> Architecture:
        return resolve(self.run.config.arch, self.facts.vocab_size)

    def at(self, point: Point) -> LoadedRun:
        return _at_rate(self.run, point[0])


class Probing:
    """The inquiry of ``probe``.

    Rounds: ``tune`` for as long as a cell's best rate lies at an edge that may be extended, and
    ``probe``.

    Args:
        loaded: the architectures, each with its recipe and its text.
        text: whether each is trained on its own text too, with the same tuning.
        losses: losses on text that are known already, by architecture: shown beside the scores.

    Raises:
        UsageError: no decoder, unfit rates or seeds, or an architecture that takes no such task.
    """

    kind = "probe"

    def __init__(
        self,
        loaded: Sequence[LoadedRun],
        tasks: Sequence[ProbeTask],
        recipe: ProbeRecipe,
        *,
        ground: Ground,
        text: bool = True,
        losses: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        _check(loaded, recipe)
        self._tasks, self._recipe, self._ground = tuple(tasks), recipe, ground
        self._tuning, self._losses = recipe.tuning(), losses
        self.names = distinct_names(loaded)
        self._cells = [
            cell
            for name, run in zip(self.names, loaded, strict=True)
            for cell in self._cells_of(name, run, text and losses is None)
        ]
        what = f"{len(tasks)} tasks" + (" and text" if text and losses is None else "")
        self.question = f"{', '.join(self.names)} on {what}"
        self.digest = digest(
            {
                "kind": self.kind,
                "cells": [(cell.name, cell.facts.key) for cell in self._cells],
                "recipe": recipe.to_dict(),
                "losses": losses and {name: dict(value) for name, value in losses.items()},
            }
        )

    def next(self, past: Sequence[Round], recall: Recall) -> Plan | None:
        if any(one.plan.kind == SCORED for one in past):
            return None
        named = [
            (cell.trial(point), cell.at(point))
            for cell in self._cells
            for point in self._tuning.next_points((None,), self._tried(cell, past))
        ]
        if named:
            return plain_plan(
                TUNED, f"the rates of {self.question}", named,
                seeds=self._tuning.seeds, ground=self._ground, recall=recall,
            )  # fmt: skip
        chosen = [(cell.name, cell.at(self._chosen(cell, past))) for cell in self._cells]
        return plain_plan(
            SCORED, self.question, chosen,
            seeds=self._recipe.seeds, ground=self._ground, recall=recall,
        )  # fmt: skip

    def result(self, past: Sequence[Round]) -> dict[str, Any]:
        cells: dict[str, dict[str, Any]] = {name: {} for name in self.names}
        text: dict[str, Any] = {}
        for cell in self._cells:
            told = self._told(cell, past)
            if cell.task == TEXT:
                text[cell.arch] = told
            else:
                cells[cell.arch][cell.task] = told
        if self._losses is not None:
            known = {name: self._losses[name] for name in self.names if name in self._losses}
            text = {name: {"score": dict(value)} for name, value in known.items()}
        return {
            "kind": self.kind,
            "question": self.question,
            "architectures": self.names,
            "tasks": task_tree(self._tasks),
            "recipe": self._recipe.to_dict(),
            "cells": cells,
            "text": text,
            "text_from": "another study" if self._losses is not None else "this study",
            "notes": self._notes(),
        }

    def outlook(self, first: Plan | None = None) -> list[str]:
        """How many runs there will be, in words."""
        cells, rates = len(self._cells), len(self._recipe.lrs)
        seeds = len(self._recipe.seeds)
        return [
            f"probe: {self.question}; {self._recipe.steps} steps of {self._recipe.batch_size}",
            f"  {cells} cells × {rates} rates = {cells * rates} runs of tuning, at most "
            f"{cells * self._recipe.extensions} more where the best rate lies at an edge, and "
            f"{cells} × {seeds} seeds = {cells * seeds} runs that are scored",
        ]

    def _cells_of(self, name: str, run: LoadedRun, text: bool) -> list[_Cell]:
        own = as_arm(run, name)
        made = [(task.name, self._on_task(own, task)) for task in self._tasks]
        made += [(TEXT, own)] if text else []
        first = self._recipe.lrs[0]
        return [
            _Cell(name, task, one, self._ground.settle(_at_rate(one, first))) for task, one in made
        ]

    def _on_task(self, run: LoadedRun, task: ProbeTask) -> LoadedRun:
        """The run with the task in place of its text: vocabulary, length, steps and batch are those
        of the task, the recipe and all else of the architecture its own."""
        steps, longest = self._recipe.steps, task.source.longest
        data = {"source": task.source.model_dump(mode="json"), "seed": self._recipe.data_seed}
        changes: dict[str, Any] = {
            "arch.vocab_size": "auto", "arch.max_seq_len": longest, "data": data,
            "train.steps": steps, "train.batch_size": self._recipe.batch_size,
            "train.seq_len": longest, "train.eval_every": steps, "train.eval_tokens": None,
            "train.checkpoint_every": steps, "train.log_every": max(1, steps // 20),
            "train.stages": [], "train.scores": [], "train.micro_batch_size": None,
        }  # fmt: skip
        return read_tree(as_tree(run.config), changes)

    def _tried(self, cell: _Cell, past: Sequence[Round]) -> dict[Point, float]:
        tried: dict[Point, float] = {}
        for one in past:
            if one.plan.kind == TUNED:
                for point in self._tuning.next_points((None,), tried):
                    losses = one.losses(cell.trial(point))
                    known = [loss for loss in losses if loss is not None]
                    whole = len(known) == len(losses)
                    tried[point] = math.fsum(known) / len(known) if whole else math.inf
        return tried

    def _chosen(self, cell: _Cell, past: Sequence[Round]) -> Point:
        """The best rate; the lowest where none was trained to its end."""
        return best_point(self._tried(cell, past)) or (min(self._recipe.lrs),)

    def _told(self, cell: _Cell, past: Sequence[Round]) -> dict[str, Any]:
        scored = past[-1]
        records = [scored.records[key] for key in scored.plan.keys_of(cell.name)]
        metric = "loss" if cell.task == TEXT else TEST
        tried, point = self._tried(cell, past), self._chosen(cell, past)
        known = best_point(tried)
        longest = cell.run.config.train.seq_len
        held = cost(cell.architecture, longest).total
        return {
            "score": _summary(records, metric),
            "longer": {
                name.rpartition("_")[2]: _summary(records, name) for name in _longer_names(records)
            },
            "diverged": sum(record["status"] == "diverged" for record in records),
            "failed": sum(record["status"] == "failed" for record in records),
            "lr": point[0],
            "at_edge": known is None or bool(self._tuning.beyond(tried)),
            "trials": [
                {"lr": values[0], "loss": loss if math.isfinite(loss) else None}
                for values, loss in tried.items()
            ],
            "params": int(cost(cell.architecture, longest).total.params),
            "seq_len": longest,
            "state_values": int(held.state_values + longest * held.state_values_per_token),
        }

    def _notes(self) -> list[str]:
        notes = [
            "Scores are accuracies on a test that nothing was chosen by, of fresh seeds; rates "
            "were chosen by the validation loss of another seed.",
            "A score says how well a task was learned in so many steps, not whether the "
            "architecture could ever solve it.",
        ]
        if self._losses is not None:
            missing = [name for name in self.names if name not in self._losses]
            if missing:
                notes.append(f"The other study has no loss of {', '.join(missing)}.")
        return notes


def _at_rate(run: LoadedRun, lr: float) -> LoadedRun:
    return read_tree(as_tree(run.config), {"train.lr": lr})


def _longer_names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    found: dict[str, None] = {}
    for record in records:
        found |= dict.fromkeys(k for k in record.get("final") or {} if k.startswith(f"{TEST}_at_"))
    return list(found)


def _summary(records: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Every seed's value, their mean and its 95% t-interval; without a mean where a run has none.
    Of equal values nothing is known of the noise, and there is no interval."""
    values = [final_value(record, name) for record in records]
    whole = [value for value in values if value is not None]
    found = mean_interval(whole if len(whole) == len(values) else []).to_dict()
    if len(set(whole)) == 1:
        found |= {"low": None, "high": None}
    if name != "loss":
        found |= {
            side: min(1.0, max(0.0, bound))
            for side in ("low", "high")
            if (bound := found[side]) is not None
        }
    return {**found, "values": values}


def _check(loaded: Sequence[LoadedRun], recipe: ProbeRecipe) -> None:
    if not loaded:
        raise UsageError("nothing to probe: give at least one run file")
    for run in loaded:
        objective = objective_config(run.config).type
        if run.config.arch.type != "decoder" or objective != "next_token":
            raise UsageError(
                f"{run.name}: a probe asks for the next token, and this {run.config.arch.type} is "
                f"trained on {objective}"
            )
    if recipe.steps < 1 or recipe.batch_size < 1:
        raise UsageError("--steps and --batch-size must be 1 or more")
    if not all(math.isfinite(lr) and lr > 0 for lr in recipe.lrs):
        raise UsageError(f"--lrs: rates must be above 0: {list(recipe.lrs)}")
    if len(recipe.lrs) < 2 or len(set(recipe.lrs)) < len(recipe.lrs):
        raise UsageError("--lrs: at least 2 different rates are needed to choose from")
    if not recipe.seeds or len(set(recipe.seeds)) < len(recipe.seeds):
        raise UsageError("--seeds must be at least 1")
