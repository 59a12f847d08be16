"""A run that begins with what another one has trained."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from windtunnel.arch import Architecture, resolve
from windtunnel.config import Document, load_document
from windtunnel.data.config import BpeConfig, CharsConfig, DataConfig
from windtunnel.data.dataset import Dataset
from windtunnel.data.plan import PlannedBatches
from windtunnel.data.tokenizers import load_tokenizer
from windtunnel.errors import RunError, UsageError
from windtunnel.runs import RunFolder
from windtunnel.runs.difference import changes, in_words, listed
from windtunnel.train.checkpoint import list_checkpoints, whole_checkpoint
from windtunnel.train.feed import feed_of
from windtunnel.train.loop import DIVERGED_AFTER, Progress, TrainState
from windtunnel.train.origin_config import OriginConfig
from windtunnel.train.origin_file import (
    FileOrigin,
    check_file_origin,
    file_beginning,
    open_file_origin,
)
from windtunnel.train.restore import MODEL, STATE, Beginning, restore, restore_weights
from windtunnel.train.run_config import (
    LoadedRun,
    RunConfig,
    extra_ids,
    load_run,
    load_run_document,
)
from windtunnel.train.shards import parts_in, shapes_in

TOKENIZER = "tokenizer"

_CLEAN = re.compile(r"starts clean for (\d+) of (\d+) parameters")
"""How :func:`restore` says it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """The run that another one begins with, opened."""

    config: OriginConfig
    """With its step and its key."""
    folder: RunFolder
    parent: RunConfig
    checkpoint: Path

    @property
    def step(self) -> int:
        """The step at which the new run begins."""
        return (self.config.step or 0) if self.config.carry == "all" else 0


@dataclass(frozen=True)
class LostOrigin:
    """An origin that is there no more. A run that has begun goes on without it."""

    config: OriginConfig
    reason: RunError

    @property
    def step(self) -> int:
        """The step at which the new run begins."""
        return (self.config.step or 0) if self.config.carry == "all" else 0


AnyOrigin: TypeAlias = Origin | FileOrigin | LostOrigin


def branch_of(
    folder: RunFolder,
    edits: Sequence[str] = (),
    *,
    step: int | None = None,
    best: bool = False,
    lenient: bool = False,
) -> LoadedRun:
    """The run that goes on from another's checkpoint, with some values changed.

    A tokenizer that was learnt from the data stays what it is when the data changes.

    Args:
        folder: of the run to go on from; nothing in it is changed.
        edits: such as ``train.lr=3e-4``.
        step: of its checkpoint; the newest when left out.
        best: the checkpoint of the lowest validation loss.
        lenient: see :class:`OriginConfig`.

    Raises:
        ConfigError: an edit is wrong.
        UsageError: there is no checkpoint of that step.
        CheckpointError: none is whole, or the one that is asked for is damaged.
    """
    document = load_document(folder.config_path)
    _check_step(folder, step)
    paths = [edit.partition("=")[0].strip() for edit in edits]
    document = document.without(_replaced(paths))
    found = whole_checkpoint(folder.checkpoints, logger.warning, step=step, best=best)
    origin: dict[str, Any] = {
        "run": str(folder.path.absolute()), "step": found.step, "key": folder.key,
    }  # fmt: skip
    document = document.with_value(("origin",), origin | {"lenient": lenient}, "windtunnel branch")
    loaded = load_run_document(document, edits, base=folder.path)
    if any(path.startswith("data.") for path in paths):
        document = _with_same_tokenizer(document, loaded.config.data, folder.path)
        loaded = load_run_document(document, edits, base=folder.path)
    return loaded


def _check_step(folder: RunFolder, step: int | None) -> None:
    there = [checkpoint.step for checkpoint in list_checkpoints(folder.checkpoints)]
    if step is None or step in there:
        return
    steps = ", ".join(map(str, there)) or "none"
    nearest = min(there, key=lambda other: abs(other - step), default=None)
    hint = "" if nearest is None else f"; the nearest is that of step {nearest}"
    raise UsageError(
        f"{folder.checkpoints}: there is no checkpoint of step {step} (there are: {steps}){hint}"
    )


