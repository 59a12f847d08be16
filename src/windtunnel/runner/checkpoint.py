"""What a runner saves: a folder of safetensors and JSON, never a pickle.

    model.safetensors       weights and buffers by name
    optimizer.safetensors   <value>/<parameter>; not in a production save
    state.json              everything else

It is written aside, flushed and exchanged with the one before, which a save that is interrupted
leaves as it was; see :mod:`windtunnel.runner.folder`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from windtunnel.errors import CheckpointError, RunError, UsageError
from windtunnel.runner.folder import replaced, standing
from windtunnel.runner.optimizer_state import optimizer_state
from windtunnel.runs import strict_json, write_atomic
from windtunnel.train.tensors import read_tensors, write_tensors

FORMAT = 1
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_PLAIN = ("model_args", "optimizer_args", "current_step", "stats", "step_stats")


def write_checkpoint(
    location: Path,
    model: nn.Module,
    state: Mapping[str, Any],
    optimizer: Optimizer | None,
    scheduler: Any,
) -> None:
    """Writes a checkpoint, over an earlier one if there is one.

    Raises:
        UsageError: something else stands there.
        RunError: it cannot be written; what was there is as it was.
    """
    place = location.resolve()
    if place.exists() and not (place / STATE).is_file():
        raise UsageError(f"{location}: exists and is no checkpoint; nothing was changed")
    try:
        with replaced(place) as draft:
            _write(draft, model, state, optimizer, scheduler)
    except OSError as error:
        raise RunError(f"{location}: cannot be written: {error.strerror}") from error
    except (TypeError, ValueError) as error:
        raise RunError(f"{location}: something in the state is no plain value: {error}") from error


def _write(
    folder: Path,
    model: nn.Module,
    state: Mapping[str, Any],
    optimizer: Optimizer | None,
    scheduler: Any,
) -> None:
    files = {MODEL: write_tensors(folder / MODEL, model.state_dict())}
    document: dict[str, Any] = {"format": FORMAT, **{name: state[name] for name in _PLAIN}}
    if optimizer is not None:
        tensors, document["optimizer"] = optimizer_state(model, optimizer)
        files[OPTIMIZER] = write_tensors(folder / OPTIMIZER, tensors)
        document["scheduler"] = None if scheduler is None else scheduler.state_dict()
    document["files"] = files  # with their checksums
    write_atomic(folder / STATE, strict_json(document, indent=2) + "\n")


def read_checkpoint(location: Path | str) -> dict[str, Any]:
    """All of a checkpoint, by the names of the guide: ``model`` and ``optimizer`` hold tensors by
    name (``optimizer`` is None in a production save), the rest plain values.

    Where a save was killed while it replaced the checkpoint, this is the one before.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = standing(Path(location))
    try:
        document = json.loads((path / STATE).read_bytes())
        if document["format"] != FORMAT:
            raise CheckpointError(f"{path}: is of format {document['format']}, not {FORMAT}")
        for name, expected in document.get("files", {}).items():  # older ones have no checksums
            with (path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    raise CheckpointError(f"{path}: is damaged: {name} has another checksum")
        found = {name: document[name] for name in _PLAIN}
        found["model"] = read_tensors(path / MODEL)
        found["optimizer"] = None
        if "optimizer" in document:
            tensors = read_tensors(path / OPTIMIZER)
            scheduler = document["scheduler"]
            found["optimizer"] = {**document["optimizer"], "tensors": tensors}
            found["optimizer"]["scheduler"] = scheduler
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: is damaged") from error
    # safetensors raises its own kind for a file that is cut or changed
    except Exception as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: is damaged: {error}") from error
    return found
