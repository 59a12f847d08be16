"""A run that begins with a file of weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from windtunnel.arch import Architecture
from windtunnel.errors import RunError, UsageError
from windtunnel.train.loop import TrainState
from windtunnel.train.objectives.make import build_model
from windtunnel.train.origin_config import OriginConfig
from windtunnel.train.restore import Beginning, kept_tensors, restore_weights
from windtunnel.train.run_config import RunConfig, objective_config
from windtunnel.train.tensors import read_shapes

FACTS = "windtunnel"
"""The entry of a file's metadata that says, as JSON, how it was made: ``name`` and what else."""
_SHOWN = 5


@dataclass(frozen=True)
class FileOrigin:
    """A file of weights, opened."""

    config: OriginConfig
    """With its digest and an absolute path."""
    facts: Mapping[str, Any]
    """What the file says of itself."""
    step: int = 0

    @property
    def path(self) -> Path:
        assert self.config.weights is not None
        return Path(self.config.weights)


def with_file(config: RunConfig, path: Path, *, lenient: bool = False) -> RunConfig:
    """The run, begun with a file of weights."""
    return config.replace(origin=OriginConfig(weights=str(path), lenient=lenient))


def open_file_origin(config: OriginConfig) -> FileOrigin:
    """Reads the file.

    Raises:
        RunError: there is no such file, it holds no tensors, or other ones than are asked for.
    """
    assert config.weights is not None
    path = Path(config.weights).absolute()
    try:
        key = hashlib.sha256(path.read_bytes()).hexdigest()
        read_shapes(path)
        facts = _facts_in(path)
    except OSError as error:
        raise RunError(f"origin.weights: {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise RunError(f"origin.weights: {path}: is no safetensors file ({error})") from error
    if config.key not in (None, key):
        raise RunError(
            f"origin.weights: {path} has changed: its SHA-256 begins with {key[:10]}, not with "
            f"{str(config.key)[:10]}"
        )
    return FileOrigin(config.replace(weights=str(path), key=key), facts)


def _facts_in(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(FACTS, "{}")
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def model_shapes(config: RunConfig, architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors that a run's checkpoint keeps, by name; nothing is allocated."""
    model = build_model(objective_config(config), architecture, device="meta")
    tensors: Mapping[str, Tensor] = kept_tensors(model)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_file_origin(origin: FileOrigin, config: RunConfig, architecture: Architecture) -> None:
    """Says before anything is written what does not fit.

    Raises:
        UsageError: a tensor is missing, unknown or of another shape (allowed where
            ``origin.lenient``), or none fits.
    """
    here, there = model_shapes(config, architecture), read_shapes(origin.path)
    missing = sorted(here.keys() - there.keys())
    unknown = sorted(there.keys() - here.keys())
    wrong = sorted(name for name in here.keys() & there.keys() if here[name] != there[name])
    if len(missing) + len(wrong) == len(here):
        raise UsageError(f"{origin.path}: none of its tensors is one of {architecture.name}")
    if origin.config.lenient or not (missing or unknown or wrong):
        return
    sizes = [f"{name} is {there[name]} in place of {here[name]}" for name in wrong]
    parts = [
        *([f"{_some(missing)} missing"] if missing else []),
        *([f"{_some(unknown)} not in the model"] if unknown else []),
        *([_some(sizes)] if wrong else []),
    ]
    raise UsageError(
        f"{origin.path}: does not fit {architecture.name}: {'; '.join(parts)}; origin.lenient: "
        "true takes the weights that fit by name and shape"
    )


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def file_beginning(origin: FileOrigin) -> Beginning:
    """How a run begins with a file."""

    def begin(state: TrainState, tell: Callable[[str], None]) -> None:
        found: list[str] = []
        restore_weights([origin.path], state, found.append, lenient=origin.config.lenient)
        if found:
            told = [text.removeprefix(f"{origin.path}: ") for text in found]
            tell(f"{origin.path}: not all of the weights fit: {_some(told)}")

    return Beginning(0, _lineage(origin), begin)


def _lineage(origin: FileOrigin) -> dict[str, Any]:
    """What the run's record says of the file."""
    facts = dict(origin.facts)
    parent = {
        "key": origin.config.key,
        "name": str(facts.pop("name", origin.path.stem)),
        "step": 0,
        "carry": "weights",
        "file": str(origin.path),
        **({"made": facts} if facts else {}),
    }
    return {**parent, "edits": [], "ancestors": [parent]}
