"""``windtunnel ladder``: sizes and budgets, what they will cost, runs, laws, claims, report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from windtunnel.cli.comparing import load_run_files, told
from windtunnel.cli.conducting import conduct_verb
from windtunnel.cli.corpora import prepare_with_progress
from windtunnel.cli.options import note
from windtunnel.cli.tracking import check_trackers
from windtunnel.errors import UsageError
from windtunnel.report.ladder import ladder_view, plan_lines
from windtunnel.report.ladder_page import render_ladder
from windtunnel.report.page import write_page
from windtunnel.runs import RunStore
from windtunnel.study.engines import open_engine
from windtunnel.study.folder import StudyFolder
from windtunnel.study.ground import local_ground
from windtunnel.study.ladder.amounts import parse_budgets, parse_sizes, parse_target
from windtunnel.study.ladder.inquiry import LadderInquiry, described, predicted_seconds
from windtunnel.study.ladder.recipe import parse_lr_rule
from windtunnel.study.ladder.rules import parse_count, parse_rule
from windtunnel.study.ladder.rungs import LadderRequest, make_ladder
from windtunnel.study.plan import Plan
from windtunnel.study.planning import MAX_SEEDS

PAGE = "report.html"


@dataclass(frozen=True)
class Request:
    """What the user asked ``ladder`` for."""

    files: tuple[Path, ...]
    edits: tuple[str, ...]
    sizes: str
    budgets: str
    rule: str
    count: str
    lr_rule: str
    seeds: int
    at: str
    backtest: bool | None
    out: Path
    runs: Path
    workers: int | None
    engine: str
    dry_run: bool
    track: tuple[str, ...] = ()


def ladder_verb(request: Request) -> dict[str, Any]:
    """Does all of it; the answer as plain JSON (the plan, for a dry run)."""
    check_trackers(request.track)
    asked = _asked(request)
    loaded = load_run_files(request.files, request.edits)
    for data in {run.config.data for run in loaded}:
        prepare_with_progress(data)
    with open_engine(request.engine) as engine:
        ground = told(local_ground())
        ladder = make_ladder(loaded, asked, ground)
        inquiry = LadderInquiry(ladder, ground, RunStore(request.runs))
        folder = StudyFolder(request.out)
        folder.holds(inquiry.digest)
        tree = {"title": inquiry.question, **described(ladder)}

        def outlook(first: Plan) -> list[str]:
            lines = plan_lines(tree, predicted_seconds(ladder, first))
            return [*lines, *(f"  note: {text}" for text in first.notes)]

        if request.dry_run:
            first = inquiry.next([], folder.recall_round)
            assert first is not None, "trunks come first"
            for line in outlook(first):
                note(line)
            seconds = predicted_seconds(ladder, first)
            return {**tree, "seconds": seconds, "notes": list(first.notes)}
        answer = conduct_verb(
            inquiry, request.out, runs=request.runs, workers=request.workers, engine=engine,
            outlook=outlook, track=request.track,
        )  # fmt: skip
    result = answer.to_dict()
    page = write_ladder_page(request.out, result, _command(request))
    note(f"report: {page}")
    return result


def _asked(request: Request) -> LadderRequest:
    """The request, checked; needs no data."""
    if not 1 <= request.seeds <= MAX_SEEDS:
        raise UsageError(f"--seeds must be between 1 and {MAX_SEEDS}, not {request.seeds}")
    return LadderRequest(
        sizes=parse_sizes(request.sizes),
        budgets=parse_budgets(request.budgets),
        seeds=tuple(range(request.seeds)),
        rule=parse_rule(request.rule),
        count=parse_count(request.count),
        lr_rule=parse_lr_rule(request.lr_rule),
        target=parse_target(request.at),
        backtest=request.backtest,
    )


def write_ladder_page(out: Path, result: Mapping[str, Any], command: str) -> Path:
    """Writes ``report.html`` into the study's folder; its path."""
    page = out / PAGE
    write_page(page, render_ladder(result, command=command))
    return page


def _command(request: Request) -> str:
    parts = ["windtunnel ladder", *map(str, request.files)]
    parts += [f"--set {edit}" for edit in request.edits]
    parts += [f"--sizes {request.sizes}", f"--budgets {request.budgets}", f"--rule {request.rule}"]
    parts += [f"--count {request.count}", f"--lr-rule {request.lr_rule}"]
    parts += [f"--seeds {request.seeds}", f"--at {request.at}"]
    if request.backtest is not None:
        parts.append("--backtest" if request.backtest else "--no-backtest")
    return " ".join([*parts, f"--out {request.out}"])


def print_ladder(result: Mapping[str, Any]) -> None:
    """The tables and the conclusion, for the terminal."""
    Console().print(ladder_view(result))
