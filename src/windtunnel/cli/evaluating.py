"""``windtunnel evaluate``: runs answer tasks, and their answers are compared item by item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from windtunnel.cli.options import note
from windtunnel.cli.run_arms import RunArm, is_study, named_arms
from windtunnel.cli.task_figures import AskedArm, AskedRun, deciding_measures, task_trees
from windtunnel.config import suggestion
from windtunnel.data.tasks import Task, read_task
from windtunnel.errors import NotFiniteError, UsageError
from windtunnel.report.progress import open_progress
from windtunnel.report.task_table import task_view
from windtunnel.report.units import amount
from windtunnel.runs import RunFolder, RunStore
from windtunnel.runs.durable import strict_json, write_atomic
from windtunnel.study.folder import StudyFolder
from windtunnel.train.launch import open_trained
from windtunnel.train.loop import resolve_device
from windtunnel.train.run_config import RunConfig, load_run
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


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked ``evaluate`` for."""

    runs: tuple[str, ...]
    tasks: tuple[Path, ...]
    store: Path
    measure: str | None = None
    """That verdicts are about; None: each task's own."""
    device: str = "auto"
    ema: bool = False
    limit: int | None = None
    batch_size: int = 16
    out: Path | None = None
    keep: bool = False
    """Whether the study that is asked keeps what is told in its folder."""


def evaluate_verb(request: Request) -> dict[str, Any]:
    """Asks every run every task; what they say as plain JSON. With ``out`` each answer is written.

    Raises:
        UsageError: a task or a run that is not right, a run that cannot answer, or ``out`` exists.
    """
    if request.out is not None:
        _check_free(request.out)
    if request.keep and (len(request.runs) != 1 or not is_study(Path(request.runs[0]))):
        raise UsageError("--keep is of one study: name its folder, and nothing else")
    measure = _measure(request.measure)
    place = str(resolve_device(request.device, "--device"))
    tasks = _tasks(request.tasks, measure, request.limit)
    named = named_arms(request.runs, RunStore(request.store))
    _check_trained_for(named, tasks)
    arms = _asked(named, tasks, request, place)
    if not any(arm.runs for arm in arms):
        told = "; ".join(f"{arm.name}: {arm.trouble_words}" for arm in arms)
        raise UsageError(f"no run can answer: {told}")
    found = {
        "tasks": task_trees(tasks, arms, measure),
        "arms": [_arm_tree(arm) for arm in arms],
    }
    if request.out is not None:
        _write(request.out, tasks, arms)
    if request.keep:
        StudyFolder(Path(request.runs[0])).write_tasks(found)
    return found


def planned_tasks(paths: Sequence[Path], measure: str | None, configs: Sequence[RunConfig]) -> str:
    """What runs of these configs will be asked, in words.

    Raises:
        UsageError: a task that is not right, or a run that cannot be asked.
    """
    wanted = _measure(measure)
    tasks = _tasks(paths, wanted)
    for config in configs:
        check_trained_for(config, *{task.kind for task in tasks})
    told = ", ".join(
        f"{task.name} ({amount(len(task.items), 'item')}, by {deciding})"
        for task, deciding in zip(tasks, deciding_measures(tasks, wanted), strict=True)
    )
    return f"tasks, asked of every run behind the verdicts: {told}"


def print_answers(found: Mapping[str, Any]) -> None:
    """The table of each task."""
    Console().print(task_view(found))


def _check_free(out: Path) -> None:
    if out.exists():
        raise UsageError(f"--out {out}: already exists; choose another file (nothing was written)")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}")


def _tasks(paths: Sequence[Path], measure: Measure | None, limit: int | None = None) -> list[Task]:
    tasks = _with_distinct_names([read_task(path, limit=limit) for path in paths])
    _check_measure(measure, tasks)
    return tasks


def _measure(name: str | None) -> Measure | None:
    known = {str(measure): measure for measure in BOUNDS}
    if name is not None and name not in known:
        raise UsageError(f"--measure: {name!r}{suggestion(name, known)}")
    return None if name is None else known[name]


def _check_measure(measure: Measure | None, tasks: Sequence[Task]) -> None:
    if measure is None or any(measure in MEASURES[task.kind] for task in tasks):
        return
    had = dict.fromkeys(name for task in tasks for name in MEASURES[task.kind])
    raise UsageError(f"--measure {measure}: no task has it; there are {', '.join(had)}")


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
    known = dict[Path, AskedRun | str]()
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
            display.finish(key, "answered" if isinstance(known[path], AskedRun) else NOT_FINITE)
    found = []
    for arm in arms:
        mine = {seed: known[run.path.resolve()] for seed, run in arm.runs.items()}
        good = {seed: one for seed, one in mine.items() if isinstance(one, AskedRun)}
        bad = {seed: one for seed, one in mine.items() if isinstance(one, str)}
        found.append(AskedArm(arm.name, good, {**arm.troubles, **bad}, arm.looks))
    return found


def _ask(
    run: RunFolder,
    tasks: Sequence[Task],
    request: Request,
    device: str,
    on_done: Callable[[int], None],
) -> AskedRun:
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
    return AskedRun(run, trained.step, answers, config.train.seq_len)


def _tell(on_done: Callable[[int], None], before: int, done: int) -> None:
    on_done(before + done)


def _arm_tree(arm: AskedArm) -> dict[str, Any]:
    return {
        "name": arm.name,
        "runs": [
            {"seed": seed, "path": str(run.folder.path), "key": run.folder.key, "step": run.step}
            for seed, run in arm.runs.items()
        ],
        "troubles": {str(seed): what for seed, what in arm.troubles.items()},
        "looks": None if arm.looks is None else [arm.looks.first, arm.looks.last],
    }


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


def _line(task: Task, number: int, item: int, arm: str, seed: int, run: AskedRun) -> dict[str, Any]:
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
