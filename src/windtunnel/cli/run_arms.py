"""Runs by arm, from what a user names: runs, each an arm of its own, and folders of studies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from windtunnel.cli.reporting import run_of_study
from windtunnel.errors import StudyError, UsageError
from windtunnel.runs import RunFolder, RunStore
from windtunnel.runs.folder import IDENTITY
from windtunnel.study.folder import PLAN, QUESTION, RESULTS, StudyFolder
from windtunnel.study.sequential import Looks


@dataclass(frozen=True)
class RunArm:
    """The runs of one arm."""

    name: str
    place: Path
    """The run's folder, or the study's."""
    runs: Mapping[int, RunFolder]
    """By seed: those whose training has not gone wrong."""
    troubles: Mapping[int, str] = field(default_factory=dict)
    """By seed, what became of the others: ``diverged`` or ``failed``."""
    looks: Looks | None = None
    """Of its study, where seeds were added until the loss was decided."""


def named_arms(names: Sequence[str], store: RunStore) -> list[RunArm]:
    """The arms that are named, in their order; of a study, those that its verdicts are about, with
    the runs behind the verdicts (none that tuned or measured something).

    Raises:
        UsageError: no such run, one that is named twice, or a study that has not ended or whose
            verdicts are not about arms.
        StudyError: a study's file is damaged.
    """
    found, places = list[RunArm](), list[Path]()
    for name in names:
        arms = _arms_of_study(Path(name)) if is_study(Path(name)) else [_alone(store.select(name))]
        places.append(arms[0].place.resolve())
        if places[-1] in places[:-1]:
            raise UsageError(f"{name}: is named twice")
        found += arms
    return _with_distinct_names(found)


def is_study(path: Path) -> bool:
    """Whether it is the folder of a study."""
    return not (path / IDENTITY).is_file() and any(
        (path / name).is_file() for name in (PLAN, QUESTION, RESULTS)
    )


def _alone(run: RunFolder) -> RunArm:
    from windtunnel.train.run_config import load_run

    seed = load_run(run.config_path).config.train.seed
    if run.status == "diverged":
        return RunArm(run.path.name, run.path, {}, {seed: "diverged"})
    return RunArm(run.path.name, run.path, {seed: run})


def _arms_of_study(path: Path) -> list[RunArm]:
    folder = StudyFolder(path)
    results = folder.read_results()
    if results is None:
        raise UsageError(f"{path}: holds a study that has not ended")
    plan = folder.read_plan()
    if plan is None:
        kind = results.get("kind") or folder.read_question().get("kind") or "this kind"
        raise UsageError(
            f"{path}: a study of the kind {kind} has no arms to choose runs of; name runs of it"
        )
    where, failures = results.get("runs"), results.get("failures")
    if not isinstance(where, dict) or not isinstance(failures, dict):
        raise StudyError(f"{path / RESULTS}: is damaged: it does not tell where its runs are")
    arms = []
    for arm in plan.arms:
        runs, troubles = dict[int, RunFolder](), dict[int, str]()
        for seed, key in plan.runs_of(arm.name).items():
            if key not in where:
                raise StudyError(f"{path / RESULTS}: is damaged: it has no run of {arm.name}")
            run = run_of_study(key, Path(where[key]), folder)
            if key in failures or run.status != "finished":
                troubles[seed] = "diverged" if run.status == "diverged" else "failed"
            else:
                runs[seed] = run
        arms.append(RunArm(arm.name, path, runs, troubles, _looks(results)))
    return arms


def _looks(results: Mapping[str, Any]) -> Looks | None:
    """Of a study's results, those that were planned."""
    found = results.get("looks")
    return None if found is None else Looks(int(found[0]), int(found[1]))


def _with_distinct_names(arms: Sequence[RunArm]) -> list[RunArm]:
    """Arms of the same name are told apart by where they lie."""
    count = Counter(arm.name for arm in arms)
    found = []
    for arm in arms:
        if count[arm.name] == 1:
            found.append(arm)
        elif arm.place.name == arm.name:
            found.append(replace(arm, name=str(arm.place)))
        else:
            found.append(replace(arm, name=f"{arm.place}: {arm.name}"))
    return found
