"""Checkpoints: whole or not there, checked when read.

    checkpoints/step-00000250/
        model.safetensors       float32 weights by parameter name, each tied one once, and buffers
        optimizer.safetensors   <value>/<parameter>: exp_avg/embedding.weight
        ema.safetensors         the average of the weights, where the recipe has one
        state.json              progress and the optimizer's settings
        manifest.json           SHA-256 of the other files; written last

A checkpoint is written to a temporary folder, flushed and renamed. One that is damaged afterwards
fails its checksum; the one before it is used then.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.errors import CheckpointError, RunError
from windtunnel.runs import strict_json, sync_folder, write_atomic
from windtunnel.train.average import result_weights
from windtunnel.train.ema import Ema
from windtunnel.train.loop import Progress, TrainState
from windtunnel.train.optimizers.together import kind_of, parts_of, use_average
from windtunnel.train.tensors import read_shapes, read_tensors, write_tensors

FORMAT = 1
MODEL, OPTIMIZER, EMA, STATE, MANIFEST = (
    "model.safetensors",
    "optimizer.safetensors",
    "ema.safetensors",
    "state.json",
    "manifest.json",
)
PREFIX, DAMAGED, DRAFT = "step-", "damaged-", ".tmp-"

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint's folder and what its manifest says."""

    path: Path
    step: int
    validation_loss: float | None
    files: Mapping[str, str]
    """File name to SHA-256."""


class _Damaged(Exception):
    """A checkpoint's files are not what was written."""


def save_checkpoint(
    folder: Path,
    state: TrainState,
    *,
    keep: int,
    keep_every: int | None = None,
    validation_loss: float | None = None,
) -> Path:
    """Write a checkpoint of the present state, then delete those not to be kept.

    Args:
        folder: the run's ``checkpoints`` folder.
        keep: the newest ones to keep, this one included; the one with the lowest validation loss
            is kept besides.
        keep_every: those of steps that are multiples of it are kept for good.
        validation_loss: in nats a token, where it was measured at this very step.

    Raises:
        RunError: it cannot be written (a full disk, say); the ones before are as they were.
    """
    step = state.progress.step
    final = folder / f"{PREFIX}{step:08d}"
    draft = folder / f"{DRAFT}{final.name}-{os.getpid()}"
    try:
        draft.mkdir()
        with result_weights(state):
            _write(draft, state, validation_loss)
        _replace(draft, final)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        why = "the disk is full" if error.errno == errno.ENOSPC else str(error.strerror)
        kept = [checkpoint.step for checkpoint in list_checkpoints(folder)]
        before = f"that of step {kept[-1]} stands" if kept else "there is none before"
        raise RunError(f"{final}: cannot write the checkpoint: {why}; {before}") from error
    _retain(folder, keep, keep_every)
    return final


