"""``windtunnel evaluate``: runs answer tasks, and their answers are compared item by item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from windtunnel.cli.options import note
from windtunnel.cli.run_arms import RunArm, named_arms
from windtunnel.data.tasks import Task, read_task
from windtunnel.errors import NotFiniteError, UsageError
from windtunnel.report.progress import open_progress
from windtunnel.report.task_table import task_view
from windtunnel.runs import RunFolder, RunStore
from windtunnel.runs.durable import strict_json, write_atomic
from windtunnel.study.crossed import crossed_mean
from windtunnel.train.launch import open_trained
from windtunnel.train.loop import resolve_device
from windtunnel.train.run_config import load_run
from windtunnel.train.task_scores import (
    BOUNDS,
    MEASURES,
    Answers,
    Measure,
    answer_task,
    as_trained,
    check_trained_for,
)

NOT_FINITE = "not finite"
_NO_FIGURES: Mapping[str, Any] = {
    "mean": None, "low": None, "high": None, "seeds": 0, "items": 0, "of_items_only": False,
    "reason": "no run has answers",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked ``evaluate`` for."""

    runs: tuple[str, ...]
    tasks: tuple[Path, ...]
    store: Path
    device: str = "auto"
    ema: bool = False
    limit: int | None = None
    batch_size: int = 16
    out: Path | None = None


@dataclass(frozen=True)
class Asked:
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
    runs: Mapping[int, Asked]
    troubles: Mapping[int, str]


def evaluate_verb(request: Request) -> dict[str, Any]:
    """Asks every run every task; what they say as plain JSON. With ``out`` each answer is written.

    Raises:
        UsageError: a task or a run that is not right, a run that cannot answer, or ``out`` exists.
    """
    if request.out is not None:
        _check_free(request.out)
    place = str(resolve_device(request.device, "--device"))
    tasks = [read_task(path, limit=request.limit) for path in request.tasks]
    tasks = _with_distinct_names(tasks)
    named = named_arms(request.runs, RunStore(request.store))
    _check_trained_for(named, tasks)
    arms = _asked(named, tasks, request, place)
    if not any(arm.runs for arm in arms):
        told = "; ".join(f"{arm.name}: {_troubles(arm)}" for arm in arms)
        raise UsageError(f"no run can answer: {told}")
    found = {
        "tasks": [_task_tree(number, task, arms) for number, task in enumerate(tasks)],
        "arms": [_arm_tree(arm) for arm in arms],
    }
    if request.out is not None:
        _write(request.out, tasks, arms)
    return found


def print_answers(found: Mapping[str, Any]) -> None:
    """The table of each task."""
    Console().print(task_view(found))


def _check_free(out: Path) -> None:
    if out.exists():
        raise UsageError(f"--out {out}: already exists; choose another file (nothing was written)")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}")


def _with_distinct_names(tasks: Sequence[Task]) -> list[Task]:
    """Tasks of the same name are told apart by their files."""
    first = dict[str, Path]()
    for task in tasks:
        if task.digest in first:
            raise UsageError(f"--task {task.path}: asks the same as {first[task.digest]}")
        first[task.digest] = task.path
    count = Counter(task.name for task in tasks)
    return [task if count[task.name] == 1 else replace(task, name=str(task.path)) for task in tasks]


def _check_trained_for(arms: Sequence[RunArm], tasks: Sequence[Task]) -> None:
    """All runs, before the first one is asked."""
    kinds = {task.kind for task in tasks}
    for run in {run.path.resolve(): run for arm in arms for run in arm.runs.values()}.values():
        try:
            check_trained_for(load_run(run.config_path).config, *kinds)
        except UsageError as error:
            raise UsageError(f"{run.path}: {error}") from error


def _asked(
    arms: Sequence[RunArm], tasks: Sequence[Task], request: Request, device: str
) -> list[AskedArm]:
    """All answers. A run that stands in two arms is asked once."""
    known = dict[Path, Asked | str]()
    runs = {run.path.resolve(): run for arm in arms for run in arm.runs.values()}
    total = sum(len(task.items) for task in tasks)
    with open_progress() as display:
        for path, run in runs.items():
            key = str(path)
            display.start(key, run.path.name, total)
            try:
                known[path] = _ask(run, tasks, request, device, partial(display.update, key))
            except NotFiniteError:
                known[path] = NOT_FINITE
            display.finish(key, "answered" if isinstance(known[path], Asked) else NOT_FINITE)
    found = []
    for arm in arms:
        mine = {seed: known[run.path.resolve()] for seed, run in arm.runs.items()}
        good = {seed: one for seed, one in mine.items() if isinstance(one, Asked)}
        bad = {seed: one for seed, one in mine.items() if isinstance(one, str)}
        found.append(AskedArm(arm.name, good, {**arm.troubles, **bad}))
    return found


def _ask(
    run: RunFolder,
    tasks: Sequence[Task],
    request: Request,
    device: str,
    on_done: Callable[[int], None],
) -> Asked:
    trained = open_trained(run, device=device, warn=note, ema=request.ema)
    if (status := run.status) not in ("finished", "imported"):
        note(f"{run.path}: is {status}; the checkpoint of step {trained.step} is asked")
    config = as_trained(trained.config, imported=status == "imported")
    answers, before = list[Answers](), 0
    for task in tasks:
        try:
            found = answer_task(
                trained.model, trained.tokenizer, config, task,
                batch_size=request.batch_size, on_done=partial(_tell, on_done, before),
            )  # fmt: skip
        except NotFiniteError:
            raise
        except UsageError as error:
            raise UsageError(f"{run.path}: {error}") from error
        answers.append(found)
        before += len(task.items)
    return Asked(run, trained.step, answers, config.train.seq_len)


