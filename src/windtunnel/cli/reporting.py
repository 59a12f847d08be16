"""A finished study's one-file report, from its records alone. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from windtunnel.cli.options import note, runs_folder
from windtunnel.config import annotated_yaml
from windtunnel.config.nearest import hint_beside
from windtunnel.errors import RunError, StudyError, UsageError
from windtunnel.report.ladder_page import render_ladder
from windtunnel.report.page import render_search, write_html, write_page
from windtunnel.report.study_report import Curve, StudyReport, curve_from_events
from windtunnel.runs import RunFolder
from windtunnel.runs.folder import IDENTITY
from windtunnel.study.folder import TASKS, StudyFolder
from windtunnel.study.plan import Plan

PAGE = "report.html"


def report_study(path: Path, *, command: str = "") -> tuple[dict[str, Any], Path]:
    """Writes ``report.html`` into a study's folder; its verdicts and the page's path.

    Raises:
        UsageError: there is no such folder, or it holds no study that has ended.
    """
    check_study(path)
    folder = StudyFolder(path)
    plan = folder.read_plan()
    results = folder.read_results()
    if results is not None and "search" in results and "arms" not in results:
        title = str(folder.read_question().get("question", "search"))
        write_page(path / PAGE, render_search(title, results, command))
        return results, path / PAGE
    if results is not None and results.get("kind") == "ladder":
        write_page(
            path / PAGE, render_ladder(results, command=command or f"windtunnel report {path}")
        )
        return results, path / PAGE
    if plan is None or results is None:
        begun = plan is not None or folder.read_question()
        what = "holds a study that has not ended" if begun else "holds no study"
        raise UsageError(f"{path}: {what}")
    runs = {key: run_of_study(key, Path(where), folder) for key, where in results["runs"].items()}
    records = {key: run.read_record() or {} for key, run in runs.items()}
    beside = ("runs", "failures", "ablation")
    verdicts = {name: value for name, value in results.items() if name not in beside}
    report = StudyReport(
        title=plan.question,
        verdicts=verdicts,
        curves={arm.name: _curves(plan, arm.name, runs) for arm in plan.arms},
        configs={arm.name: annotated_yaml(_resolved(plan, arm.name)) for arm in plan.arms},
        diffs={arm.name: arm.diff for arm in plan.arms},
        samples=_samples(plan, records),
        environment=_environment(records),
        command=command or f"windtunnel report {path}",
        ablation=results.get("ablation"),
        tasks=(answers := _answers(folder, results)),
    )
    page = path / PAGE
    write_html(page, report)
    return {**results, **({} if answers is None else {"tasks": answers})}, page


def check_study(path: Path) -> None:
    """Raises UsageError where the path of a study is no folder at all."""
    if path.is_dir():
        return
    if path.exists():
        raise UsageError(f"{path}: is a file; a study's folder is expected, what --out named")
    raise UsageError(f"{path}: no such folder{hint_beside(path, folders=True)}")


def _answers(folder: StudyFolder, results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the runs behind the verdicts answered to tasks; None where none were asked, or others
    than these."""
    found = folder.read_tasks()
    if found is None:
        return None
    try:
        keys = {run["key"] for arm in found["arms"] for run in arm["runs"]}
    except (KeyError, TypeError) as error:
        raise StudyError(f"{folder.path / TASKS}: is damaged") from error
    if not keys <= results["runs"].keys():
        note(f"warning: {folder.path / TASKS}: is of other runs, and is left out; ask them again")
        return None
    return found


def run_of_study(key: str, where: Path, study: StudyFolder) -> RunFolder:
    """A run of a study: where it lay, or, if it was moved since, in the study's own folder or in
    the store.

    Raises:
        RunError: it is in none of them.
    """
    store = runs_folder(None)
    for place in (where, study.runs / where.name, store / where.name):
        if (place / IDENTITY).is_file():
            found = RunFolder.open(place)
            if found.key == key:
                return found
    raise RunError(
        f"{where}: the run is not there, nor in {study.runs}, nor in the store {store}; if its "
        "store was moved, name it by WINDTUNNEL_RUNS"
    )


def _curves(plan: Plan, arm: str, runs: dict[str, RunFolder]) -> dict[int, Curve]:
    curves = {}
    for seed, key in plan.runs_of(arm).items():
        try:
            curves[seed] = curve_from_events(runs[key].read_events())
        except RunError as error:  # the verdicts come from the records, which are whole
            note(f"warning: {error}; the curve of {arm}, seed {seed}, is left out")
    return curves


def _resolved(plan: Plan, arm: str) -> Mapping[str, Any]:
    """What was trained, with every number filled in: the config of the arm's first seed."""
    return plan.run(plan.keys_of(arm)[0]).config


def _samples(plan: Plan, records: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """What each arm's first seed wrote after the same prompts."""
    found: dict[str, dict[str, str]] = {}
    for arm in plan.arms:
        record = records[plan.keys_of(arm.name)[0]]
        for sample in record.get("samples", ()):
            found.setdefault(sample["prompt"], {})[arm.name] = sample["text"]
    return found


def _environment(records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    first = next((record for record in records.values() if record), {})
    kept = ("environment", "git", "code_digest", "data_fingerprint", "device")
    return {name: first[name] for name in kept if name in first}
