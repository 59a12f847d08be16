"""What the numbers of an event are called, in every tracker alike."""

from __future__ import annotations

from collections.abc import Mapping

from windtunnel.runs import Event

GROUPS = {"step": "train", "eval": "eval", "watch": "watch", "nonfinite": "nonfinite"}
"""Kinds of events that hold numbers, and the group that these stand in."""
_RENAMED = {"lr": "learning_rate"}
_AXES = frozenset({"step"})
_TOTALS = frozenset({"tokens", "seconds", "flops"})
"""Of the run so far; they stand with the training's numbers alone."""


def named(event: Event) -> dict[str, float]:
    """The numbers of an event by name: ``train/loss``, ``train/learning_rate``, ``eval/loss``,
    ``eval/perplexity`` and so on; empty for events without any. What is not finite is left out.

    >>> named(Event("step", 0.0, {"step": 3, "loss": 2.5, "lr": 0.1, "skipped": False}))
    {'train/loss': 2.5, 'train/learning_rate': 0.1}
    """
    group = GROUPS.get(event.kind)
    if group is None or event.step is None:
        return {}
    skip = _AXES if event.kind == "step" else _AXES | _TOTALS
    return dict(_flat(event.values, group, skip))


def _flat(values: Mapping[str, object], prefix: str, skip: frozenset[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in values.items():
        if name in skip:
            continue
        path = f"{prefix}/{_RENAMED.get(name, name)}"
        if isinstance(value, Mapping):
            found |= _flat(value, path, frozenset())
        elif isinstance(value, list | tuple):  # of stages, each with its name
            for item in value:
                if isinstance(item, Mapping) and isinstance(item.get("name"), str):
                    found |= _flat(item, f"{path}/{item['name']}", frozenset())
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[path] = float(value)
    return found
