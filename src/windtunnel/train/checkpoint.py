"""Checkpoints: whole or not there, checked when read.

    checkpoints/step-00000250/
        model.safetensors       float32 weights by parameter name, each tied one once, and buffers
        optimizer.safetensors   <value>/<parameter>: exp_avg/embedding.weight
        ema.safetensors         the average of the weights, where the recipe has one
        state.json              progress and the optimizer's settings
        manifest.json           SHA-256 of the other files; written last

Of several processes each writes its part, whole tensors, in model-00001-of-00002.safetensors and so
on; any number of processes reads them.

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
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from windtunnel.errors import CheckpointError, RunError
from windtunnel.runs import strict_json, sync_folder, write_atomic
from windtunnel.train.average import result_weights
from windtunnel.train.loop import TrainState
from windtunnel.train.optimizers.together import kind_of, parts_of
from windtunnel.train.restore import (
    EMA,
    MODEL,
    OPTIMIZER,
    STATE,
    Warn,
    copy_into,
    kept_tensors,
    model_tensors,
    restore,
)
from windtunnel.train.shards import parts_in, shapes_in, write_parts
from windtunnel.train.tensors import write_tensors

__all__ = [
    "Checkpoint",
    "Warn",
    "kept_tensors",
    "list_checkpoints",
    "load_newest",
    "load_weights",
    "save_checkpoint",
    "save_weights",
    "whole_checkpoint",
]

FORMAT = 1
MANIFEST = "manifest.json"
PREFIX, DAMAGED, DRAFT = "step-", "damaged-", ".tmp-"


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
    keep_at: Collection[int] = (),
    validation_loss: float | None = None,
    guard: Callable[[], None] | None = None,
) -> Path:
    """Write a checkpoint of the present state, then delete those not to be kept.

    Args:
        folder: the run's ``checkpoints`` folder.
        keep: the newest ones to keep, this one included; the one with the lowest validation loss
            is kept besides.
        keep_every: those of steps that are multiples of it are kept for good.
        keep_at: those of these steps are, too.
        validation_loss: in nats a token, where it was measured at this very step.
        guard: asked before the checkpoint gets its name; raises where another process has taken
            the run over meanwhile.

    Raises:
        RunError: it cannot be written (a full disk, say); the ones before are as they were.
    """
    step = state.progress.step
    final = folder / f"{PREFIX}{step:08d}"
    world = state.world
    writer = world.largest(os.getpid() if world.first else 0)
    draft = folder / f"{DRAFT}{final.name}-{writer}"
    try:
        if world.first:
            draft.mkdir(parents=True)  # the folder may have been deleted
        world.wait()
        with result_weights(state):
            _write(draft, state, validation_loss)
        if world.first:
            if guard is not None:
                guard()
            _replace(draft, final)
    except RunError:  # the guard's
        shutil.rmtree(draft, ignore_errors=True)
        raise
    except OSError as error:
        if world.first:
            shutil.rmtree(draft, ignore_errors=True)
        why = "the disk is full" if error.errno == errno.ENOSPC else str(error.strerror)
        kept = [checkpoint.step for checkpoint in list_checkpoints(folder)]
        before = f"that of step {kept[-1]} stands" if kept else "there is none before"
        raise RunError(f"{final}: cannot write the checkpoint: {why}; {before}") from error
    if world.first:
        _retain(folder, keep, keep_every, keep_at)
    world.wait()
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


def load_newest(folder: Path, state: TrainState, warn: Warn) -> int | None:
    """Restore the newest whole checkpoint into the state; its step, or None where there is none.

    Damaged ones are told to ``warn`` and set aside under another name. Drafts of a process that
    died are deleted. Only for the process that writes the run.

    Raises:
        CheckpointError: there are checkpoints but none is whole, or one does not fit the model.
    """
    if state.world.first:
        for draft in folder.glob(f"{DRAFT}*"):
            shutil.rmtree(draft)
    damaged: list[Path] = []
    checkpoint = _newest_whole(folder, warn, damaged)
    if checkpoint is None:
        return None
    restore(checkpoint.path, state, warn)
    state.world.wait()  # all have read
    for path in damaged if state.world.first else ():
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
    checkpoint = whole_checkpoint(folder, warn, best=best)
    kept = kept_tensors(model)
    copy_into(kept, parts_in(checkpoint.path, MODEL))
    if ema:
        files = parts_in(checkpoint.path, EMA)
        if not files:
            raise CheckpointError(f"{checkpoint.path}: has no average of the weights (train.ema)")
        averaged = shapes_in(files).keys()
        copy_into({n: t for n, t in kept.items() if n in averaged}, files)
    return checkpoint.step


def whole_checkpoint(
    folder: Path, warn: Warn, *, step: int | None = None, best: bool = False
) -> Checkpoint:
    """A run's newest whole checkpoint, its best one, or that of a step.

    Raises:
        CheckpointError: there is none, or it is damaged; the message names the steps there are.
    """
    if step is None and not best:
        newest = _newest_whole(folder, warn, [])
        if newest is None:
            raise CheckpointError(f"{folder}: there is no checkpoint")
        return newest
    there = list_checkpoints(folder)
    found = _best(folder) if best else next((c for c in there if c.step == step), None)
    if found is None:
        wanted = "with a validation loss" if best else f"of step {step}"
        steps = ", ".join(str(checkpoint.step) for checkpoint in there) or "none"
        raise CheckpointError(f"{folder}: there is no checkpoint {wanted} (there are: {steps})")
    try:
        _verify(found)
    except _Damaged as damage:
        which = "best checkpoint" if best else "checkpoint"
        raise CheckpointError(f"the {which} is damaged: {damage}") from damage
    return found


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
    model = model_tensors(state.model, state.weights.parameters)
    contents = {MODEL: model, OPTIMIZER: tensors}
    if state.ema is not None:
        contents[EMA] = state.ema.values
    files = write_parts(draft, contents, state.world)
    if not state.world.first:
        return
    files[STATE] = hashlib.sha256(text.encode()).hexdigest()
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


def _retain(folder: Path, keep: int, keep_every: int | None, keep_at: Collection[int]) -> None:
    checkpoints = list_checkpoints(folder)
    best = _best(folder)
    for checkpoint in checkpoints[:-keep]:
        for_good = keep_every is not None and checkpoint.step % keep_every == 0
        for_good = for_good or checkpoint.step in keep_at
        if not for_good and (best is None or checkpoint.step != best.step):
            # Renamed first: a death while files are deleted must not leave half a checkpoint.
            gone = folder / f"{DRAFT}{checkpoint.path.name}-gone"
            with contextlib.suppress(OSError):  # one checkpoint too many does no harm
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
    if not checkpoint.files:
        raise _Damaged(f"{checkpoint.path / MANIFEST}: names no file")
    for name, expected in checkpoint.files.items():
        path = checkpoint.path / name
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _Damaged(f"{path}: {error.strerror}") from error
        if found != expected:
            raise _Damaged(f"{path}: the checksum is wrong")


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
