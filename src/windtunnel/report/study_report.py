"""What a report of a study is made from: plain values only, nothing is read or measured here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from windtunnel.runs.events import Event

AXES = ("step", "tokens", "flops", "seconds")
"""What a loss curve can be drawn over."""

Point = Mapping[str, Any]
Difference = tuple[str, Any, Any]
"""A dotted path, the value in the first architecture, the value in this one."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What one run measured on its way.

    `evals` are points with step, tokens, flops, seconds, loss (nats per token) and bits_per_byte
    on the validation split; `train` are points with the same x values and the training loss.
    """

    evals: Sequence[Point]
    train: Sequence[Point] = ()


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """One study, ready to be drawn. Orders are kept: the first architecture is the reference.

    `verdicts` is the JSON tree of the study's verdicts; `configs`, `diffs` and `curves` are by
    the architecture's name; `samples` is prompt -> architecture -> text; `environment` is any
    tree of plain values; `command` is how the study was started.
    """

    title: str
    verdicts: Mapping[str, Any]
    curves: Mapping[str, Mapping[int, Curve]] = field(default_factory=dict)
    configs: Mapping[str, str] = field(default_factory=dict)
    diffs: Mapping[str, Sequence[Difference]] = field(default_factory=dict)
    samples: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    ablation: Mapping[str, Any] | None = None
    """The effects and interactions of an ablation."""
    tasks: Mapping[str, Any] | None = None
    """What the runs answered to tasks."""


def curve_from_events(events: Iterable[Event]) -> Curve:
    """The curve in a run's events.

    >>> event = Event("eval", 0.0, {"step": 0, "loss": 5.5})
    >>> curve_from_events([event, Event("end", 1.0)]).evals
    ({'step': 0, 'loss': 5.5},)
    """
    points: dict[str, list[Point]] = {"eval": [], "step": []}
    for event in events:
        if event.kind in points:
            points[event.kind].append(event.values)
    return Curve(evals=tuple(points["eval"]), train=tuple(points["step"]))