def save_weights(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write weights that were trained elsewhere as the checkpoint of step 0: there is no optimizer
    to go on with, but :func:`load_weights` takes them.

    Args:
        folder: a ``checkpoints`` folder without checkpoints.
        tensors: float32, by the names of :func:`kept_tensors`.

    Raises:
        OSError: it cannot be written.
    """
    final = folder / f"{PREFIX}{0:08d}"
    draft = folder / f"{DRAFT}{final.name}-{os.getpid()}"
    draft.mkdir()
    manifest = {
        "format": FORMAT,
        "step": 0,
        "validation_loss": None,
        "files": {MODEL: write_tensors(draft / MODEL, tensors)},
    }
    write_atomic(draft / MANIFEST, strict_json(manifest, indent=2) + "\n")
    _replace(draft, final)
    return final


def kept_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model that a checkpoint keeps, by name; each tied one once."""
    return _model_tensors(model, dict(model.named_parameters()))


def load_newest(folder: Path, state: TrainState, warn: Warn) -> int | None:
    """Restore the newest whole checkpoint into the state; its step, or None where there is none.

    Damaged ones are told to ``warn`` and set aside under another name. Drafts of a process that
    died are deleted. Only for the process that writes the run.

    Raises:
        CheckpointError: there are checkpoints but none is whole, or one does not fit the model.
    """
    for draft in folder.glob(f"{DRAFT}*"):
        shutil.rmtree(draft)
    damaged: list[Path] = []
    checkpoint = _newest_whole(folder, warn, damaged)
    if checkpoint is None:
        return None
    _restore(checkpoint, state, warn)
    for path in damaged:
        aside = folder / f"{DAMAGED}{path.name}"
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    return checkpoint.step


def load_weights(
    folder: Path, model: nn.Module, warn: Warn, *, best: bool = False, ema: bool = False
) -> int:
    """Put a checkpoint's weights into a model, in the model's own precision; the step they are of.

    Args:
        folder: the run's ``checkpoints`` folder; nothing in it is changed.
        model: of the checkpoint's architecture.
        warn: is told of damaged checkpoints that are passed over.
        best: the checkpoint of the lowest validation loss instead of the newest.
        ema: the average of the weights instead of the weights.

    Raises:
        CheckpointError: there is none, none is whole, or it does not fit the model.
    """
    checkpoint = _best(folder) if best else None
    if checkpoint is not None:
        try:
            _verify(checkpoint)
        except _Damaged as damage:
            raise CheckpointError(f"the best checkpoint is damaged: {damage}") from damage
    else:
        checkpoint = _newest_whole(folder, warn, [])
    if checkpoint is None:
        raise CheckpointError(f"{folder}: there is no checkpoint")
    kept = kept_tensors(model)
    _copy_into(kept, checkpoint.path / MODEL)
    if ema:
        if EMA not in checkpoint.files:
            raise CheckpointError(f"{checkpoint.path}: has no average of the weights (train.ema)")
        averaged = read_shapes(checkpoint.path / EMA).keys()
        _copy_into({n: t for n, t in kept.items() if n in averaged}, checkpoint.path / EMA)
    return checkpoint.step


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """The checkpoints with a readable manifest, oldest first; their files are not checked."""
    found = []
    for path in sorted(folder.glob(f"{PREFIX}*")):
        with contextlib.suppress(_Damaged):
            found.append(_read_manifest(path))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def _write(draft: Path, state: TrainState, validation_loss: float | None) -> None:
    tensors, scalars = _optimizer_state(state)
    document = {
        "format": FORMAT,
        "progress": asdict(state.progress),
        "optimizer": {
            "type": " and ".join(map(kind_of, parts_of(state.optimizer))),
            "moves": _moves(state),
            "settings": [
                {name: value for name, value in group.items() if name != "params"}
                for group in state.optimizer.param_groups
            ],
            "scalars": scalars,
        },
    }
    text = strict_json(document, indent=2) + "\n"
    model = _model_tensors(state.model, state.weights.parameters)
    files = {
        MODEL: write_tensors(draft / MODEL, model),
        OPTIMIZER: write_tensors(draft / OPTIMIZER, tensors),
        STATE: hashlib.sha256(text.encode()).hexdigest(),
    }
    if state.ema is not None:
        files[EMA] = write_tensors(draft / EMA, state.ema.values)
    write_atomic(draft / STATE, text)
    manifest = {
        "format": FORMAT,
        "step": state.progress.step,
        "validation_loss": validation_loss,
        "files": files,
    }
    write_atomic(draft / MANIFEST, strict_json(manifest, indent=2) + "\n")


def _replace(draft: Path, final: Path) -> None:
    """Rename the draft to its final name; one of the same step makes room."""
    old = draft.with_name(f"{draft.name}-old")
    if final.exists():
        final.rename(old)
    draft.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _retain(folder: Path, keep: int, keep_every: int | None) -> None:
    checkpoints = list_checkpoints(folder)
    best = _best(folder)
    for checkpoint in checkpoints[:-keep]:
        for_good = keep_every is not None and checkpoint.step % keep_every == 0
        if not for_good and (best is None or checkpoint.step != best.step):
            # Renamed first: a death while files are deleted must not leave half a checkpoint.
            gone = folder / f"{DRAFT}{checkpoint.path.name}-gone"
            checkpoint.path.rename(gone)
            shutil.rmtree(gone)


def _best(folder: Path) -> Checkpoint | None:
    """The checkpoint of the lowest validation loss; the earliest of equals."""
    known = [c for c in list_checkpoints(folder) if c.validation_loss is not None]
    return min(known, key=lambda c: (c.validation_loss, c.step), default=None)


def _newest_whole(folder: Path, warn: Warn, damaged: list[Path]) -> Checkpoint | None:
    paths = sorted(folder.glob(f"{PREFIX}*"), key=lambda path: path.name, reverse=True)
    for path in paths:
        try:
            checkpoint = _read_manifest(path)
            _verify(checkpoint)
            return checkpoint
        except _Damaged as damage:
            damaged.append(path)
            warn(f"checkpoint damaged, the one before is used: {damage}")
    if damaged:
        raise CheckpointError(f"{folder}: none of the {len(damaged)} checkpoints is whole")
    return None


def _read_manifest(path: Path) -> Checkpoint:
    manifest = path / MANIFEST
    try:
        values = json.loads(manifest.read_bytes())
        step, loss = int(values["step"]), values["validation_loss"]
        files = dict(values["files"])
    except OSError as error:
        raise _Damaged(f"{manifest}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _Damaged(f"{manifest}: cannot be read") from error
    if values.get("format") != FORMAT:
        raise CheckpointError(f"{manifest}: is of format {values.get('format')}, not {FORMAT}")
    return Checkpoint(path, step, loss, files)


def _verify(checkpoint: Checkpoint) -> None:
    for name, expected in checkpoint.files.items():
        path = checkpoint.path / name
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _Damaged(f"{path}: {error.strerror}") from error
        if found != expected:
            raise _Damaged(f"{path}: the checksum is wrong")


def _restore(checkpoint: Checkpoint, state: TrainState, warn: Warn) -> None:
    document = json.loads((checkpoint.path / STATE).read_bytes())
    model = _model_tensors(state.model, state.weights.parameters)
    _copy_into(model, checkpoint.path / MODEL)
    saved = document["optimizer"]
    tensors = read_tensors(checkpoint.path / OPTIMIZER)
    clean = _restore_optimizer(state, {**tensors, **saved["scalars"]}, _moved_by(saved))
    if clean:
        warn(f"{checkpoint.path}: was made with the optimizer {saved['type']}: {clean}")
    use_average(state.optimizer, on=False)
    if state.ema is not None and EMA in checkpoint.files:
        _copy_into(state.ema.values, checkpoint.path / EMA)
    elif state.ema is not None:
        state.ema = Ema(state.ema.config, state.weights.parameters)
        warn(f"{checkpoint.path}: has no average of the weights: it begins with these weights")
    state.weights.publish()
    state.progress = Progress(**document["progress"])


def _model_tensors(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The tensors to keep: the given parameters, and the module's persistent buffers."""
    shared = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {n: t for n, t in model.state_dict().items() if n not in shared}
    return {**parameters, **buffers}


@torch.no_grad()
def _copy_into(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Copy a file's tensors into those of the same names; nothing changes unless all fit."""
    shapes = read_shapes(file)
    problems = [f"{name} is not in the checkpoint" for name in tensors.keys() - shapes.keys()]
    problems += [f"{name} is not in the model" for name in shapes.keys() - tensors.keys()]
    for name in tensors.keys() & shapes.keys():
        here = tuple(tensors[name].shape)
        if here != shapes[name]:
            problems.append(f"{name} is {shapes[name]} in the checkpoint, {here} in the model")
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        text = "; ".join(sorted(problems)[:5])
        raise CheckpointError(f"{file}: does not fit the model: {text}{more}")
    for name, value in read_tensors(file).items():
        tensors[name].copy_(value)


def _optimizer_state(state: TrainState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's values by ``value/parameter``: the tensors, and the plain numbers."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for name, parameter in state.weights.parameters.items():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{key}/{name}"] = value
            else:
                scalars[f"{key}/{name}"] = value
    return tensors, scalars


def _moves(state: TrainState) -> dict[str, list[str]]:
    """The parameters that each kind of optimizer moves."""
    names = {id(parameter): name for name, parameter in state.weights.parameters.items()}
    moves: dict[str, list[str]] = {}
    for part in parts_of(state.optimizer):
        moved = [names[id(p)] for group in part.param_groups for p in group["params"]]
        moves.setdefault(kind_of(part), []).extend(moved)
    return moves


def _moved_by(saved: Mapping[str, Any]) -> Callable[[str], str]:
    """The kind of optimizer that moved a parameter when the checkpoint was made."""
    kinds = {name: kind for kind, names in saved.get("moves", {}).items() for name in names}
    return lambda name: kinds.get(name, saved["type"])


def _restore_optimizer(
    state: TrainState, saved: Mapping[str, Any], moved_by: Callable[[str], str]
) -> str | None:
    """Give each parameter's values back to the optimizer that moves it, if it is of the same kind.

    What is moved by another kind now starts clean: then a text that says so, else None.
    """
    values: dict[str, dict[str, Any]] = {}
    for place, value in saved.items():
        key, _, name = place.partition("/")
        if name not in state.weights.parameters:
            raise CheckpointError(f"the optimizer's {key} of {name}: no such parameter")
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
