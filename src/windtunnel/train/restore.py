"""Putting what a checkpoint holds into a state: all of it, or by name what fits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.errors import CheckpointError
from windtunnel.train.ema import Ema
from windtunnel.train.loop import Progress, TrainState
from windtunnel.train.optimizers.together import kind_of, parts_of, use_average
from windtunnel.train.precision import LossScaler
from windtunnel.train.shards import parts_in, shapes_in, spread_as, tensors_in

MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
EMA, STATE = "ema.safetensors", "state.json"

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Beginning:
    """What a run begins with that another one has trained."""

    step: int
    """Where it begins."""
    lineage: Mapping[str, Any]
    """What the start event and the record say of it."""
    restore: Callable[[TrainState, Warn], None]
    """Puts it into a state; what could not be carried is told."""


def kept_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model that a checkpoint keeps, by name; each tied one once."""
    return model_tensors(model, dict(model.named_parameters()))


def restore_weights(
    files: Sequence[Path], state: TrainState, warn: Warn, *, lenient: bool = False
) -> None:
    """Put the weights of files, such as the parts of a checkpoint's, into a state, and nothing
    else.

    Args:
        lenient: take what fits by name and shape, and tell ``warn`` what does not.

    Raises:
        CheckpointError: they do not fit the model.
    """
    model = model_tensors(state.model, state.weights.parameters)
    copy_into(model, files, warn if lenient else None)
    if state.ema is not None:
        state.ema = Ema(state.ema.config, state.weights.parameters)
    state.weights.publish()


def restore(folder: Path, state: TrainState, warn: Warn, *, lenient: bool = False) -> None:
    """Put all of a checkpoint's folder into a state: weights, optimizer and progress.

    Args:
        lenient: as in :func:`restore_weights`; what moves other weights starts clean.

    Raises:
        CheckpointError: it does not fit the model, or holds weights alone.
    """
    if not (folder / STATE).is_file():
        raise CheckpointError(f"{folder}: holds weights alone, without an optimizer")
    document = json.loads((folder / STATE).read_bytes())
    restore_weights(parts_in(folder, MODEL), state, warn, lenient=lenient)
    saved = document["optimizer"]
    tensors = tensors_in(parts_in(folder, OPTIMIZER))
    if lenient:
        shapes = shapes_in(parts_in(folder, MODEL))
        fits = {n for n, p in state.weights.parameters.items() if shapes.get(n) == tuple(p.shape)}
        tensors = {k: v for k, v in tensors.items() if k.partition("/")[2] in fits}
        scalars = saved["scalars"].items()
        saved["scalars"] = {k: v for k, v in scalars if k.partition("/")[2] in fits}
    clean = _restore_optimizer(state, {**tensors, **saved["scalars"]}, _moved_by(saved))
    if clean:
        warn(f"{folder}: was made with the optimizer {saved['type']}: {clean}")
    use_average(state.optimizer, on=False)
    averaged = parts_in(folder, EMA)
    if state.ema is not None and averaged:
        copy_into(state.ema.values, averaged, warn if lenient else None)
    elif state.ema is not None:
        warn(f"{folder}: has no average of the weights: it begins with these weights")
    state.weights.publish()
    state.progress = Progress(**{"cpu_seconds": None, **document["progress"]})
    if state.scaler is not None:
        state.scaler = LossScaler(state.progress)
    if state.compiling is not None:
        state.compiling.shapes = list(state.progress.compiled_shapes)


@torch.no_grad()
def copy_into(
    tensors: Mapping[str, Tensor], files: Sequence[Path], lenient: Warn | None = None
) -> None:
    """Copy files' tensors into those of the same names; nothing changes unless all fit.

    ``lenient`` is told what does not fit, and the rest is copied.
    """
    _check_fit(tensors, shapes_in(files), files[0], lenient)
    _copy_all(tensors, tensors_in(files))


def copy_values(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor], file: Path) -> None:
    """The same with a file's values that were read already."""
    shapes = {name: tuple(value.shape) for name, value in values.items()}
    _check_fit(tensors, shapes, file, None)
    _copy_all(tensors, values)


def _check_fit(
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    file: Path,
    lenient: Warn | None,
) -> None:
    problems = [f"{name} is not in the checkpoint" for name in tensors.keys() - shapes.keys()]
    problems += [f"{name} is not in the model" for name in shapes.keys() - tensors.keys()]
    for name in tensors.keys() & shapes.keys():
        here = tuple(tensors[name].shape)
        if here != shapes[name]:
            problems.append(f"{name} is {shapes[name]} in the checkpoint, {here} in the model")
    if lenient is not None:
        for problem in sorted(problems):
            lenient(f"{file}: {problem}")
    elif problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        text = "; ".join(sorted(problems)[:5])
        raise CheckpointError(f"{file}: does not fit the model: {text}{more}")


@torch.no_grad()
def _copy_all(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in sorted(values.items()):
        if name in tensors and tensors[name].shape == value.shape:
            tensors[name].copy_(spread_as(value, tensors[name]))


def model_tensors(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The tensors to keep: the given parameters, and the module's persistent buffers."""
    shared = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {n: t for n, t in model.state_dict().items() if n not in shared}
    return {**parameters, **buffers}


def _moved_by(saved: Mapping[str, Any]) -> Callable[[str], str]:
    """The kind of optimizer that moved a parameter when the checkpoint was made."""
    kinds = {name: kind for kind, names in saved.get("moves", {}).items() for name in names}
    otherwise = "nothing" if kinds else saved["type"]  # it was frozen; or older checkpoints
    return lambda name: kinds.get(name, otherwise)


def _restore_optimizer(
    state: TrainState, saved: Mapping[str, Any], moved_by: Callable[[str], str]
) -> str | None:
    """Give each parameter's values back to the optimizer that moves it, if it is of the same kind.

    What is moved by another kind now starts clean: then a text that says so, else None.
    """
    values: dict[str, dict[str, Any]] = {}
    for place, value in sorted(saved.items()):
        key, _, name = place.partition("/")
        if name not in state.weights.parameters:
            raise CheckpointError(f"the optimizer's {key} of {name}: no such parameter")
        if isinstance(value, Tensor):
            value = spread_as(value, state.weights.parameters[name])
        values.setdefault(name, {})[key] = value
    names = {id(parameter): name for name, parameter in state.weights.parameters.items()}
    clean, kinds = 0, []
    for part in parts_of(state.optimizer):
        order = [names[id(p)] for group in part.param_groups for p in group["params"]]
        kind = kind_of(part)
        same = {name for name in order if moved_by(name) == kind}
        clean += len(order) - len(same)
        kinds.append(kind)
        kept = {i: values[n] for i, n in enumerate(order) if n in same and n in values}
        groups = part.state_dict()["param_groups"]
        part.load_state_dict({"state": kept, "param_groups": groups})
    if not clean:
        return None
    total = len(state.weights.parameters)
    return f"{' and '.join(kinds)} starts clean for {clean} of {total} parameters"
