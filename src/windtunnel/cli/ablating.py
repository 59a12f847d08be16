"""``windtunnel ablate``: a design, its plan and cost, its runs, its effects, its report."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from windtunnel.cli.comparing import (
    SEEDS,
    ask_tasks,
    asked_often,
    check_margin,
    check_tasks,
    plan_lines,
    task_options,
    told,
)
from windtunnel.cli.conducting import conduct_once, conduct_verb, matching_only
from windtunnel.cli.corpora import prepare_with_progress
from windtunnel.cli.options import note
from windtunnel.cli.reporting import report_study
from windtunnel.cli.tracking import check_trackers
from windtunnel.config import load_document, suggestion
from windtunnel.errors import UsageError
from windtunnel.report.units import count_text
from windtunnel.runs import write_atomic
from windtunnel.study.ablate import Ablating, ablation, flat_results, plan_ablation
from windtunnel.study.arms import Ground
from windtunnel.study.budget import Match
from windtunnel.study.comparison import FixedSeeds
from windtunnel.study.design import Design, Kind, Source, make_design
from windtunnel.study.engines import Engine, open_engine
from windtunnel.study.families import family_grid, family_run
from windtunnel.study.folder import StudyFolder
from windtunnel.study.ground import local_ground
from windtunnel.study.plan import Estimate, Plan
from windtunnel.study.planning import check_question
from windtunnel.study.sequential import Looks
from windtunnel.study.speeds import sparing
from windtunnel.study.tune import Tuning, parse_knob
from windtunnel.study.until import UntilEffectsDecided, planned_looks
from windtunnel.study.vary import Factor, parse_factors
from windtunnel.study.verdicts import UNITS

MOST_ARMS_TOLD = 12
"""Arms whose size is told one by one before a study starts."""


@dataclass(frozen=True)
class Request:
    """What the user asked ``ablate`` for."""

    file: Path | None
    family: str | None
    size: str
    vary: tuple[str, ...]
    design: str
    skip_invalid: bool
    edits: tuple[str, ...]
    seeds: int | None
    match: str
    budget: float | None
    out: Path
    runs: Path
    workers: int | None
    dry_run: bool
    flat_json: Path | None
    engine: str = "local"
    tune: tuple[str, ...] = ()
    until_decided: bool = False
    first_seeds: int | None = None
    max_seeds: int | None = None
    track: tuple[str, ...] = ()
    margin: float | None = None
    tasks: tuple[Path, ...] = ()
    measure: str | None = None


def ablate_verb(request: Request) -> dict[str, Any]:
    """Does all of it; the study as plain JSON (the plan, for a dry run)."""
    if request.match not in get_args(Match):
        raise UsageError(f"--match: {request.match!r}{suggestion(request.match, get_args(Match))}")
    check_trackers(request.track)
    check_margin(request.margin)
    looks = _looks(request)
    check_question(2, seeds=request.seeds or SEEDS, budget=request.budget)
    check_writable(request.flat_json)
    tuning = Tuning(tuple(map(parse_knob, request.tune))) if request.tune else None
    source, factors = what_varies(request)
    design = make_design(
        source, factors, kind_of(request.design), skip_invalid=request.skip_invalid
    )
    check_tasks(request.tasks, request.measure, [run.config for run in design.runs])
    for data in {run.config.data for run in design.runs}:
        prepare_with_progress(data)
    with open_engine(request.engine) as engine:
        if tuning is not None or looks is not None or request.margin is not None:
            return _in_rounds(request, design, looks, tuning, engine)
        return _at_once(request, design, engine)


def _looks(request: Request) -> Looks | None:
    """The planned looks; None where the number of seeds is fixed.

    Raises:
        UsageError: options that do not go together, or unfit values.
    """
    first, last = request.first_seeds, request.max_seeds
    if request.until_decided:
        return planned_looks(seeds=request.seeds, first=first, last=last)
    for name, value in (("--first-seeds", first), ("--max-seeds", last)):
        if value is not None:
            raise UsageError(f"{name} needs --until-decided")
    return None


def _at_once(request: Request, design: Design, engine: Engine) -> dict[str, Any]:
    match: Any = request.match
    plan = plan_ablation(
        design,
        seeds=request.seeds or SEEDS,
        match=match,
        budget=request.budget,
        ground=_ground(request.match),
        recall=StudyFolder(request.out).recall,
    )
    conducted = conduct_once(
        plan,
        request.out,
        runs=request.runs,
        workers=request.workers,
        engine=engine,
        lines=lambda expected: ablation_lines(design, plan, expected),
        dry_run=request.dry_run,
        beside=lambda verdicts: {"ablation": ablation(design, verdicts)},
        track=request.track,
    )
    if conducted is None:
        return plan.to_dict()
    return _reported(request, flat_results(design, conducted.verdicts))


def _in_rounds(
    request: Request, design: Design, looks: Looks | None, tuning: Tuning | None, engine: Engine
) -> dict[str, Any]:
    """An ablation whose every point is tuned first, whose seeds are added until decided, or that
    has a margin."""
    match: Any = request.match
    fixed = FixedSeeds(tuple(range(request.seeds or SEEDS)), request.margin)
    inquiry = Ablating(
        design,
        match=match,
        budget=request.budget,
        ground=_ground(request.match),
        confirmation=fixed if looks is None else UntilEffectsDecided(design, looks, request.margin),
        tuning=tuning,
    )

    def outlook(matched: Plan) -> list[str]:
        points = design_lines(design, matched.arms[0].name)
        lines = [*inquiry.outlook(matched), *_margin_lines(request.margin, matched.metric)]
        return [*points, *(f"  {line}" for line in lines)]

    if request.dry_run:
        return matching_only(inquiry, request.out, outlook=outlook)
    answer = conduct_verb(
        inquiry,
        request.out,
        runs=request.runs,
        workers=request.workers,
        engine=engine,
        outlook=outlook,
        track=request.track,
    )
    return _reported(request, flat_results(design, inquiry.verdicts(answer.rounds)))


def _margin_lines(margin: float | None, metric: str) -> list[str]:
    if margin is None:
        return []
    within = f"±{margin:g} {UNITS[metric]}"
    return [f"margin: an effect whose interval lies within {within} is equivalent, an interaction "
            "additive"]  # fmt: skip


def _reported(request: Request, rows: list[dict[str, Any]]) -> dict[str, Any]:
    if request.flat_json is not None:
        text = json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomic(request.flat_json, text + "\n")
        note(f"results: {request.flat_json}")
    ask_tasks(request.out, request.tasks, request.measure, request.runs)
    result, page = report_study(request.out, command=_command(request))
    note(f"report: {page}")
    return result


def what_varies(request: Request) -> tuple[Source, tuple[Factor, ...]]:
    """The run that is varied, and its factors: the file's with ``--vary``, or a family's grid."""
    if request.family is None:
        if request.file is None:
            raise UsageError("give a run's FILE with --vary, or --family")
        return (
            Source(load_document(request.file), request.edits, request.file.parent),
            parse_factors(request.vary),
        )
    if request.file is not None or request.vary:
        raise UsageError("--family brings its own run and its own grid: no FILE and no --vary")
    factors = family_grid(request.family)
    return Source(family_run(request.family, request.size), request.edits), factors


def kind_of(name: str) -> Kind:
    """The design of that name."""
    kinds: dict[str, Kind] = {kind.replace("_", "-"): kind for kind in get_args(Kind)}
    if name not in kinds:
        raise UsageError(f"--design: {name!r}{suggestion(name, kinds)}")
    return kinds[name]


def check_writable(path: Path | None) -> None:
    """Raises UsageError where results could not be written at the end of everything."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        why = "is a folder" if path.is_dir() else "its folder does not exist"
        raise UsageError(f"--flat-json {path}: {why}")


