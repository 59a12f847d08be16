"""From run configs to a plan: the same budget for each arm, the same seeds, keys, costs. Pure:
what only this machine knows (data, versions, speed) is asked of a :class:`Ground`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from windtunnel.config import digest
from windtunnel.errors import UsageError
from windtunnel.study.arms import (
    Ground,
    Settled,
    as_arm,
    as_tree,
    check_memory,
    make_arm,
    make_runs,
    shared_notes,
    with_known_stages,
)
from windtunnel.study.budget import Match
from windtunnel.study.machine import shares_gpus
from windtunnel.study.matching import Candidate, match_arm, own_amount
from windtunnel.study.own_costs import check_costs, cost_notes
from windtunnel.study.plan import Arm, Estimate, Metric, Plan
from windtunnel.study.workers import makespan
from windtunnel.train.objectives.config import NextTokenConfig, Seq2SeqConfig
from windtunnel.train.run_config import LoadedRun, RunConfig, objective_config

MAX_SEEDS = 1000
_CHANGES, _CHANGE = 2, 60
"""How many changes of a resized arm a note tells, and the characters of each."""
_DECIDES_TEXT = ("source", "sources", "validation", "seed")
_DECIDES_LOSS = ("seq_len", "eval_tokens")


def plan_compare(
    loaded: Sequence[LoadedRun],
    *,
    seeds: int | Sequence[int],
    match: Match = "tokens",
    budget: float | None = None,
    ground: Ground,
    recall: Callable[[str], Plan | None] = lambda digest: None,
) -> Plan:
    """The plan of a comparison; the first config is the reference.

    Args:
        loaded: at least two run configs.
        seeds: how many (0, 1, …), or which.
        match: what every arm gets the same of. ``params`` changes widths, the others the steps.
        budget: how much of it, for one run; the first arm's own amount when left out.
        recall: the plan made before for the question of this digest, if any: it is kept, since
            speeds measured anew would give other steps.

    Raises:
        UsageError: too few arms, unfit seeds or budget, arms that learn different text, or a part
            whose ``cost`` is not what it takes.
        StudyError: parameters cannot be matched within 1%, an arm needs more memory than is free,
            or a speed cannot be measured.
    """
    question = ask_compare(loaded, seeds=seeds, match=match, budget=budget, ground=ground)
    return question.plan(ground, recall)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a comparison asks, before anything is matched or measured."""

    named: Sequence[LoadedRun]
    settled: Sequence[Settled]
    metric: Metric
    notes: tuple[str, ...]
    seeds: tuple[int, ...]
    match: Match
    budget: float | None

    @property
    def words(self) -> str:
        names = [run.name for run in self.named]
        return f"{', '.join(names[1:])} against {names[0]}"

    @property
    def digest(self) -> str:
        """Of what is asked, on which code and data."""
        keys = [(run.name, facts.key) for run, facts in zip(self.named, self.settled, strict=True)]
        return digest(
            {
                "kind": "compare",
                "arms": keys,
                "seeds": self.seeds,
                "match": self.match,
                "budget": self.budget,
            }
        )

    def plan(self, ground: Ground, recall: Callable[[str], Plan | None]) -> Plan:
        """The plan that answers it; see ``plan_compare``."""
        asked = self.digest
        if (known := recall(asked)) is not None:
            return known
        named, notes, match = self.named, self.notes, self.match
        if self.metric == "bits_per_byte":
            named = [_with_whole_validation(run) for run in named]
            notes = (*notes, *_text_notes(match))
        candidates = [
            Candidate(with_known_stages(run.config, facts), facts.vocab_size, step=facts.step)
            for run, facts in zip(named, self.settled, strict=True)
        ]
        amount, matched, speeds = _match(candidates, match, self.budget, ground)
        trees = [as_tree(arm.config) for arm in matched]
        arms = tuple(
            make_arm(arm, run.document.source, speed, trees[0])
            for arm, run, speed in zip(matched, named, speeds, strict=True)
        )
        runs = tuple(
            run
            for base, arm in zip(named, matched, strict=True)
            for run in make_runs(base, arm, self.seeds, ground)
        )
        told = (*recipe_notes(matched), *shared_notes(runs), *_change_notes(arms, match))
        return Plan(
            kind="compare",
            question=self.words,
            digest=asked,
            arms=arms,
            runs=runs,
            seeds=self.seeds,
            match=match,
            budget=amount,
            metric=self.metric,
            notes=(*notes, *cost_notes(matched), *told),
        )


