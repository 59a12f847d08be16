"""A study of several rounds: each is a plan, and the next may depend on what the ones before found.

See ``docs/design/studies.md``. A study that was stopped is asked again from its beginning: what has
been trained is found by key, so the same decisions come out, and it goes on where it stood.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from windtunnel.errors import UsageError
from windtunnel.runs import RunFolder, RunStore
from windtunnel.study.compare import final_value
from windtunnel.study.conduct import Command, RunMaker, run_plan, worker_command
from windtunnel.study.engines import Engine
from windtunnel.study.execute import Outcome, Progress
from windtunnel.study.finding import CreateRun, finished_keys
from windtunnel.study.folder import StudyFolder
from windtunnel.study.plan import Estimate, Plan
from windtunnel.study.planning import estimate
from windtunnel.study.sources import Sources
from windtunnel.study.time_left import Took

Recall = Callable[[str], Plan | None]
"""The plan of a digest, from an earlier attempt at the same question."""


@dataclass(frozen=True)
class Round:
    """A plan, and the records of its runs by key (status and reason alone where one failed)."""

    plan: Plan
    records: Mapping[str, Mapping[str, Any]]

    def losses(self, arm: str) -> list[float | None]:
        """The arm's final validation losses in the order of the seeds, in nats a token; None for a
        run without a finite one."""
        records = [self.records[key] for key in self.plan.keys_of(arm)]
        return [final_value(record, "loss") for record in records]


class Inquiry(Protocol):
    """What a study asks, round by round. Both functions depend on the question and on the records
    alone: no clock, no number of workers, no order of completion."""

    kind: str
    question: str
    """In words."""
    digest: str
    """Of all that is asked, on which code and data."""

    def next(self, past: Sequence[Round], recall: Recall) -> Plan | None:
        """The next round; None when there is nothing more to learn."""

    def result(self, past: Sequence[Round]) -> dict[str, Any]:
        """The answer, as plain JSON. ``verdict_rounds`` says which rounds verdicts are about."""


@dataclass(frozen=True)
class Answer:
    """A study of several rounds that has ended."""

    result: Mapping[str, Any]
    rounds: Sequence[Round]
    runs: Mapping[str, RunFolder]
    """By the run's key."""
    outcomes: Mapping[str, Outcome]

    def to_dict(self) -> dict[str, Any]:
        """The tree of ``study.json``."""
        return {
            **self.result,
            "rounds": [
                {
                    "kind": round.plan.kind,
                    "question": round.plan.question,
                    "keys": list(round.plan.keys),
                }
                for round in self.rounds
            ],
            "runs": {key: str(run.path.resolve()) for key, run in self.runs.items()},
            "failures": {
                key: self.outcomes[key].reason  # in the order of the plans, not of their ends
                for key in self.runs
                if self.outcomes[key].status == "failed"
            },
        }


def conduct_inquiry(
    inquiry: Inquiry,
    folder: StudyFolder,
    *,
    store: RunStore | None = None,
    cores: int,
    gpus: int | None = None,
    workers: int | None = None,
    engine: Engine | None = None,
    memory_bytes: int | None = None,
    create: CreateRun | None = None,
    command: Command = worker_command,
    on_plan: Callable[[Plan, Estimate], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> Answer:
    """Trains round after round until the inquiry asks for nothing more; writes ``study.json``.

    Args:
        cores: processor cores that may be used.
        gpus: CUDA devices that workers are counted by; None: they are not.
        workers: processes side by side; as many as cores, memory and GPUs allow when left out.
        on_plan: told of each round before it begins.
        store, engine, memory_bytes, create, command, on_progress, on_notice: see ``conduct``.

    Raises:
        UsageError: the folder is in use for something else; nothing was changed. Or a plugin or
            this package has changed while runs were left to start.
        StudyError: another process is running this study, it was interrupted, or one of its runs
            is there and cannot be read.
    """
    folder.holds(inquiry.digest)  # refuses a folder of another kind before anything is made
    if store is not None:
        store.ensure_writable()
    with folder.claim_question(inquiry.kind, inquiry.question, inquiry.digest):
        store = store or RunStore(folder.runs)
        create = create or RunMaker()
        past: list[Round] = []
        runs: dict[str, RunFolder] = {}
        outcomes: dict[str, Outcome] = {}
        sources, took = Sources(), Took()
        while (plan := _next(inquiry, past, folder, sources)) is not None:
            done = finished_keys(plan, store, RunStore(folder.runs))
            if not done.issuperset(plan.keys):
                sources.watch(plan)
                sources.check()  # before the round is written: it may rest on what has changed
            folder.write_round(len(past), plan)
            expected = estimate(
                plan, done, cores=cores, memory_bytes=memory_bytes, gpus=gpus, workers=workers
            )
            if on_plan is not None:
                on_plan(plan, expected)
            ended = run_plan(
                plan,
                store,
                folder,
                workers=expected.workers,
                engine=engine,
                memory_bytes=memory_bytes,
                create=create,
                command=command,
                on_progress=on_progress,
                on_notice=on_notice,
                sources=sources,
                took=took,
            )
            runs.update(ended.runs)
            outcomes.update(ended.outcomes)
            past.append(Round(plan, ended.records))
            store.refer(folder.path, list(runs))
        answer = Answer(inquiry.result(past), past, runs, outcomes)
        folder.write_results(answer.to_dict())
        store.refer(folder.path, list(runs), ended=True)
    return answer


def _next(
    inquiry: Inquiry, past: Sequence[Round], folder: StudyFolder, sources: Sources
) -> Plan | None:
    """The next round. A plugin that has changed cannot be loaded again: that is told as such."""
    try:
        return inquiry.next(past, folder.recall_round)
    except UsageError:
        sources.check()
        raise
