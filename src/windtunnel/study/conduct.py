"""A study from its plan to its verdicts: runs made or found, executed, judged, written down."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from windtunnel.errors import UsageError
from windtunnel.runs import RunFolder, RunStore
from windtunnel.study.arms import read_tree
from windtunnel.study.compare import Verdicts, judge
from windtunnel.study.engines import Engine
from windtunnel.study.execute import Job, Outcome, Progress, execute
from windtunnel.study.finding import CreateRun, finished_keys, found_or_made
from windtunnel.study.folder import StudyFolder
from windtunnel.study.machine import shares_gpus
from windtunnel.study.plan import Arm, Plan, PlannedRun
from windtunnel.study.sources import Sources
from windtunnel.study.standing import standing_of
from windtunnel.study.starts import recall_start
from windtunnel.study.time_left import Took

if TYPE_CHECKING:
    from windtunnel.data.config import DataConfig
    from windtunnel.data.dataset import Dataset

Command = Callable[[Job], Sequence[str]]


@dataclass(frozen=True)
class Conducted:
    """A study that has ended: what it says, and where each run lies."""

    verdicts: Verdicts
    runs: Mapping[str, RunFolder]
    """By the run's key."""
    outcomes: Mapping[str, Outcome]

    def to_dict(self) -> dict[str, Any]:
        """The tree of ``study.json``: the verdicts, the runs' folders (absolute, so that they are
        found from wherever it is read) and what failed."""
        return {
            **self.verdicts.to_dict(),
            "runs": {key: str(run.path.resolve()) for key, run in self.runs.items()},
            "failures": {
                key: self.outcomes[key].reason  # in the order of the plan, not of their ends
                for key in self.runs
                if self.outcomes[key].status == "failed"
            },
        }


def worker_command(job: Job) -> list[str]:
    """This package's own worker; under torchrun where several processes train the run."""
    launcher = [sys.executable]
    if job.processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += [f"--nproc-per-node={job.processes}"]
    command = [*launcher, "-m", "windtunnel.study.worker", str(job.run.path)]
    if job.until is not None:
        command += ["--until", str(job.until)]
    if job.limit_bytes is not None:
        command += ["--memory", str(job.limit_bytes)]
    return command


class RunMaker:
    """Makes the folders of planned runs, as the trainer wants them."""

    def __init__(self) -> None:
        self._opened: dict[DataConfig, Dataset] = {}

    def __call__(self, run: PlannedRun, store: RunStore) -> RunFolder:
        """A new folder in the store.

        Raises:
            UsageError: the folder exists already, or the run's key is not what was planned: the
                code or the data have changed since.
        """
        from windtunnel.data.dataset import prepare
        from windtunnel.train.launch import create_run_folder, ready_run

        loaded = read_tree(run.config)
        data = loaded.config.data
        if data not in self._opened:
            self._opened[data] = prepare(data)
        ready = ready_run(loaded, dataset=self._opened[data])
        if ready.key != run.key:
            raise UsageError(
                f"{run.arm}, seed {run.seed}: the code or the data have changed since the plan "
                "was made; start a new study in another folder"
            )
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", run.arm).strip("-.")[:60] or "run"
        return create_run_folder(ready, store.root / f"{name}-s{run.seed}-{run.key[:10]}")


