"""What a runner saves: a folder of safetensors and JSON, never a pickle.

    model.safetensors       weights and buffers by name
    optimizer.safetensors   <value>/<parameter>; not in a production save
    state.json              everything else

It is written aside, flushed and renamed: a save that is interrupted leaves the one before.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from windtunnel.errors import CheckpointError, RunError, UsageError
from windtunnel.runs import strict_json, sync_folder, write_atomic
from windtunnel.train.optimizers.together import parts_of
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
    if location.exists() and not (location / STATE).is_file():
        raise UsageError(f"{location}: exists and is no checkpoint; nothing was changed")
    draft = location.with_name(f".{location.name}.{os.getpid()}.tmp")
    old = location.with_name(f".{location.name}.{os.getpid()}.old")
    try:
        draft.mkdir(parents=True)
        write_tensors(draft / MODEL, model.state_dict())
        document: dict[str, Any] = {"format": FORMAT, **{name: state[name] for name in _PLAIN}}
        if optimizer is not None:
            tensors, document["optimizer"] = optimizer_state(model, optimizer)
            write_tensors(draft / OPTIMIZER, tensors)
            document["scheduler"] = None if scheduler is None else scheduler.state_dict()
        write_atomic(draft / STATE, strict_json(document, indent=2) + "\n")
        if location.exists():
            location.rename(old)
        draft.rename(location)
        sync_folder(location.parent)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise RunError(f"{location}: cannot be written: {error.strerror}") from error
    except (TypeError, ValueError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise RunError(f"{location}: something in the state is no plain value: {error}") from error
    shutil.rmtree(old, ignore_errors=True)


def read_checkpoint(location: Path | str) -> dict[str, Any]:
    """All of a checkpoint, by the names of the guide: ``model`` and ``optimizer`` hold tensors by
    name (``optimizer`` is None in a production save), the rest plain values.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = Path(location)
    try:
        document = json.loads((path / STATE).read_bytes())
        if document["format"] != FORMAT:
            raise CheckpointError(f"{path}: is of format {document['format']}, not {FORMAT}")
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


def optimizer_state(
    model: nn.Module, optimizer: Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's tensors by ``value/parameter``, and the plain rest: what it is, which
    parameters it moves, the settings of its groups."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    state = optimizer.state
    for name, parameter in model.named_parameters():
        for key, value in state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{key}/{name}"] = value
            else:
                plain[f"{key}/{name}"] = value
    settings = [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    return tensors, {**_described(model, optimizer), "settings": settings, "plain": plain}


def restore_optimizer(model: nn.Module, optimizer: Optimizer, saved: Mapping[str, Any]) -> bool:
    """Puts a saved state into an optimizer; False, and nothing changed, where it is another kind or
    moves other parameters."""
    described = _described(model, optimizer)
    if any(saved[key] != value for key, value in described.items()):
        return False
    parameters = dict(model.named_parameters())
    for group, settings in zip(optimizer.param_groups, saved["settings"], strict=True):
        group.update({k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
    owners = {id(p): part for part in parts_of(optimizer) for p in _moved(part)}
    counts_there = {
        id(parameter)
        for part in parts_of(optimizer)
        for group in part.param_groups
        if group.get("fused") or group.get("capturable")
        for parameter in group["params"]
    }
    values = {**saved["plain"], **saved["tensors"]}
    for place, value in values.items():
        key, _, name = place.partition("/")
        parameter = parameters[name]
        if isinstance(value, Tensor):
            # A step that is counted: fused kernels read it where the parameter is.
            there = value.ndim or id(parameter) in counts_there
            value = value.to(parameter.device if there else "cpu").clone()
        owners[id(parameter)].state[parameter][key] = value
    return True


def _described(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """What an optimizer is: its kinds, and the parameters of its groups in order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        "type": [type(part).__name__ for part in parts_of(optimizer)],
        "groups": [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups],
    }


def _moved(part: Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in part.param_groups for parameter in group["params"]]
