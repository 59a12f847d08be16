"""The two rounds of a ladder: trunks, which are the largest budgets whole, then the decays of the
smaller ones from the trunks' checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from windtunnel.config import digest
from windtunnel.study.arms import Ground, as_tree, check_memory, make_arm
from windtunnel.study.ladder.rungs import Ladder, Rung
from windtunnel.study.own_costs import check_costs, cost_notes
from windtunnel.study.plan import Arm, Plan, PlannedRun
from windtunnel.train.origin_config import OriginConfig

Recall = Callable[[str], Plan | None]
Checkpoint = Callable[[str, int], Path | None]
"""The folder of a run, by its key, if it has a whole checkpoint of that step."""


def trunks(ladder: Ladder, ground: Ground, recall: Recall) -> Plan:
    """The first round: every rung's largest budget.

    Raises:
        UsageError: a part whose ``cost`` is not what it takes.
        StudyError: a rung needs more memory than is free, or its speed cannot be measured.
    """
    last = len(ladder.request.budgets) - 1
    runs = [run for rung in ladder.all for run in _runs(rung, last, ladder.request.seeds, ground)]
    asked = digest({"kind": "ladder trunks", "runs": [run.key for run in runs]})
    if (known := recall(asked)) is not None:
        return known
    candidates = [rung.trunk for rung in ladder.all]
    check_costs(candidates)
    check_memory(candidates, ground)
    speeds = (
        ground.speeds([one.config for one in candidates])
        if ground.speeds
        else [None] * len(candidates)
    )
    first = as_tree(candidates[0].config)
    arms = [
        make_arm(one, rung.base.document.source, speed, first)
        for one, rung, speed in zip(candidates, ladder.all, speeds, strict=True)
    ]
    return _plan("ladder trunks", ladder, asked, arms, runs, _cost_notes(ladder))


def _cost_notes(ladder: Ladder) -> list[str]:
    """What the reader must know of each arm's costs: at its largest size, and whether others have
    the same to tell (laws over compute rest on those of all)."""
    notes: list[str] = []
    for row in ladder.rungs:
        *others, largest = [cost_notes([rung.trunk]) for rung in row]
        notes += largest
        if largest and (same := sum(map(bool, others))):
            notes.append(
                f"{row[-1].arm}: its costs at {same} smaller size{'s' * (same > 1)} are so too."
            )
    return notes


def decays(ladder: Ladder, past: Plan, ground: Ground, recall: Recall, found: Checkpoint) -> Plan:
    """The second round: every smaller budget of every rung.

    A trunk without the checkpoint (it diverged before, or was trained for something else) is not
    needed: its smaller budgets are then trained whole, to the same weights.

    Args:
        past: the trunks' plan.
        found: where checkpoints of trunks are.
    """
    keys = {(run.arm, run.seed): run.key for run in past.runs}
    budgets = range(len(ladder.request.budgets) - 1)
    wanted = [(rung, budget) for rung in ladder.all for budget in budgets]
    asked = digest({"kind": "ladder decays", "trunks": list(past.keys), "budgets": len(budgets)})
    if (known := recall(asked)) is not None:
        return known
    first = past.arms[0].config
    arms: list[Arm] = []
    runs: list[PlannedRun] = []
    whole = 0
    for rung, budget in wanted:
        trunk = rung.name_at(len(budgets))
        step = rung.lengths.branches[budget]
        origins: dict[int, OriginConfig] = {}
        for seed in ladder.request.seeds:
            path = found(keys[trunk, seed], step)
            if path is not None:
                origins[seed] = OriginConfig(run=str(path), step=step, key=keys[trunk, seed])
        whole += len(ladder.request.seeds) - len(origins)
        runs += _runs(rung, budget, ladder.request.seeds, ground, origins)
        arm = make_arm(
            rung.candidate(budget),
            rung.base.document.source,
            past.arm(trunk).steps_per_second,
            first,
        )
        arms.append(replace(arm, first_step=step if origins else 0))
    notes = []
    if whole:
        notes.append(
            f"{whole} of {len(runs)} smaller budgets are trained from their first step: their "
            "trunk has no checkpoint where they branch."
        )
    return _plan("ladder decays", ladder, asked, arms, runs, notes)


def _runs(
    rung: Rung,
    budget: int,
    seeds: Sequence[int],
    ground: Ground,
    origins: dict[int, OriginConfig] | None = None,
) -> Iterator[PlannedRun]:
    candidate = rung.candidate(budget)
    for seed in seeds:
        config = candidate.config.replace(
            train=candidate.config.train.replace(seed=seed), origin=(origins or {}).get(seed)
        )
        final = ground.settle(replace(rung.base, config=config))
        yield PlannedRun(arm=candidate.name, seed=seed, key=final.key, config=final.config)


def _plan(
    kind: str,
    ladder: Ladder,
    asked: str,
    arms: Sequence[Arm],
    runs: Sequence[PlannedRun],
    notes: Sequence[str] = (),
) -> Plan:
    return Plan(
        kind=kind,
        question=ladder.question,
        digest=asked,
        arms=tuple(arms),
        runs=tuple(runs),
        seeds=ladder.request.seeds,
        match="none",
        budget=0.0,
        metric="loss",
        notes=(*ladder.notes, *notes),
    )