def _replaced(paths: Sequence[str]) -> set[tuple[str | int, ...]]:
    """What must go, so that something else can be written: one of two keys that exclude each other,
    and what follows from others."""
    gone: set[tuple[str | int, ...]] = {("origin",)}
    if any(path.startswith("train.stages") for path in paths):
        gone.add(("train", "steps"))
    if any(path.startswith("data.sources") for path in paths):
        gone.add(("data", "source"))
    if "data.source" in paths:
        gone.add(("data", "sources"))
    return gone


def _with_same_tokenizer(document: Document, data: DataConfig, parent: Path) -> Document:
    if not isinstance(data.tokenizer, BpeConfig | CharsConfig):
        return document
    saved = {"type": "hf", "path": str((parent / TOKENIZER).absolute())}
    return document.with_value(("data", "tokenizer"), saved, "windtunnel branch")


def with_weights(loaded: LoadedRun, folder: RunFolder, *, lenient: bool = False) -> LoadedRun:
    """The run, begun with the newest weights of another one and nothing else of it."""
    origin = OriginConfig(run=str(folder.path), carry="weights", lenient=lenient)
    return replace(loaded, config=loaded.config.replace(origin=origin))


def origin_of(config: OriginConfig) -> AnyOrigin:
    """The origin of a run's file; lost, where the file says all of it and it cannot be opened."""
    try:
        return open_origin(config) if config.weights is None else open_file_origin(config)
    except RunError as error:
        if config.weights is not None and config.key is None:
            raise UsageError(str(error)) from error
        if config.key is None or (config.weights is None and config.step is None):
            raise
        return LostOrigin(config, error)


def open_origin(config: OriginConfig) -> Origin:
    """Finds the run and its checkpoint.

    Raises:
        RunError: there is no run, or it is another one than is asked for.
        CheckpointError: it has no such checkpoint.
    """
    assert config.run is not None
    folder = RunFolder.open(Path(config.run))
    if config.key is not None and config.key != folder.key:
        raise RunError(
            f"origin: {config.run} holds the run {folder.key[:10]}, not {config.key[:10]}"
        )
    found = whole_checkpoint(folder.checkpoints, logger.warning, step=config.step)
    final = config.replace(run=str(Path(config.run).absolute()), step=found.step, key=folder.key)
    return Origin(final, folder, load_run(folder.config_path).config, found.path)


def check_origin(
    origin: AnyOrigin, config: RunConfig, architecture: Architecture, dataset: Dataset
) -> None:
    """Says before anything is written what cannot be carried.

    Raises:
        UsageError: another architecture or tokenizer (allowed where ``origin.lenient``), or no step
            is left to take.
    """
    if isinstance(origin, FileOrigin):
        check_file_origin(origin, config, architecture)
        return
    if isinstance(origin, LostOrigin):
        return
    if origin.config.carry == "all" and not (origin.checkpoint / STATE).is_file():
        raise UsageError(
            f"{origin.folder.path}: holds weights alone, so there is nothing to go on with; begin "
            "another run with them: windtunnel train FILE --init"
        )
    folder = origin.folder.path / TOKENIZER
    tokenizer = load_tokenizer(folder) if folder.is_dir() else dataset.tokenizer
    before = resolve(origin.parent.arch, tokenizer.vocab_size + extra_ids(origin.parent))
    changed = [c for c in changes(before, architecture) if _matters(c.path)]
    if changed and not origin.config.lenient:
        shown = listed(changed)
        raise UsageError(
            f"{origin.folder.path}: has another architecture: {shown}; --lenient takes the weights "
            "that fit by name and shape"
        )
    if tokenizer.digest != dataset.tokenizer.digest and not origin.config.lenient:
        raise UsageError(
            f"{origin.folder.path}: was trained with another tokenizer, so its weights know other "
            f"ids; set data.tokenizer: {{type: hf, path: {folder}}}"
        )
    if origin.step >= config.train.steps:
        raise UsageError(
            f"{origin.folder.path}: its checkpoint is of step {origin.step}, and train.steps is "
            f"{config.train.steps}: no step is left; set train.steps higher"
        )


def _matters(path: str) -> bool:
    """Whether a difference is one of the model: not its name, and not how it is dropped out."""
    return path != "name" and "dropout" not in path.rpartition(".")[2]