def ask_compare(
    loaded: Sequence[LoadedRun],
    *,
    seeds: int | Sequence[int],
    match: Match = "tokens",
    budget: float | None = None,
    ground: Ground,
) -> Question:
    """The question of a comparison, checked; see ``plan_compare``.

    Raises:
        UsageError: too few arms, unfit seeds or budget, or arms that learn different text.
    """
    chosen = check_question(len(loaded), seeds=seeds, budget=budget)
    named = [as_arm(run, name) for run, name in zip(loaded, distinct_names(loaded), strict=True)]
    settled = [ground.settle(run) for run in named]
    metric, notes = _metric_of(named, settled)
    return Question(
        named=named, settled=settled, metric=metric, notes=notes, seeds=chosen, match=match,
        budget=budget,
    )  # fmt: skip


def check_question(
    configs: int, *, seeds: int | Sequence[int], budget: float | None
) -> tuple[int, ...]:
    """The seeds that are meant. Needs no data, so it can be asked before any is read.

    Raises:
        UsageError: too few configs, unfit seeds or an unfit budget.
    """
    chosen = _checked_seeds(seeds)
    if configs < 2:
        raise UsageError(f"a comparison needs at least 2 configs, not {configs}")
    if budget is not None and not 0 < budget < float("inf"):
        raise UsageError(f"--budget must be above 0, not {budget:g}")
    return chosen


def _checked_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, int) and not 1 <= seeds <= MAX_SEEDS:
        raise UsageError(f"--seeds must be between 1 and {MAX_SEEDS}, not {seeds}")
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen or len(set(chosen)) != len(chosen) or min(chosen) < 0:
        raise UsageError(f"seeds must be there, differ and not be negative: {list(chosen)}")
    return chosen


def distinct_names(loaded: Sequence[LoadedRun]) -> list[str]:
    """The arms' names: the architectures'; where those are equal, the files'; else numbered."""
    names = [run.name for run in loaded]
    counts = Counter(names)
    stems = [PurePath(run.document.source).stem for run in loaded]
    wanted = [
        stem if counts[name] > 1 and stem else name for name, stem in zip(names, stems, strict=True)
    ]
    distinct: list[str] = []
    for name in wanted:
        number, candidate = 1, name
        while candidate in distinct:
            number += 1
            candidate = f"{name}-{number}"
        distinct.append(candidate)
    return distinct


def _metric_of(
    named: Sequence[LoadedRun], settled: Sequence[Settled]
) -> tuple[Metric, tuple[str, ...]]:
    """What is compared; raises where the arms do not predict the same."""
    check_same_loss(named)
    if len({facts.data_fingerprint for facts in settled}) == 1:
        return "loss", ()
    first = named[0]
    for arm in named[1:]:
        for field in _DECIDES_TEXT:
            if getattr(arm.config.data, field) != getattr(first.config.data, field):
                raise UsageError(
                    f"{arm.name}: data.{field} differs from that of {first.name}; "
                    "arms must be trained and judged on the same text"
                )
    if first.config.data.kind == "labels":
        return "loss", ()  # of a text, whatever its tokens
    if (objective := objective_config(first.config).type) == "diffusion":
        raise UsageError(f"{objective} has no bits per byte: arms must have one tokenizer")
    return "bits_per_byte", (
        "The tokenizers differ, so a token is not the same thing in each arm: the verdicts are "
        "about bits per byte.",
    )


def check_same_loss(named: Sequence[LoadedRun]) -> None:
    """Raises UsageError where losses of the arms are not of the same thing."""
    first = _what_counts(named[0].config)
    for run in named[1:]:
        if (what := _what_counts(run.config)) != first:
            raise UsageError(
                f"{run.name}: train.objective is {_shown(what)}, but that of {named[0].name} is "
                f"{_shown(first)}: their losses do not measure the same"
            )


def _what_counts(config: RunConfig) -> dict[str, Any]:
    """The objective, without what changes no evaluation."""
    objective = objective_config(config)
    found = objective.model_dump(mode="json", exclude={"label_smoothing"})
    if config.data.kind == "text":
        found.pop("loss_on", None)
        if isinstance(objective, Seq2SeqConfig):  # as a decoder of which as much counts
            found = NextTokenConfig(source=objective.source).model_dump(mode="json")
    elif isinstance(objective, Seq2SeqConfig):  # as a decoder that writes the same truth
        found = NextTokenConfig().model_dump(mode="json")
    return found


def _shown(what: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{value}" if key == "type" else f"{key} {value}" for key, value in what.items()
    )


