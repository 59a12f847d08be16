"""What makes two runs the same run. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.errors import UsageError
from windtunnel.runs.difference import Resized, changes, listed
from windtunnel.train.config import TrainConfig
from windtunnel.train.origin_config import OriginConfig

WITHOUT_EFFECT = frozenset(
    {
        "eval_every",
        "checkpoint_every",
        "keep_checkpoints",
        "keep_every",
        "checkpoint_at",
        "log_every",
        "device",
        "watch_every",
        "distributed",
        "processes",
        "scores",
        "score_samples",
    }
)
"""Settings that change no weight and no measured loss (the number of processes changes the order of
sums, no more); the device's type stands by itself."""

_NAMED = 12
"""Differences that a message names at most."""
ENVIRONMENT = ("code", "torch", "device")
"""Parts that are not the config's: on a resume their change is a warning, not a refusal."""


def run_identity(
    *,
    arch: Mapping[str, Any],
    data: Any,
    train: TrainConfig,
    code: str,
    torch_version: str,
    device_type: str,
    origin: OriginConfig | None = None,
) -> dict[str, Any]:
    """All that decides a run's result; ``run_key`` of it is the run's key.

    Args:
        arch: the resolved architecture as plain values, without its name.
        data: what identifies tokens and split, such as the data set's fingerprint.
        train: the recipe; intervals of logging and checkpoints do not count.
        code: ``code_digest()``.
        torch_version: as installed.
        device_type: cpu, cuda or mps, resolved.
        origin: what it begins with, with key and step; where it lies does not count.
    """
    recipe = train.model_dump(mode="json", exclude=set(WITHOUT_EFFECT))
    return {
        "arch": dict(arch),
        "data": data,
        "train": recipe,
        "code": code,
        "torch": torch_version,
        "device": device_type,
        **({} if origin is None else {"origin": _origin_identity(origin)}),
    }


def _origin_identity(origin: OriginConfig) -> dict[str, Any]:
    return origin.model_dump(mode="json", exclude={"run", "weights"})


def check_same_run(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Warnings for a resume: what has changed around the run since it began.

    Raises:
        UsageError: what decides the weights has changed in the config; such keys are named.
    """
    old, new = _flat(before), _flat(now)
    refused, warnings = [], []
    for path in sorted(old.keys() | new.keys()):
        was, is_now = old.get(path, "nothing"), new.get(path, "nothing")
        if was == is_now:
            continue
        if path.split(".")[0] in ENVIRONMENT:
            warnings.append(
                f"{path} was {_short(was)} when the run began, now it is {_short(is_now)}: "
                "the weights may differ in their last digits from an uninterrupted run"
            )
        else:
            refused.append(f"{path} was {was!r}, now it is {is_now!r}")
    if refused:
        raise UsageError(
            f"cannot resume with another config: {_differing(before, now, refused)}; set it back, "
            "or start a new run"
        )
    return warnings


def _differing(before: Mapping[str, Any], now: Mapping[str, Any], leaves: Sequence[str]) -> str:
    """What of the config differs: by leaf, unless lists of different length would be many."""
    found = [c for c in changes(before, now) if c.path.split(".")[0] not in ENVIRONMENT]
    if not any(isinstance(change, Resized) for change in found):
        more = f" (and {len(leaves) - _NAMED} more)" if len(leaves) > _NAMED else ""
        return "; ".join(leaves[:_NAMED]) + more
    return listed(found, _NAMED)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        items = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {path: value}
    flat: dict[str, Any] = {}
    for name, item in items:
        flat |= _flat(item, name)
    return flat


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
