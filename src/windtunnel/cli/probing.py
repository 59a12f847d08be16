"""``windtunnel probe``: plan, say what it will take, train, score, report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from windtunnel.cli.comparing import load_run_files
from windtunnel.cli.conducting import conduct_verb
from windtunnel.cli.corpora import prepare_with_progress
from windtunnel.cli.options import note
from windtunnel.cli.tracking import check_trackers
from windtunnel.errors import UsageError
from windtunnel.report.page import write_page
from windtunnel.report.probe_page import render_probe
from windtunnel.report.probe_table import probe_view
from windtunnel.study.engines import open_engine
from windtunnel.study.folder import StudyFolder
from windtunnel.study.ground import local_ground
from windtunnel.study.probe_tasks import losses_of, named_tasks
from windtunnel.study.probes import ProbeRecipe, Probing

PAGE = "report.html"


@dataclass(frozen=True)
class Request:
    """What the user asked ``probe`` for."""

    files: tuple[Path, ...]
    edits: tuple[str, ...]
    tasks: str | None
    difficulty: Any
    seeds: int
    lrs: str
    steps: int
    batch_size: int
    text: bool
    losses: Path | None
    out: Path
    runs: Path
    workers: int | None
    engine: str
    dry_run: bool
    track: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """How it was asked."""
        parts = ["windtunnel probe", *map(str, self.files)]
        parts += [f"--set {edit}" for edit in self.edits]
        parts += [f"--tasks {self.tasks}"] if self.tasks else []
        parts += [f"--difficulty {self.difficulty}", f"--seeds {self.seeds}", f"--lrs {self.lrs}"]
        parts += [f"--steps {self.steps}", f"--batch-size {self.batch_size}"]
        parts += [] if self.text else ["--no-text"]
        parts += [f"--losses {self.losses}"] if self.losses else []
        return " ".join([*parts, f"--out {self.out}"])


def probe_verb(request: Request) -> dict[str, Any]:
    """Does all of it; the matrix as plain JSON (the plan's first round, for a dry run)."""
    check_trackers(request.track)
    tasks = named_tasks(request.tasks, request.difficulty)
    recipe = ProbeRecipe(
        steps=request.steps, batch_size=request.batch_size, lrs=_rates(request.lrs),
        seeds=tuple(range(request.seeds)),
    )  # fmt: skip
    known = _known_losses(request.losses)
    loaded = load_run_files(request.files, request.edits)
    text = request.text and known is None
    for data in {run.config.data for run in loaded} if text else ():
        prepare_with_progress(data)
    inquiry = Probing(
        loaded, tasks, recipe, ground=local_ground(measure=False), text=text, losses=known
    )
    if request.dry_run:
        first = inquiry.next([], StudyFolder(request.out).recall_round)
        assert first is not None, "tuning comes first"
        for line in inquiry.outlook():
            note(line)
        return first.to_dict()
    with open_engine(request.engine) as engine:
        conduct_verb(
            inquiry,
            request.out,
            runs=request.runs,
            workers=request.workers,
            engine=engine,
            outlook=inquiry.outlook,
            track=request.track,
        )
    result = report_probe(request.out, command=request.command)
    assert result is not None, "the study has just been written"
    return result


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--lrs: {text!r} is no list of numbers such as 1e-3,3e-3") from None


def _known_losses(study: Path | None) -> dict[str, dict[str, Any]] | None:
    if study is None:
        return None
    results = StudyFolder(study).read_results()
    if results is None:
        raise UsageError(f"--losses {study}: holds no study that has ended")
    return losses_of(results)


def report_probe(study: Path, *, command: str = "") -> dict[str, Any] | None:
    """Writes the report of a probe into its folder; its results. None where the folder holds
    something else, or a study that has not ended."""
    result = StudyFolder(study).read_results()
    if result is None or result.get("kind") != "probe":
        return None
    page = study / PAGE
    write_page(page, render_probe(result, command=command or f"windtunnel report {study}"))
    note(f"report: {page}")
    return result


def print_probe(result: Mapping[str, Any]) -> None:
    """The matrix, for the terminal."""
    Console().print(probe_view(result))