def _with_whole_validation(run: LoadedRun) -> LoadedRun:
    """The run evaluated on all of the validation split: the same number of tokens would be another
    part of the text for each tokenizer."""
    train = run.config.train.replace(eval_tokens=None)
    return replace(run, config=run.config.replace(train=train))


def _text_notes(match: Match) -> tuple[str, ...]:
    notes = (
        "Every arm is evaluated on the whole validation split, whatever train.eval_tokens says, so "
        "that all are judged on the same text.",
    )
    if match != "tokens":
        return notes
    unequal = "The arms train on equally many tokens, which is not equally much text (bytes)."
    return (*notes, unequal)


def _match(
    arms: Sequence[Candidate], match: Match, budget: float | None, ground: Ground
) -> tuple[float, list[Candidate], Sequence[float | None]]:
    """The budget, the arms that have it, and their speeds, measured at their final widths."""

    def measured(of: Sequence[Candidate]) -> Sequence[float | None]:
        check_memory(of, ground)
        return ground.speeds([arm.config for arm in of]) if ground.speeds else [None] * len(of)

    check_costs(arms)  # before widths are solved by them
    known = measured(arms) if match != "params" else [None] * len(arms)
    amount = budget if budget is not None else own_amount(arms[0], match, known[0])
    matched = [match_arm(arm, match, amount, speed) for arm, speed in zip(arms, known, strict=True)]
    return amount, matched, measured(matched) if match == "params" else known


def recipe_notes(arms: Sequence[Candidate | LoadedRun]) -> list[str]:
    """Settings that change what a loss means, where they differ between arms."""
    notes = []
    for field in _DECIDES_LOSS:
        values = {arm.name: getattr(arm.config.train, field) for arm in arms}
        if len(set(values.values())) > 1:
            shown = ", ".join(f"{name} {value}" for name, value in values.items())
            notes.append(f"train.{field} differs ({shown}): the losses are not measured alike.")
    if len({arm.config.data.packing for arm in arms}) > 1:
        notes.append("data.packing differs: the arms do not see the same context.")
    begun = [arm.name for arm in arms if arm.config.origin is not None]
    if begun:
        notes.append(
            f"{', '.join(begun)} begin with given weights: between seeds only the "
            "order of the data and dropout differ, so intervals say nothing of other first weights."
        )
    return notes


def _change_notes(arms: Sequence[Arm], match: Match) -> list[str]:
    """Other steps are what a budget means; another architecture must be told (all of it stands in
    the plan)."""
    return [
        f"{arm.name} was resized to match parameters: {_shortly(arm.changes)}."
        for arm in arms
        if arm.changes and match == "params"
    ]


def _shortly(changes: Sequence[str]) -> str:
    shown = [text if len(text) <= _CHANGE else f"{text[: _CHANGE - 1]}…" for text in changes]
    more = len(shown) - _CHANGES
    return "; ".join([*shown[:_CHANGES], *([f"and {more} more changes"] if more > 0 else [])])


def estimate(
    plan: Plan,
    finished: Collection[str] = (),
    *,
    cores: int,
    memory_bytes: int | None = None,
    gpus: int | None = None,
    workers: int | None = None,
) -> Estimate:
    """What is left of a plan on a machine.

    Args:
        finished: the keys of runs that have ended already.
        cores: processor cores that may be used.
        memory_bytes: what the workers may take together; None: it does not limit them.
        gpus: CUDA devices, one for each process of a run on them; None: they do not limit them.
        workers: as many as asked for; else as cores, memory and GPUs allow. Never more than runs.

    Raises:
        UsageError: ``workers`` is below 1.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, not {workers}")
    left = [plan.arm(plan.run(key).arm) for key in plan.keys if key not in finished]
    threads = max(int(arm.config["train"]["threads"]) for arm in plan.arms)
    largest = max(arm.memory_bytes * arm.processes for arm in left or plan.arms)
    busy = max(int(arm.config["train"]["threads"]) * arm.processes for arm in plan.arms)
    if workers is None:
        room = cores if memory_bytes is None else memory_bytes // largest
        workers = min(cores // busy, room)
        if gpus and any(shares_gpus(arm.config["train"]["device"]) for arm in left or plan.arms):
            workers = min(workers, gpus // max(arm.processes for arm in plan.arms))
    workers = max(1, min(workers, len(left)))
    seconds = [arm.run_seconds for arm in left]
    known = [s for s in seconds if s is not None]
    return Estimate(
        runs=len(plan.keys),
        reused=len(plan.keys) - len(left),
        workers=workers,
        threads=threads,
        seconds=makespan(known, workers) if None not in seconds else None,
        memory_bytes=largest,
    )
