"""A run that begins with what a hypernetwork predicts for its architecture."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from windtunnel.arch import Architecture, resolve
from windtunnel.data.dataset import Dataset
from windtunnel.errors import UsageError
from windtunnel.hyper.predict import Prediction, predict
from windtunnel.hyper.stored import NETWORK, Stored, ghn_run, no_network, open_stored
from windtunnel.runs import RunFolder, RunStore
from windtunnel.runs.durable import sync_folder
from windtunnel.runs.pruning import INITS
from windtunnel.train.evaluation import evaluate
from windtunnel.train.feed import feed_of, settled
from windtunnel.train.objectives.make import build_model, objective_of
from windtunnel.train.origin_file import FACTS, model_shapes, with_file
from windtunnel.train.restore import kept_tensors
from windtunnel.train.run_config import LoadedRun, RunConfig, extra_ids, objective_config
from windtunnel.train.tensors import write_tensors


@dataclass(frozen=True)
class FirstWeights:
    """What a hypernetwork predicts for a run."""

    stored: Stored
    config: RunConfig
    """The run's, with settled stages."""
    architecture: Architecture
    prediction: Prediction
    left: tuple[str, ...]
    """Tensors that are not predicted: they keep the run's own first values."""
    seconds: float
    same_vocabulary: bool
    """Whether the run's ids are the hypernetwork's."""

    @property
    def share(self) -> float:
        """Predicted numbers over all of the architecture."""
        return self.prediction.values / self.prediction.params

    def facts(self) -> dict[str, Any]:
        """What a file of them says of itself: the same wherever the hypernetwork lies."""
        return {
            "name": self.stored.name,
            "hypernetwork": network_digest(self.stored),
            "architecture": self.architecture.digest(),
            "seed": self.config.train.seed,
            "predicted": self.prediction.values,
            "params": self.prediction.params,
            "notes": list(self.prediction.notes),
        }


def find_stored(reference: str, runs: Path) -> Stored:
    """The hypernetwork of a folder (a run's or a release), or of a run of the store.

    Raises:
        UsageError: there is none.
        RunError: it is damaged.
    """
    return open_stored(find_folder(reference, runs))


def find_run(reference: str, runs: Path) -> RunFolder:
    """The run of a hypernetwork: its folder, or one of the store by name or key.

    Raises:
        UsageError: there is none, or it is a release.
    """
    return ghn_run(find_folder(reference, runs))


def find_folder(reference: str, runs: Path) -> Path:
    """The folder that a user means: a path, or the name or key of a run of the store.

    Raises:
        UsageError: there is none, or the path holds no hypernetwork.
    """
    if not reference:
        raise UsageError("which hypernetwork? a run's folder, name or key, or a release")
    path = Path(reference)
    if (path / NETWORK).is_file():
        return path
    is_path = "/" in reference or reference in (".", "..")
    if is_path and path.exists():
        raise UsageError(no_network(path))
    try:
        return RunStore(runs).select(reference).path
    except UsageError as error:
        if is_path or path.is_file():
            raise UsageError(no_network(path)) from error
        raise


def network_digest(stored: Stored) -> str:
    """The SHA-256 of a hypernetwork's weights."""
    total = hashlib.sha256()
    for name, tensor in sorted(kept_tensors(stored.network).items()):
        total.update(f"{name} {list(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def first_weights(stored: Stored, loaded: LoadedRun, dataset: Dataset) -> FirstWeights:
    """Predicts for a run's architecture, with the run's tokenizer and seed.

    Raises:
        UsageError: nothing of it can be predicted, or the run begins otherwise.
    """
    config = settled(loaded.config, dataset)
    if config.train.mup is not None:
        raise UsageError(
            "train.mup: weights of a hypernetwork are as large as they are to be; leave mup out"
        )
    architecture = resolve(config.arch, dataset.tokenizer.vocab_size + extra_ids(config))
    started = time.perf_counter()
    seed = config.train.seed
    found = predict(stored, architecture, tokenizer=dataset.tokenizer, seed=seed)
    seconds = time.perf_counter() - started
    shapes = model_shapes(config, architecture)
    misfits = [n for n, value in found.weights.items() if shapes.get(n) != tuple(value.shape)]
    if misfits:
        raise UsageError(
            f"{architecture.name}: what {stored.name} predicts is not what the run trains "
            f"({', '.join(misfits[:3])}); its objective names parameters otherwise"
        )
    left = tuple(name for name in shapes if name not in found.weights)
    same = dataset.tokenizer.digest == stored.tokenizer.digest
    return FirstWeights(stored, config, architecture, found, left, seconds, same)


@torch.no_grad()
def losses_at_start(first: FirstWeights, dataset: Dataset) -> dict[str, float]:
    """The run's validation loss in nats a token before its first step: with the predicted weights,
    and with its own first ones."""
    config = first.config
    objective = objective_config(config)
    model = build_model(objective, first.architecture, config.train.seed)
    judge = objective_of(objective, model)
    valid = feed_of(dataset, config).valid
    own = evaluate(model, valid, dataset.tokenizer, judge).loss
    tensors = kept_tensors(model)
    for name, value in first.prediction.weights.items():
        tensors[name].copy_(value)
    predicted = evaluate(model, valid, dataset.tokenizer, judge).loss
    return {"predicted": predicted, "own": own}


def begun_with(loaded: LoadedRun, first: FirstWeights, runs: Path) -> LoadedRun:
    """The run, begun with predicted weights, which are kept in the store.

    Raises:
        UsageError: the store cannot be written.
    """
    RunStore(runs).ensure_writable()
    path = keep_weights(runs / INITS, first.prediction.weights, first.facts())
    config = with_file(loaded.config, path, lenient=bool(first.left))
    return replace(loaded, config=config)


def keep_weights(folder: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Writes a file that is named by its content: whole, or not at all. The same content is the
    same file.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".init.", suffix=".tmp", dir=folder)
        os.close(handle)
        draft = Path(name)
        try:
            digest = write_tensors(draft, weights, {FACTS: json.dumps(facts)})
            path = folder / f"{digest[:20]}.safetensors"
            draft.chmod(0o644)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(folder)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror}") from error
    return path


def check_new_file(path: Path) -> None:
    """Raises UsageError where a new file cannot be made: it is there, or its folder is not."""
    if path.exists():
        raise UsageError(f"{path}: exists already; nothing was written")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; nothing was written")


def write_weights(path: Path, first: FirstWeights) -> None:
    """Writes predicted weights to a new file, as ``origin.weights`` reads it.

    Raises:
        UsageError: it is there already, its folder is not, or it cannot be written.
    """
    check_new_file(path)
    try:
        # In a folder of its own: the same content under its own name may lie beside it already.
        with tempfile.TemporaryDirectory(prefix=".init.", dir=path.absolute().parent) as draft:
            kept = keep_weights(Path(draft), first.prediction.weights, first.facts())
            os.replace(kept, path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