def _tell(on_done: Callable[[int], None], before: int, done: int) -> None:
    on_done(before + done)


def _task_tree(number: int, task: Task, arms: Sequence[AskedArm]) -> dict[str, Any]:
    every = [run.answers[number] for arm in arms for run in arm.runs.values()]
    kept = [i for i in range(len(task.items)) if all(i not in one.left_out for one in every)]
    if not kept:
        raise UsageError(f"{task.path}: there is no item that every run can be asked")
    chances = [1 / len(task.items[i].choices) for i in kept]
    notes = list(task.notes)
    if len(kept) < len(task.items):
        notes.append(
            f"{len(task.items) - len(kept)} of {len(task.items)} items are left out for all runs: "
            "not every run can be asked them"
        )
    notes += _told(number, arms)
    return {
        "name": task.name,
        "file": str(task.path),
        "kind": task.kind,
        "digest": task.digest,
        "items": len(kept),
        "left_out": len(task.items) - len(kept),
        "chance": None if task.kind == "cloze" else sum(chances) / len(chances),
        "measures": {
            measure: [_figures(number, measure, arm, arms[0], kept) for arm in arms]
            for measure in MEASURES[task.kind]
        },
        "notes": notes,
    }


def _told(number: int, arms: Sequence[AskedArm]) -> list[str]:
    """What is to be known of the answers; what is so for several arms is told once."""
    names = dict[str, list[str]]()
    for arm in arms:
        every = [
            words for run in arm.runs.values() for words in run.answers[number].words(run.seq_len)
        ]
        for words, count in Counter(every).items():
            some = "" if count == len(arm.runs) else f" ({count} of {len(arm.runs)} runs)"
            names.setdefault(words, []).append(arm.name + some)
    return [f"{', '.join(who)}: {words}" for words, who in names.items()]


def _figures(
    number: int, measure: Measure, arm: AskedArm, first: AskedArm, kept: Sequence[int]
) -> dict[str, Any]:
    """An arm's mean with its interval, and its difference to the first arm."""
    values = {seed: _values(run, number, measure, kept) for seed, run in arm.runs.items()}
    base = {seed: _values(run, number, measure, kept) for seed, run in first.runs.items()}
    return {
        "arm": arm.name,
        **(_interval(list(values.values()), *BOUNDS[measure]) if values else _NO_FIGURES),
        "by_seed": {str(seed): float(row.mean()) for seed, row in values.items()},
        "difference": None if arm is first else _difference(measure, values, base),
    }


def _difference(
    measure: Measure, values: Mapping[int, Any], base: Mapping[int, Any]
) -> dict[str, Any] | None:
    """Minus the first arm, item by item and seed by seed; None where no seeds go together. Of two
    single runs only the items go together, so their seeds may be any."""
    pairs = [(values[seed], base[seed]) for seed in values if seed in base]
    if len(values) == len(base) == 1:
        pairs = list(zip(values.values(), base.values(), strict=True))
    if not pairs:
        return None
    lowest, highest = BOUNDS[measure]
    found = _interval([mine - its for mine, its in pairs], lowest - highest, highest - lowest)
    return {**found, "of_seeds": max(len(values), len(base))}


def _interval(rows: Sequence[Any], lowest: float, highest: float) -> dict[str, Any]:
    """The mean with its interval, as far as that lies within what is possible: few items reach
    beyond, and what is cut off there cannot be the truth, so the confidence stays."""
    found = crossed_mean(np.stack(rows))
    if found.low is None or found.high is None:
        return found.to_dict()
    return replace(found, low=max(found.low, lowest), high=min(found.high, highest)).to_dict()


def _values(run: Asked, number: int, measure: Measure, kept: Sequence[int]) -> Any:
    found = run.answers[number].items
    return np.array([one.measures[measure] for i in kept if (one := found[i]) is not None])


def _arm_tree(arm: AskedArm) -> dict[str, Any]:
    return {
        "name": arm.name,
        "runs": [
            {"seed": seed, "path": str(run.folder.path), "key": run.folder.key, "step": run.step}
            for seed, run in arm.runs.items()
        ],
        "troubles": {str(seed): what for seed, what in arm.troubles.items()},
    }


def _troubles(arm: AskedArm) -> str:
    return ", ".join(f"seed {seed} {what}" for seed, what in arm.troubles.items())


def _write(out: Path, tasks: Sequence[Task], arms: Sequence[AskedArm]) -> None:
    """A line of JSON for every arm, run, task and item; the file appears whole."""
    lines = [
        strict_json(_line(task, number, item, arm.name, seed, run))
        for arm in arms
        for seed, run in arm.runs.items()
        for number, task in enumerate(tasks)
        for item in range(len(task.items))
    ]
    try:
        write_atomic(out, "".join(f"{line}\n" for line in lines), guard=lambda: _check_free(out))
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror}") from error


def _line(task: Task, number: int, item: int, arm: str, seed: int, run: Asked) -> dict[str, Any]:
    answers = run.answers[number]
    line: dict[str, Any] = {
        "task": task.name, "digest": task.digest, "item": item, "place": task.items[item].name,
        "arm": arm, "seed": seed, "run": str(run.folder.path), "key": run.folder.key,
        "step": run.step, "answer": task.items[item].answer,
    }  # fmt: skip
    one = answers.items[item]
    if one is None:
        return {**line, "left_out": answers.left_out[item]}
    return {
        **line, "log_probabilities": one.log_probabilities, "tokens": one.tokens,
        "bytes": [len(choice.encode()) for choice in task.items[item].choices],
        "greedy": one.greedy, **{str(name): value for name, value in one.measures.items()},
    }  # fmt: skip
