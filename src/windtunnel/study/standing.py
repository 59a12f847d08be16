"""How a run stands that a study wants trained to a step, or to its end: read from its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from windtunnel.runs import Event, RunFolder
from windtunnel.study.jobs import Status


@dataclass(frozen=True)
class Standing:
    """A run in which nothing is left to be trained."""

    status: Status
    values: Mapping[str, Any]
    """Its record; of one that has paused, the evaluation at that step in place of the last one."""


def standing_of(run: RunFolder, until: int | None) -> Standing | None:
    """How a run stands; None where it is still to be trained.

    Evaluations are no part of a run's key, so a run that another study has trained may lack the one
    at a step, or have it and be finished: what it came to later says nothing of that step.

    Args:
        until: the step up to which it is asked for; None: to its end.

    Returns:
        finished, diverged: it ended, at that step or before. paused: it was evaluated there, and
        no resume takes that back. passed: it is past that step without an evaluation there, and
        gets none any more.

    Raises:
        RunError: its files are damaged.
    """
    record = run.read_record()
    if until is not None:
        events = run.read_events()
        reached = _reached(events) if record is None else int(record.get("steps") or 0)
        found = [e.values for e in events if e.kind == "eval" and e.step == until]
        if found and (record is not None or reached >= until):
            return Standing("paused", {"status": "paused", "final": found[-1], "steps": until})
        if reached > until:
            text = f"it is past step {until:,}, and was not evaluated there"
            return Standing("passed", {"status": "passed", "reason": text})
    return None if record is None else Standing(record["status"], record)


def _reached(events: Sequence[Event]) -> int:
    """The step of the newest checkpoint: a resume takes back what follows it."""
    saved = (e.step for e in events if e.kind in ("checkpoint", "resume"))
    return max((step for step in saved if step is not None), default=0)
