"""Speeds of many runs, most of them alike: each shape is measured once, and of many shapes some."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from windtunnel.arch import resolve
from windtunnel.study.matching import Speeds
from windtunnel.train.objectives.row_cost import row_cost
from windtunnel.train.run_config import RunConfig, counted_vocab_size

MOST_MEASURED = 8
"""Shapes of one kind that are measured; the speed of others is read off between them."""
_RATES = ("lr", "weight_decay", "betas", "eps", "seed", "schedule", "steps")


def sparing(
    measure: Speeds, *, most: int = MOST_MEASURED, told: Callable[[str], None] = lambda text: None
) -> Speeds:
    """``measure``, asked only once for runs that differ in rates alone, and of each kind of run
    (the same mixers and feed-forwards) for at most ``most`` shapes, spread evenly over their FLOPs.
    Seconds a step of the others are interpolated: straight lines of log seconds over log FLOPs.

    Args:
        told: hears how many were interpolated.
    """

    def speeds(configs: Sequence[RunConfig]) -> list[float]:
        shapes: dict[str, RunConfig] = {}
        keys = [_shape(config) for config in configs]
        for key, config in zip(keys, configs, strict=True):
            shapes.setdefault(key, config)
        flops = {key: _step_flops(config) for key, config in shapes.items()}
        kinds: dict[str, list[str]] = {}
        for key, config in shapes.items():
            kinds.setdefault(_kind(config), []).append(key)
        chosen = [key for kind in kinds.values() for key in _spread(kind, flops, most)]
        found = measure([shapes[key] for key in chosen])
        known = dict(zip(chosen, map(float, found), strict=True))
        if len(known) < len(shapes):
            told(
                f"speeds: {len(known)} of {len(shapes)} shapes measured, the others read off "
                "between them by their FLOPs"
            )
        for kind in kinds.values():
            known |= _between({key: known[key] for key in kind if key in known}, kind, flops)
        return [known[key] for key in keys]

    return speeds


def _shape(config: RunConfig) -> str:
    """What decides the speed, as JSON: no rates, and any dropout is like any other."""
    tree = config.model_dump(mode="json")
    tree["arch"]["name"] = ""
    for name in _RATES:
        tree["train"].pop(name, None)
    return json.dumps(_with_one_dropout(tree), sort_keys=True)


def _with_one_dropout(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {
            key: bool(value)
            if key == "dropout" and isinstance(value, float | int)
            else _with_one_dropout(value)
            for key, value in node.items()
        }
    return [_with_one_dropout(item) for item in node] if isinstance(node, list) else node


def _kind(config: RunConfig) -> str:
    """Runs of one kind take about as long for equal FLOPs."""
    parts = sorted(
        {(layer.mixer.type, layer.mlp.type) for _, layers in config.arch.stacks for layer in layers}
    )
    train = config.train
    return json.dumps([parts, str(train.precision), train.threads, str(train.device)])


def _step_flops(config: RunConfig) -> float:
    train = config.train
    architecture = resolve(config.arch, counted_vocab_size(config))
    row = row_cost(train.objective, architecture, train.seq_len, config.data.kind)
    return float(row.train_flops_per_token) * train.batch_size * train.seq_len


def _spread(keys: Sequence[str], flops: Mapping[str, float], most: int) -> list[str]:
    """At most that many, the cheapest and the dearest among them."""
    ordered = sorted(keys, key=flops.__getitem__)
    if len(ordered) <= most:
        return ordered
    places = {round(i * (len(ordered) - 1) / (most - 1)) for i in range(most)}
    return [ordered[place] for place in sorted(places)]


def _between(
    known: Mapping[str, float], keys: Sequence[str], flops: Mapping[str, float]
) -> dict[str, float]:
    """The speeds of those that are not known."""
    import numpy as np

    ordered = sorted(known, key=flops.__getitem__)
    places = [math.log(flops[key]) for key in ordered]
    seconds = [-math.log(known[key]) for key in ordered]
    return {
        key: math.exp(-float(np.interp(math.log(flops[key]), places, seconds)))
        for key in keys
        if key not in known
    }