def _ground(match: str) -> Ground:
    """This machine; shapes are measured sparingly, unless seconds are what is matched."""
    ground = told(local_ground())
    if ground.speeds is None:
        return ground
    most = 10**9 if match == "seconds" else 8
    return replace(ground, speeds=sparing(ground.speeds, most=most, told=note))


def ablation_lines(design: Design, plan: Plan, expected: Estimate) -> list[str]:
    """What will be done and how long it takes; arms one by one where they are few."""
    lines = plan_lines(plan, expected)
    arms, notes = lines[2 : 2 + len(plan.arms)], lines[2 + len(plan.arms) :]
    head = [lines[0], *design_lines(design, plan.arms[0].name), lines[1]]
    if len(arms) > MOST_ARMS_TOLD:
        params = [arm.params for arm in plan.arms]
        tokens = sorted({arm.tokens for arm in plan.arms})
        each = " to ".join(dict.fromkeys(map(count_text, (tokens[0], tokens[-1]))))
        span = f"{count_text(min(params))} to {count_text(max(params))}"
        arms = [f"  {span} parameters, {each} tokens a run"]
        hidden = max(0, len(notes) - MOST_ARMS_TOLD)
        notes = notes[:MOST_ARMS_TOLD] + ([f"  and {hidden} more notes"] if hidden else [])
    return [*head, *arms, *notes]


def design_lines(design: Design, reference: str) -> list[str]:
    """What is varied, how many points that makes, and which are left out: the most first."""
    total = len(design.points) + len(design.skipped)
    reasons = Counter(skipped.reason for skipped in design.skipped)
    left_out = f", {len(design.skipped)} left out" if design.skipped else ""
    return [
        *(
            f"  {factor.name}: {', '.join(level.label for level in factor.levels)}"
            for factor in design.factors
        ),
        f"  {total} points{left_out}; the reference is {reference}",
        *(f"  left out {count}: {reason}" for reason, count in reasons.most_common()),
    ]


def _command(request: Request) -> str:
    parts = ["windtunnel", "ablate", *([str(request.file)] if request.file else [])]
    if request.family:
        parts += ["--family", request.family, "--size", request.size]
    parts += [*asked_often("--vary", request.vary), "--design", request.design]
    parts += asked_often("--set", request.edits)
    parts += ["--skip-invalid"] if request.skip_invalid else []
    parts += [*_seed_options(request), "--match", request.match]
    parts += asked_often("--tune", request.tune)
    parts += task_options(request.tasks, request.measure)
    if request.budget is not None:
        parts += ["--budget", f"{request.budget:.15g}"]
    return shlex.join([*parts, "--out", str(request.out)])


def _seed_options(request: Request) -> list[str]:
    margin = [] if request.margin is None else ["--margin", f"{request.margin:.15g}"]
    if not request.until_decided:
        return ["--seeds", str(request.seeds or SEEDS), *margin]
    given = {"--first-seeds": request.first_seeds, "--max-seeds": request.max_seeds}
    told = [word for name, n in given.items() if n is not None for word in (name, str(n))]
    return ["--until-decided", *told, *margin]
