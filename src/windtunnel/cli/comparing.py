"""``windtunnel compare``: plan, say what it will cost, execute, judge, report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from windtunnel.cli.conducting import conduct_once, conduct_verb, matching_only
from windtunnel.cli.corpora import prepare_with_progress
from windtunnel.cli.options import note
from windtunnel.cli.reporting import report_study
from windtunnel.cli.tracking import check_trackers
from windtunnel.config import suggestion
from windtunnel.config.document import EDIT
from windtunnel.errors import ConfigError, Problem, UsageError
from windtunnel.report.effects_table import effects_view
from windtunnel.report.ladder import ladder_view
from windtunnel.report.search_view import search_view
from windtunnel.report.task_table import task_view
from windtunnel.report.terminal import verdict_view
from windtunnel.report.tuning import tuning_table
from windtunnel.report.units import bytes_text, count_text, duration_text
from windtunnel.study.arms import Ground
from windtunnel.study.budget import Match
from windtunnel.study.comparison import Comparing, Confirmation, FixedSeeds
from windtunnel.study.engines import Engine, open_engine
from windtunnel.study.families import preset_set
from windtunnel.study.folder import StudyFolder
from windtunnel.study.ground import local_ground
from windtunnel.study.pairing import Pairing
from windtunnel.study.plan import Estimate, Plan
from windtunnel.study.planning import check_question, plan_compare
from windtunnel.study.tune import Tuning, parse_knob
from windtunnel.study.until import UntilDecided, planned_looks
from windtunnel.train.run_config import LoadedRun, RunConfig, load_run

SEEDS = 3


@dataclass(frozen=True)
class Request:
    """What the user asked ``compare`` for."""

    files: tuple[Path, ...]
    edits: tuple[str, ...]
    seeds: int | None
    match: str
    budget: float | None
    out: Path
    runs: Path
    workers: int | None
    dry_run: bool
    engine: str = "local"
    preset_set: tuple[str, ...] = ()
    size: str = "default"
    tune: tuple[str, ...] = ()
    margin: float | None = None
    pairing: str = "design"
    until_decided: bool = False
    first_seeds: int | None = None
    max_seeds: int | None = None
    track: tuple[str, ...] = ()
    tasks: tuple[Path, ...] = ()
    measure: str | None = None


def compare_verb(request: Request) -> dict[str, Any]:
    """Does all of it; the verdicts as plain JSON (the plan, for a dry run)."""
    if request.match not in get_args(Match):
        raise UsageError(f"--match: {request.match!r}{suggestion(request.match, get_args(Match))}")
    if request.files and request.preset_set:
        raise UsageError("--preset-set brings its own runs: no FILE beside it")
    check_trackers(request.track)
    named = len(request.files) or len(request.preset_set)
    confirmation = _confirmation(request)
    check_question(named, seeds=request.seeds or SEEDS, budget=request.budget)
    tuning = Tuning(tuple(map(parse_knob, request.tune))) if request.tune else None
    if request.preset_set:
        loaded = preset_set(request.preset_set, request.size, request.edits)
    else:
        loaded = load_run_files(request.files, request.edits)
    check_tasks(request.tasks, request.measure, [run.config for run in loaded])
    for data in {run.config.data for run in loaded}:
        prepare_with_progress(data)
    with open_engine(request.engine) as engine:
        plain = request.margin is None and request.pairing == "design"
        if tuning is not None or request.until_decided or not plain:
            return _in_rounds(request, loaded, confirmation, tuning, engine)
        return _at_once(request, loaded, engine)


def _at_once(request: Request, loaded: Sequence[LoadedRun], engine: Engine) -> dict[str, Any]:
    """A comparison of one round."""
    match: Any = request.match
    plan = plan_compare(
        loaded,
        seeds=request.seeds or SEEDS,
        match=match,
        budget=request.budget,
        ground=told(local_ground()),
        recall=StudyFolder(request.out).recall,
    )
    conducted = conduct_once(
        plan,
        request.out,
        runs=request.runs,
        workers=request.workers,
        engine=engine,
        lines=lambda expected: plan_lines(plan, expected),
        dry_run=request.dry_run,
        track=request.track,
    )
    if conducted is None:
        return plan.to_dict()
    return _reported(request)


def _confirmation(request: Request) -> Confirmation:
    """With which seeds arms are compared.

    Raises:
        UsageError: options that do not go together, or unfit values.
    """
    margin = request.margin
    check_margin(margin)
    pairings = get_args(Pairing)
    if request.pairing not in pairings:
        raise UsageError(f"--pairing: {request.pairing!r}{suggestion(request.pairing, pairings)}")
    given = {"--first-seeds": request.first_seeds, "--max-seeds": request.max_seeds}
    if not request.until_decided:
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"{name} needs --until-decided")
        chosen: Any = request.pairing
        return FixedSeeds(tuple(range(request.seeds or SEEDS)), margin, chosen)
    if request.pairing != "design":
        raise UsageError(
            "--pairing measured is honest for a single look: not beside --until-decided, where "
            "runs of one seed are pairs"
        )
    looks = planned_looks(seeds=request.seeds, first=request.first_seeds, last=request.max_seeds)
    return UntilDecided(looks, margin)


def check_margin(margin: float | None) -> None:
    """Raises UsageError for a margin that is none."""
    if margin is not None and not 0 < margin < float("inf"):
        raise UsageError(f"--margin must be above 0, not {margin:g}")


def _in_rounds(
    request: Request,
    loaded: Sequence[LoadedRun],
    confirmation: Confirmation,
    tuning: Tuning | None,
    engine: Engine,
) -> dict[str, Any]:
    """A comparison of several rounds."""
    match: Any = request.match
    inquiry = Comparing(
        loaded,
        match=match,
        budget=request.budget,
        ground=told(local_ground()),
        confirmation=confirmation,
        tuning=tuning,
    )
    if request.dry_run:
        return matching_only(inquiry, request.out, outlook=inquiry.outlook)
    conduct_verb(
        inquiry,
        request.out,
        runs=request.runs,
        workers=request.workers,
        engine=engine,
        outlook=inquiry.outlook,
        track=request.track,
    )
    return _reported(request)


def check_tasks(tasks: Sequence[Path], measure: str | None, configs: Sequence[RunConfig]) -> None:
    """Says which tasks will be asked, or raises a UsageError, before anything is trained."""
    if measure is not None and not tasks:
        raise UsageError("--measure is of tasks: it needs --task FILE")
    if tasks:
        from windtunnel.cli.evaluating import planned_tasks  # torch, which `report` does not need

        note(planned_tasks(tasks, measure, configs))


def ask_tasks(out: Path, tasks: Sequence[Path], measure: str | None, store: Path) -> None:
    """Asks the runs behind a study's verdicts, and keeps the answers in its folder. What cannot be
    asked ends no study: it is told."""
    if not tasks:
        return
    from windtunnel.cli.evaluating import Request as Asking
    from windtunnel.cli.evaluating import evaluate_verb

    try:
        evaluate_verb(
            Asking(runs=(str(out),), tasks=tuple(tasks), store=store, measure=measure, keep=True)
        )
    except UsageError as error:
        note(f"warning: the tasks are not asked: {error}")


def _reported(request: Request) -> dict[str, Any]:
    ask_tasks(request.out, request.tasks, request.measure, request.runs)
    result, page = report_study(request.out, command=_command(request))
    note(f"report: {page}")
    return result


def told(ground: Ground) -> Ground:
    """The same, but it says so before it measures: a plan that is recalled measures nothing."""
    measure = ground.speeds
    if measure is None:
        return ground

    def speeds(configs: Sequence[RunConfig]) -> Sequence[float]:
        note("measuring speeds …")
        return measure(configs)

    return replace(ground, speeds=speeds)


def load_run_files(files: Sequence[Path], edits: Sequence[str]) -> list[LoadedRun]:
    """Every file, or the mistakes of all of them at once. One of ``--set`` is told once, with the
    files that it concerns where these are not all."""
    loaded: list[LoadedRun] = []
    concerned: dict[Problem, list[str]] = {}
    for file in files:
        try:
            loaded.append(load_run(file, edits))
        except ConfigError as error:
            for problem in error.problems:
                concerned.setdefault(problem, []).append(str(file))
    if concerned:
        raise ConfigError([_once(problem, of, files) for problem, of in concerned.items()])
    return loaded


def _once(problem: Problem, of: Sequence[str], files: Sequence[Path]) -> Problem:
    if problem.place != EDIT or set(of) == {str(file) for file in files}:
        return problem
    return replace(problem, message=f"{problem.message} (in {', '.join(dict.fromkeys(of))})")


def plan_lines(plan: Plan, expected: Estimate) -> list[str]:
    """What will be done, how long it takes and what it needs; said before anything starts."""
    seconds = expected.seconds
    time = "an unknown time" if seconds is None else f"about {duration_text(seconds)}"
    reused = f" ({expected.reused} of them finished already)" if expected.reused else ""
    lines = [
        f"plan: {plan.question}; {plan.match} matched at {count_text(plan.budget)}",
        f"  {expected.runs} runs{reused}, {expected.workers} at a time with {expected.threads} "
        f"thread(s) each: {time}, {bytes_text(expected.memory_bytes)} of memory a worker",
    ]
    for arm in plan.arms:
        seconds = arm.run_seconds
        each = "" if seconds is None else f", about {duration_text(seconds)} a run"
        lines.append(
            f"  {arm.name}: {count_text(arm.params)} parameters, {arm.steps:,} steps, "
            f"{count_text(arm.tokens)} tokens{each}"
        )
    return lines + [f"  note: {text}" for text in plan.notes]


def _command(request: Request) -> str:
    parts = ["windtunnel", "compare", *map(str, request.files)]
    if request.preset_set:
        parts += ["--preset-set", ",".join(request.preset_set), "--size", request.size]
    parts += asked_often("--set", request.edits)
    parts += [*_seed_options(request), "--match", request.match]
    parts += asked_often("--tune", request.tune)
    parts += task_options(request.tasks, request.measure)
    parts += ["--pairing", request.pairing] if request.pairing != "design" else []
    if request.budget is not None:
        parts += ["--budget", f"{request.budget:.15g}"]
    return shlex.join([*parts, "--out", str(request.out)])


def task_options(tasks: Sequence[Path], measure: str | None) -> list[str]:
    """As they were given."""
    parts = asked_often("--task", list(map(str, tasks)))
    return parts if measure is None else [*parts, "--measure", measure]


def asked_often(option: str, values: Sequence[str]) -> list[str]:
    """An option that was given several times."""
    return [word for value in values for word in (option, value)]


def _seed_options(request: Request) -> list[str]:
    if not request.until_decided:
        parts = ["--seeds", str(request.seeds or SEEDS)]
    else:
        given = {"--first-seeds": request.first_seeds, "--max-seeds": request.max_seeds}
        parts = ["--until-decided"]
        for name, value in given.items():
            parts += [name, str(value)] if value is not None else []
    return parts if request.margin is None else [*parts, "--margin", f"{request.margin:.15g}"]


def print_verdicts(result: dict[str, Any]) -> None:
    """The tables of verdicts, of effects or of a search, and the conclusion, for the terminal."""
    console = Console()
    if result.get("kind") == "ladder":
        console.print(ladder_view(result))
    elif "search" in result:
        console.print(search_view(result))
    elif "ablation" in result:
        console.print(effects_view(result["ablation"]))
    else:
        console.print(verdict_view(result))
    if (table := tuning_table(result)) is not None:
        console.print(table)
    if "tasks" in result:
        console.print(task_view(result["tasks"]))
