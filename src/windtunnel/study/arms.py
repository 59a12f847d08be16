"""From named runs to arms and planned runs, without matching anything. Pure: what only this machine
knows (data, versions, speed) is asked of a :class:`Ground`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from windtunnel.arch import Architecture, diff
from windtunnel.config import Document, digest, parse_path
from windtunnel.data.config import Kind
from windtunnel.errors import StudyError, UsageError
from windtunnel.study.matching import Candidate, Speeds
from windtunnel.study.own_costs import check_costs, cost_notes
from windtunnel.study.plan import Arm, Metric, Plan, PlannedRun
from windtunnel.study.process import process_bytes
from windtunnel.study.starts import start_seconds
from windtunnel.train.config import TrainConfig
from windtunnel.train.objectives.row_cost import StepSize
from windtunnel.train.planned import run_memory
from windtunnel.train.run_config import LoadedRun, RunConfig, load_run_document


@dataclass(frozen=True)
class Settled:
    """A config with nothing left open."""

    key: str
    """The digest of all that decides the run's result."""
    config: Mapping[str, Any]
    """The final config as a plain tree."""
    data_fingerprint: str
    """Of the tokens of both sides and the tokenizer."""
    vocab_size: int
    step: StepSize | None = None
    """What a step on samples comes to; None: full rows of a text."""


@dataclass(frozen=True)
class Ground:
    """What a plan asks of the machine it is made on."""

    settle: Callable[[LoadedRun], Settled]
    speeds: Speeds | None = None
    """None: no speed is measured, so the plan can give no time."""
    memory_room: Callable[[TrainConfig], int | None] = lambda train: None
    """Free bytes where a recipe trains; None: not known, and nothing is refused."""


def as_arm(run: LoadedRun, name: str) -> LoadedRun:
    """The run under its name in the study, its threads fixed: so its numbers do not depend on how
    many workers share the machine."""
    train = run.config.train
    if train.threads is None:
        train = train.replace(threads=1)
    arch = run.config.arch.replace(name=name)
    plugins = tuple(str((run.base / path).resolve()) for path in run.config.plugins)
    return replace(run, config=run.config.replace(arch=arch, train=train, plugins=plugins))


def with_known_stages(config: RunConfig, facts: Settled) -> RunConfig:
    """The run with stages in rows or steps where they were written in epochs."""
    if config.train.settled:
        return config
    found = facts.config["train"]["stages"]
    stages = [
        stage.replace(epochs=None, until="first_exhausted", rows=known["rows"])
        if stage.epochs is not None
        else stage
        for stage, known in zip(config.train.stages, found, strict=True)
    ]
    return config.replace(train=config.train.with_stages(stages))


def check_memory(arms: Sequence[Candidate], ground: Ground) -> None:
    """Raises StudyError where an arm cannot fit, before anything of it is allocated; UsageError
    where the costs that its prediction rests on are not those of its parts."""
    check_costs(arms)
    for arm in arms:
        room = ground.memory_room(arm.config.train)
        needed = predicted_memory(arm.architecture, arm.config.train, arm.config.data.kind)
        if room is not None and needed > room:
            raise StudyError(
                f"{arm.name}: training it takes about {needed / 2**30:.1f} GiB of memory, and "
                f"{room / 2**30:.1f} GiB are free; make it smaller, or lower train.batch_size or "
                "train.micro_batch_size"
            )


def make_arm(arm: Candidate, source: str, speed: float | None, first: Mapping[str, Any]) -> Arm:
    train, tree = arm.config.train, as_tree(arm.config)
    return Arm(
        name=arm.name,
        source=source,
        config=tree,
        arch_digest=arm.architecture.digest(),
        params=arm.params,
        steps=train.steps,
        tokens=round(train.steps * arm.tokens_per_step),
        flops_per_token=arm.flops_per_token,
        memory_bytes=predicted_memory(arm.architecture, train, arm.config.data.kind),
        steps_per_second=speed,
        start_seconds=start_seconds(),
        diff=tuple((d.path, d.first, d.second) for d in diff(first, tree) if d.path != "arch.name"),
        changes=arm.changes,
    )


def predicted_memory(architecture: Architecture, train: TrainConfig, data: Kind = "text") -> int:
    memory = run_memory(architecture, train, data=data)
    return int(memory.total) + process_bytes(train.precision)


def as_tree(config: RunConfig) -> dict[str, Any]:
    tree: dict[str, Any] = config.model_dump(mode="json")
    return tree


def make_runs(
    base: LoadedRun, arm: Candidate, seeds: Sequence[int], ground: Ground
) -> list[PlannedRun]:
    runs = []
    for seed in seeds:
        config = arm.config.replace(train=arm.config.train.replace(seed=seed))
        final = ground.settle(replace(base, config=config))
        runs.append(PlannedRun(arm=arm.name, seed=seed, key=final.key, config=final.config))
    return runs


