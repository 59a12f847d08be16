"""Studies on the terminal: conducted, and told of as they go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from windtunnel.cli.options import note
from windtunnel.cli.tracking import tracked_study
from windtunnel.report.progress import ProgressDisplay, open_progress
from windtunnel.report.units import count_text, duration_text
from windtunnel.runs import RunStore
from windtunnel.study.compare import Verdicts
from windtunnel.study.conduct import Conducted, conduct
from windtunnel.study.engines import Engine
from windtunnel.study.execute import Progress
from windtunnel.study.finding import finished_keys
from windtunnel.study.folder import StudyFolder
from windtunnel.study.plan import Estimate, Plan
from windtunnel.study.planning import estimate
from windtunnel.study.rounds import Answer, Inquiry, conduct_inquiry


def conduct_once(
    plan: Plan,
    out: Path,
    *,
    runs: Path,
    workers: int | None,
    engine: Engine,
    lines: Callable[[Estimate], list[str]],
    dry_run: bool,
    beside: Callable[[Verdicts], Mapping[str, Any]] = lambda verdicts: {},
    track: Sequence[str] = (),
) -> Conducted | None:
    """Says what a plan will do, and conducts it; None where it was only to be said.

    Args:
        lines: what is said of it beforehand.
        beside: what else stands in ``study.json``; see ``conduct``.
        out, runs, workers, engine, track: as for ``conduct_verb``.
    """
    store, room = RunStore(runs), engine.capacity()
    expected = estimate(
        plan,
        finished_keys(plan, store),
        cores=room.cores,
        memory_bytes=room.memory_bytes,
        gpus=room.gpus,
        workers=workers,
    )
    for line in lines(expected):
        note(line)
    if dry_run:
        return None
    with open_progress() as display, tracked_study(out, track, runs, display.say) as begin:
        follow = follower(display)

        def on_progress(progress: Progress) -> None:
            begin()
            follow(progress)

        return conduct(
            plan,
            StudyFolder(out),
            store=store,
            workers=expected.workers,
            engine=engine,
            memory_bytes=room.memory_bytes,
            on_progress=on_progress,
            on_notice=display.say,
            beside=beside,
        )


def matching_only(
    inquiry: Inquiry, out: Path, *, outlook: Callable[[Plan], list[str]]
) -> dict[str, Any]:
    """Says what a study that begins with matching would do, and trains nothing; its matching."""
    matched = inquiry.next([], StudyFolder(out).recall_round)
    assert matched is not None, "matching comes first"
    for line in [*round_lines(matched), *outlook(matched)]:
        note(line)
    return matched.to_dict()


def conduct_verb(
    inquiry: Inquiry,
    out: Path,
    *,
    runs: Path,
    workers: int | None,
    engine: Engine,
    outlook: Callable[[Plan], list[str]] = lambda first: [],
    track: Sequence[str] = (),
) -> Answer:
    """Conducts a study of several rounds, and tells of each on the terminal.

    Args:
        out: the study's folder.
        runs: the store in which runs are looked for and made.
        engine: where workers run.
        outlook: what is to come after the first round, in words.
        track: names of trackers that are told of every run.
    """
    room = engine.capacity()
    with open_progress() as display, tracked_study(out, track, runs, display.say) as begin:
        teller = _Teller(display, outlook)

        def on_progress(progress: Progress) -> None:
            begin()
            teller.follow(progress)

        return conduct_inquiry(
            inquiry,
            StudyFolder(out),
            store=RunStore(runs),
            cores=room.cores,
            gpus=room.gpus,
            workers=workers,
            engine=engine,
            memory_bytes=room.memory_bytes,
            on_plan=teller.begin,
            on_progress=on_progress,
            on_notice=display.say,
        )


class _Teller:
    """What is said of rounds: their plans, and one bar each."""

    def __init__(self, display: ProgressDisplay, outlook: Callable[[Plan], list[str]]) -> None:
        self._display, self._outlook, self._rounds = display, outlook, 0
        self.follow = follower(display)

    def begin(self, plan: Plan, expected: Estimate) -> None:
        lines = round_lines(plan, expected)
        if self._rounds == 0:
            lines += self._outlook(plan)
        for line in lines:
            self._display.say(line)
        self._rounds += 1
        self.follow = follower(self._display, f"{plan.kind} {self._rounds}")


def round_lines(plan: Plan, expected: Estimate | None = None) -> list[str]:
    """What a round will do: how many runs; of one that only matches arms, what each is given."""
    if expected is not None and plan.runs:
        seconds = expected.seconds
        time = "" if seconds is None else f", about {duration_text(seconds)}"
        reused = f" ({expected.reused} of them finished already)" if expected.reused else ""
        return [
            f"{plan.kind}: {plan.question}: {len(plan.arms)} arms, {expected.runs} runs{reused}, "
            f"{expected.workers} at a time{time}"
        ]
    return [
        f"{plan.kind}: {plan.question}; {plan.match} matched at {count_text(plan.budget)}",
        *(
            f"  {arm.name}: {count_text(arm.params)} parameters, {arm.steps:,} steps, "
            f"{count_text(arm.tokens)} tokens"
            for arm in plan.arms
        ),
        *(f"  note: {text}" for text in plan.notes),
    ]


def follower(display: ProgressDisplay, name: str = "study") -> Callable[[Progress], None]:
    """Shows a study's progress as one bar, with the time left as the study reckons it."""
    started = False

    def follow(progress: Progress) -> None:
        nonlocal started
        if not progress.runs:
            return
        done = round(progress.fraction * progress.runs, 1)
        if not started:
            display.start(name, "runs", progress.runs, done=done, knows_left=True)
            started = True
        text = ", ".join(running.name for running in progress.running)
        if progress.runs_done == progress.runs:
            display.finish(name, f"{progress.runs} runs have ended")
            started = False  # what another study trained too far is trained again: a bar of its own
        else:
            display.update(name, done, note=text, left=progress.seconds_left)

    return follow