def beginning_of(
    origin: AnyOrigin, config: RunConfig, dataset: Dataset, batches: PlannedBatches
) -> Beginning:
    """How the run begins with its origin."""
    if isinstance(origin, FileOrigin):
        return file_beginning(origin)
    if isinstance(origin, LostOrigin):
        reason = origin.reason

        def fail(state: TrainState, tell: Callable[[str], None]) -> None:
            raise reason

        return Beginning(origin.step, {}, fail)

    def begin(state: TrainState, tell: Callable[[str], None]) -> None:
        lenient = origin.config.lenient
        if origin.config.carry == "weights":
            restore_weights(parts_in(origin.checkpoint, MODEL), state, tell, lenient=lenient)
            return
        restore(origin.checkpoint, state, _of_new_ones(origin, state, tell), lenient=lenient)
        _go_on_with_data(origin, config, dataset, batches, state.progress, tell)

    return Beginning(origin.step, lineage_of(origin, config), begin)


def _of_new_ones(
    origin: Origin, state: TrainState, tell: Callable[[str], None]
) -> Callable[[str], None]:
    """Tells the same; of parameters that the checkpoint does not have, that they are new, and not
    that another optimizer moved them."""
    known = shapes_in(parts_in(origin.checkpoint, MODEL))
    moved = {name for name, p in state.weights.parameters.items() if p.requires_grad}
    new = len(moved - known.keys())

    def told(text: str) -> None:
        clean = _CLEAN.search(text)
        if clean is None or not new:
            tell(text)
            return
        others = int(clean[1]) - new
        if others:
            tell(text.replace(clean[0], f"starts clean for {others} of {clean[2]} parameters"))
        which = f"{new} of {clean[2]} parameters are new"
        tell(f"{origin.checkpoint}: {which}: the optimizer starts clean for them")

    return told


def _go_on_with_data(
    origin: Origin,
    config: RunConfig,
    dataset: Dataset,
    batches: PlannedBatches,
    progress: Progress,
    tell: Callable[[str], None],
) -> None:
    """Lets each source go on where the origin left it, whatever the batches and stages are now."""
    if progress.skipped_in_a_row >= DIVERGED_AFTER:
        progress.skipped_in_a_row = 0
    if _stage_names(config) != _stage_names(origin.parent):
        progress.stages = []
    seen = _seen(origin, config, dataset, progress.shift, progress.position)
    if seen is None:
        tell(f"other data, seq_len or packing than in {origin.folder.path}: read from the start")
    here = batches.seen(progress.position)
    shift = {name: (seen or {}).get(name, 0) - count for name, count in here.items()}
    progress.shift = {name: rows for name, rows in shift.items() if rows}


def _stage_names(config: RunConfig) -> list[str]:
    return [stage.name for stage in config.train.stages]


def _seen(
    origin: Origin, config: RunConfig, dataset: Dataset, shift: Mapping[str, int], position: int
) -> dict[str, int] | None:
    """Rows of each source that the origin had read; None where its rows were others."""
    facts = origin.folder.read_record() or {}
    start = origin.folder.read_start()
    data = start["identity"]["data"] if start else facts.get("data_fingerprint")
    fingerprint = data["fingerprint"] if isinstance(data, Mapping) else data
    same_rows = origin.parent.train.seq_len == config.train.seq_len and (
        dataset.kind == "text" or origin.parent.data.packing == config.data.packing
    )
    if fingerprint != dataset.fingerprint or not same_rows:
        return None
    batches = feed_of(dataset, origin.parent).batches
    return batches.shifted(shift).seen(position)


def lineage_of(origin: Origin, config: RunConfig) -> dict[str, Any]:
    """What the new run's record says of where it comes from; the nearest ancestor first."""
    start = origin.folder.read_start() or {}
    before = (start.get("origin") or {}).get("ancestors", [])
    parent = {
        "key": origin.folder.key,
        "name": origin.folder.name,
        "step": origin.config.step,
        "carry": origin.config.carry,
    }
    found = changes(origin.parent, config)
    edits = [in_words(change) for change in found if not change.path.startswith("origin")]
    return {**parent, "edits": edits, "ancestors": [parent, *before]}