def shared_notes(runs: Sequence[PlannedRun]) -> list[str]:
    owners: dict[str, list[str]] = {}
    for run in runs:
        owners.setdefault(run.key, []).append(run.arm)
    groups = dict.fromkeys(tuple(names) for names in owners.values() if len(names) > 1)
    return [
        f"{' and '.join(names)} are the same architecture and recipe: their runs are trained once."
        for names in groups
    ]


def read_tree(
    tree: Mapping[str, Any], changes: Mapping[str, Any] | None = None, *, origin: str = "plan"
) -> LoadedRun:
    """A loaded run from a config's plain tree, with some values changed by dotted path.

    The tree is taken as it is: through YAML, not every character of a name or a path would survive.

    Raises:
        ConfigError: a path leads nowhere, or a value does not fit.
    """
    document = Document(json.loads(json.dumps(tree)), source="plan")
    for path, value in (changes or {}).items():
        document = document.with_value(parse_path(path), value, origin)
    return load_run_document(document, base=Path.cwd())


def plain_plan(
    kind: str,
    question: str,
    named: Sequence[tuple[str, LoadedRun]],
    *,
    seeds: Sequence[int],
    ground: Ground,
    metric: Metric = "loss",
    speeds: Sequence[float | None] | None = None,
    notes: Sequence[str] = (),
    recall: Callable[[str], Plan | None] = lambda digest: None,
) -> Plan:
    """A plan in which every run is trained as it is written: nothing is matched.

    Args:
        named: the arms by name; names must differ.
        speeds: steps a second of each, where they are known; nothing is measured here.
        recall: as for ``plan_compare``.

    Raises:
        StudyError: an arm needs more memory than is free.
        UsageError: the ``cost`` of one of its parts is wrong.
    """
    assert len({name for name, _ in named}) == len(named), "an arm's name is its own"
    runs = [as_arm(run, name) for name, run in named]
    settled = [ground.settle(run) for run in runs]
    keys = [(run.name, facts.key) for run, facts in zip(runs, settled, strict=True)]
    asked = digest({"kind": kind, "arms": keys, "seeds": list(seeds)})
    if (known := recall(asked)) is not None:
        return known
    candidates = [
        Candidate(with_known_stages(run.config, facts), facts.vocab_size, step=facts.step)
        for run, facts in zip(runs, settled, strict=True)
    ]
    check_memory(candidates, ground)
    first = as_tree(candidates[0].config)
    known_speeds = speeds or [None] * len(candidates)
    return Plan(
        kind=kind,
        question=question,
        digest=asked,
        arms=tuple(
            make_arm(arm, run.document.source, speed, first)
            for arm, run, speed in zip(candidates, runs, known_speeds, strict=True)
        ),
        runs=tuple(
            run
            for base, arm in zip(runs, candidates, strict=True)
            for run in make_runs(base, arm, seeds, ground)
        ),
        seeds=tuple(seeds),
        match="none",
        budget=0.0,
        metric=metric,
        notes=(*notes, *cost_notes(candidates)),
    )


def replanned(
    plan: Plan,
    *,
    ground: Ground,
    seeds: Sequence[int],
    arms: Sequence[str] | None = None,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    recall: Callable[[str], Plan | None] = lambda digest: None,
) -> Plan:
    """The same comparison with other seeds, fewer arms, or values of some arms changed.

    Args:
        arms: the names of those that stay; all when left out. The order is the plan's.
        changes: by arm, values by dotted path. They must leave its cost and its steps as they are.

    Raises:
        UsageError: a change would make the arm larger, smaller, or longer trained.
    """
    kept = [arm for arm in plan.arms if arms is None or arm.name in arms]
    loaded = [(arm.name, read_tree(arm.config, (changes or {}).get(arm.name))) for arm in kept]
    made = plain_plan(
        plan.kind,
        f"{', '.join(arm.name for arm in kept[1:])} against {kept[0].name}",
        loaded,
        seeds=seeds,
        ground=ground,
        metric=plan.metric,
        speeds=[arm.steps_per_second for arm in kept],
        recall=recall,
    )
    for before, after in zip(kept, made.arms, strict=True):
        _check_same_cost(before, after)
    same = [replace(new, source=old.source, changes=old.changes)
            for old, new in zip(kept, made.arms, strict=True)]  # fmt: skip
    return replace(
        made, arms=tuple(same), match=plan.match, budget=plan.budget,
        notes=(*plan.notes, *(note for note in shared_notes(made.runs) if note not in plan.notes)),
    )  # fmt: skip


def _check_same_cost(before: Arm, after: Arm) -> None:
    """Raises UsageError where a changed arm is not the same size, or not as long trained."""
    for field in ("params", "steps", "tokens", "flops_per_token"):
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            raise UsageError(
                f"{before.name}: what is tuned must not change the arm's budget, but "
                f"{field} is {new:,} in place of {old:,}"
            )