def conduct(
    plan: Plan,
    folder: StudyFolder,
    *,
    store: RunStore | None = None,
    workers: int,
    engine: Engine | None = None,
    memory_bytes: int | None = None,
    create: CreateRun | None = None,
    command: Command = worker_command,
    on_progress: Callable[[Progress], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
    beside: Callable[[Verdicts], Mapping[str, Any]] = lambda verdicts: {},
) -> Conducted:
    """Runs what is left of a study, judges it and writes ``study.json``.

    Args:
        store: where runs are looked for and made; the study's own when left out. Runs of the same
            key are never trained twice in one store.
        create: makes the folder of a planned run; a ``RunMaker`` when left out.
        command: the worker of a run.
        beside: what else is made of the verdicts; written with them, so that a study that was
            killed has all of its results or none.
        workers, engine, memory_bytes, on_progress, on_notice: see ``execute``.

    Raises:
        UsageError: the folder is in use for something else; nothing was changed. Or a plugin or
            this package has changed while runs were left to start.
        StudyError: another process is running this study, it was interrupted, or one of its runs
            is there and cannot be read.
    """
    folder.recall(plan.digest)  # refuses a folder of another kind before anything is made
    if store is not None and not set(plan.keys) <= finished_keys(plan, store):
        store.ensure_writable()
    with folder.claim(plan):
        store = store or RunStore(folder.runs)
        ended = run_plan(
            plan,
            store,
            folder,
            workers=workers,
            engine=engine,
            memory_bytes=memory_bytes,
            create=create or RunMaker(),
            command=command,
            on_progress=on_progress,
            on_notice=on_notice,
        )
        conducted = Conducted(judge(plan, ended.records), ended.runs, ended.outcomes)
        folder.write_results({**conducted.to_dict(), **beside(conducted.verdicts)})
        store.refer(folder.path, plan.keys, ended=True)
    return conducted


@dataclass(frozen=True)
class Trained:
    """A plan whose runs have ended; all by the run's key."""

    runs: Mapping[str, RunFolder]
    outcomes: Mapping[str, Outcome]
    records: Mapping[str, Mapping[str, Any]]
    """Of a run that failed: its status and the reason."""


def run_plan(
    plan: Plan,
    store: RunStore,
    folder: StudyFolder,
    *,
    workers: int,
    engine: Engine | None = None,
    memory_bytes: int | None = None,
    create: CreateRun,
    command: Command = worker_command,
    on_progress: Callable[[Progress], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
    sources: Sources | None = None,
    took: Took | None = None,
) -> Trained:
    """Finds or makes the plan's runs in the store, and brings all of them to their end.

    Args:
        folder: of the study, for what workers print and for runs that the store has trained too far
            (see ``found_or_made``). The others as for ``conduct``.
        sources: as they were when the study began: now, when left out.
        took: see ``execute``.

    Raises:
        UsageError: a plugin or this package has changed before a worker started; those under way
            have saved.
    """
    sources = sources or Sources()
    sources.watch(plan)
    recall_start(arm.start_seconds for arm in plan.arms)
    store.refer(folder.path, plan.keys)
    apart = RunStore(folder.runs)
    runs: dict[str, RunFolder] = {}
    outcomes: dict[str, Outcome] = {}
    left = plan.keys
    while left:  # again for those that another study has meanwhile trained too far
        found = {key: found_or_made(plan.run(key), store, apart, create, on_notice) for key in left}
        outcomes |= execute(
            [_job(plan, key, run) for key, run in found.items()],
            command=command,
            workers=workers,
            log=folder.log,
            engine=engine,
            memory_bytes=memory_bytes,
            on_progress=on_progress,
            on_notice=on_notice,
            before_start=sources.check,
            took=took,
        )
        runs |= found
        left = tuple(key for key in left if outcomes[key].status == "passed")
    records = {key: _record(runs[key], outcomes[key], plan.run(key).until) for key in plan.keys}
    return Trained(runs, outcomes, records)


def _job(plan: Plan, key: str, run: RunFolder) -> Job:
    planned = plan.run(key)
    arm = plan.arm(planned.arm)
    train = arm.config["train"]
    return Job(
        run=run,
        name=f"{arm.name} seed {planned.seed}",
        steps=min(arm.steps, planned.until or arm.steps),
        until=planned.until,
        limit_bytes=planned.limit_bytes,
        first_step=arm.first_step,
        **_work(arm),
        threads=train["threads"],
        processes=arm.processes,
        gpus=arm.processes if shares_gpus(train["device"]) else 0,
        memory_bytes=arm.memory_bytes * arm.processes,
    )


def _work(arm: Arm) -> dict[str, float]:
    """What a run takes: seconds where its speed was measured (a recurrence takes longer for the
    same FLOPs), with its evaluations; else FLOPs."""
    seconds = arm.run_seconds
    if seconds is None:
        return {"work_per_step": arm.flops / arm.steps}
    steps = max(1, arm.steps - arm.first_step)
    return {
        "start_seconds": arm.start_seconds,
        "work_per_step": (seconds - arm.start_seconds) / steps,
    }


def _record(run: RunFolder, outcome: Outcome, until: int | None = None) -> Mapping[str, Any]:
    """What a run's part of a study came to; of one that has paused, its evaluation there."""
    if outcome.status == "failed":
        return {"status": "failed", "reason": outcome.reason}
    found = standing_of(run, until)
    assert found is not None, "a run that has ended stands where it was to come to"
    return found.values
