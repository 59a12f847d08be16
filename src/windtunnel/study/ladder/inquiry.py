"""A ladder as an inquiry: trunks, then decays, then what their losses say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.errors import CheckpointError
from windtunnel.runs import RunStore
from windtunnel.study.arms import Ground
from windtunnel.study.ladder.analyse import DRAWS, analyse
from windtunnel.study.ladder.cells import FEWEST_SIZES, Measured
from windtunnel.study.ladder.complete import completed
from windtunnel.study.ladder.plans import decays, trunks
from windtunnel.study.ladder.recipe import LR_WORDS
from windtunnel.study.ladder.rungs import Ladder, Rung
from windtunnel.study.plan import Plan
from windtunnel.study.rounds import Recall, Round
from windtunnel.study.statistics import mean_interval


class LadderInquiry:
    """See ``study.rounds.Inquiry``.

    Args:
        store: where the trunks are, so that decays find their checkpoints.
        draws: resampled fits of each architecture.
    """

    kind = "ladder"

    def __init__(
        self, ladder: Ladder, ground: Ground, store: RunStore, *, draws: int = DRAWS
    ) -> None:
        self.ladder, self.ground, self.store, self._draws = ladder, ground, store, draws
        self.question, self.digest = ladder.question, ladder.digest

    def next(self, past: Sequence[Round], recall: Recall) -> Plan | None:
        """Trunks, then decays where there is more than one budget."""
        if not past:
            return trunks(self.ladder, self.ground, recall)
        if len(past) == 1 and len(self.ladder.request.budgets) > 1:
            return decays(self.ladder, past[0].plan, self.ground, recall, self._checkpoint)
        return None

    def _checkpoint(self, key: str, step: int) -> Path | None:
        from windtunnel.train.checkpoint import whole_checkpoint

        folder = self.store.find(key)
        if folder is None:
            return None
        try:
            whole_checkpoint(folder.checkpoints, lambda text: None, step=step)
        except CheckpointError:
            return None
        return folder.path

    def result(self, past: Sequence[Round]) -> dict[str, Any]:
        """Plain JSON: cells, differences, trends, laws, claims, backtest, and the conclusion."""
        request = self.ladder.request
        losses = _losses(past)
        measured = [
            _measured(name, row, costs, losses, request.seeds)
            for name, row, costs in zip(
                self.ladder.arms, self.ladder.rungs, self.ladder.costs, strict=True
            )
        ]
        with_backtest = request.backtest
        if with_backtest is None:
            with_backtest = len(request.sizes) > FEWEST_SIZES
        tree: dict[str, Any] = {
            "kind": self.kind,
            "title": self.question,
            **described(self.ladder),
            "cells": [
                cell for row in self.ladder.rungs for cell in _cells(row, losses, request.seeds)
            ],
            **analyse(measured, request.target, with_backtest=with_backtest, draws=self._draws),
            "notes": list(dict.fromkeys(note for round in past for note in round.plan.notes)),
        }
        return completed(tree)


def described(ladder: Ladder) -> dict[str, Any]:
    """What is trained and by which rules; plain JSON, known before anything runs."""
    request = ladder.request
    runs = len(ladder.all) * len(request.budgets) * len(request.seeds)
    seeds = len(request.seeds)
    per_step = [r.trunk.tokens_per_step * r.trunk.flops_per_token for r in ladder.all]
    return {
        "arms": list(ladder.arms),
        "rule": request.rule,
        "count": request.count,
        "lr_rule": request.lr_rule,
        "lr_rule_is": LR_WORDS[request.lr_rule],
        "sizes": list(request.sizes),
        "budgets": [budget.name for budget in request.budgets],
        "seeds": list(request.seeds),
        "rungs": [_rung_tree(rung) for rung in ladder.all],
        "cost": {
            "runs": runs,
            "flops": seeds * sum(rung.trained_flops for rung in ladder.all),
            "flops_without_branching": seeds
            * sum(
                rung.lengths.alone * each for rung, each in zip(ladder.all, per_step, strict=True)
            ),
        },
    }


def predicted_seconds(ladder: Ladder, first: Plan) -> float | None:
    """Of all runs one after the other, by the speeds measured for the trunks; None without them."""
    total = 0.0
    for rung in ladder.all:
        arm = first.arm(rung.name_at(len(rung.budgets) - 1))
        if arm.run_seconds is None or arm.seconds is None:
            return None
        besides = arm.run_seconds - arm.seconds
        steps = rung.lengths.trained / rung.lengths.steps[-1]
        total += arm.seconds * steps + besides * len(rung.budgets)
    return total * len(ladder.request.seeds)


def _rung_tree(rung: Rung) -> dict[str, Any]:
    mixer: Any = rung.sized.architecture.layers[0].mixer
    return {
        "arm": rung.arm,
        "name": rung.name,
        "asked": rung.sized.target,
        "params": rung.sized.params,
        "total_params": rung.trunk.params,
        "d_model": rung.sized.spec.d_model,
        "layers": rung.sized.layers,
        "num_heads": getattr(mixer, "num_heads", None),
        "head_dim": getattr(mixer, "head_dim", None),
        "lr": rung.lr,
        "warmup_steps": rung.lengths.schedule.warmup,
        "steps": list(rung.lengths.steps),
        "branch_steps": list(rung.lengths.branches),
        "tokens": list(rung.tokens),
        "flops": list(rung.flops),
        "flops_per_token": rung.trunk.flops_per_token,
        "changes": list(rung.sized.changes),
    }


def _losses(past: Sequence[Round]) -> dict[tuple[str, int], tuple[float, str]]:
    """The final loss (NaN where there is none) and the status of each run, by name and seed."""
    found = {}
    for round in past:
        for run in round.plan.runs:
            record = round.records[run.key]
            found[run.arm, run.seed] = (_final(record), str(record["status"]))
    return found


def _final(record: Mapping[str, Any]) -> float:
    value = (record.get("final") or {}).get("loss") if record["status"] == "finished" else None
    return float(value) if value is not None and math.isfinite(value) else math.nan


def _measured(
    name: str, row: Sequence[Rung], costs: Any, losses: Mapping[Any, Any], seeds: Sequence[int]
) -> Measured:
    budgets = range(len(row[0].budgets))
    values = [
        [[losses[rung.name_at(b), seed][0] for seed in seeds] for b in budgets] for rung in row
    ]
    return Measured(
        name=name,
        params=np.array([rung.sized.params for rung in row], dtype=np.float64),
        tokens=np.array([rung.tokens for rung in row]),
        flops=np.array([rung.flops for rung in row]),
        losses=np.array(values),
        cost_params=costs[0],
        cost_flops=costs[1],
    )


def _cells(
    row: Sequence[Rung], losses: Mapping[Any, Any], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    cells = []
    for rung in row:
        for number, budget in enumerate(rung.budgets):
            name = rung.name_at(number)
            values = [losses[name, seed][0] for seed in seeds]
            known = [value for value in values if math.isfinite(value)]
            statuses = [losses[name, seed][1] for seed in seeds]
            whole = mean_interval(known if len(known) == len(values) else [])
            cells.append(
                {
                    "arm": rung.arm,
                    "name": name,
                    "asked": rung.sized.target,
                    "params": rung.sized.params,
                    "budget": budget.name,
                    "tokens": rung.tokens[number],
                    "flops": rung.flops[number],
                    "steps": rung.lengths.steps[number],
                    "lr": rung.lr,
                    **whole.to_dict(),
                    "values": [v if math.isfinite(v) else None for v in values],
                    "diverged": sum(s == "diverged" for s in statuses),
                    "failed": sum(s == "failed" for s in statuses),
                }
            )
    return cells
