"""From a run's file to a run: data, architecture, key, folder, training; and back to a model."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from windtunnel.arch import Architecture, resolve
from windtunnel.config import annotated_yaml, load_document
from windtunnel.data.config import LAYOUT, DataConfig, HfConfig
from windtunnel.data.dataset import Dataset, prepare
from windtunnel.data.progress import Progress
from windtunnel.data.tokenizers import Tokenizer, load_tokenizer
from windtunnel.data.tokenizers.base import FILE as TOKENIZER_FILE
from windtunnel.errors import NotFiniteError, RunError, UsageError
from windtunnel.runs import RunFolder, code_digest, run_key
from windtunnel.runs.durable import write_atomic
from windtunnel.train.branch import AnyOrigin, LostOrigin, beginning_of, check_origin, origin_of
from windtunnel.train.checkpoint import load_weights
from windtunnel.train.distributed.world import ALONE, World
from windtunnel.train.evaluation import evaluate
from windtunnel.train.feed import feed_of, settled
from windtunnel.train.identity import WITHOUT_EFFECT, check_same_run, run_identity
from windtunnel.train.loop import resolve_device
from windtunnel.train.mup import mup_architecture, rescale
from windtunnel.train.objectives.make import build_model, objective_of
from windtunnel.train.precision import check_precision, exact_float32
from windtunnel.train.run_config import (
    LoadedRun,
    RunConfig,
    extra_ids,
    load_run,
    objective_config,
)
from windtunnel.train.runner import OnEvent, OnStep, RunParts, train_run
from windtunnel.train.scoring import scores_of
from windtunnel.train.writing import make_samples

TOKENIZER = "tokenizer"
LABELS = "labels.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadyRun:
    """A run that only needs to be trained: nothing in it is open any more."""

    config: RunConfig
    """With the architecture in its final form and absolute paths."""
    architecture: Architecture
    dataset: Dataset
    identity: Mapping[str, Any]
    """All that decides the result."""
    key: str
    """The digest of ``identity``."""
    origin: AnyOrigin | None = None
    """What it begins with, a run or a file."""

    @property
    def name(self) -> str:
        return self.architecture.name

    def as_yaml(self) -> str:
        """The resolved config, as a run's file that gives this run again."""
        return annotated_yaml(self.config)


def ready_run(
    loaded: LoadedRun, *, progress: Progress | None = None, dataset: Dataset | None = None
) -> ReadyRun:
    """Prepares the data and settles everything else.

    Raises:
        ConfigError, DataError, UsageError: what does not fit, before anything is written.
    """
    dataset = dataset or prepare(loaded.config.data, progress)
    config = settled(loaded.config, dataset)
    architecture = resolve(config.arch, dataset.tokenizer.vocab_size + extra_ids(config))
    train = config.train
    device = resolve_device(train.device)
    origin = origin_of(config.origin) if config.origin else None
    check_precision(train.precision, device)
    final = config.replace(
        origin=origin and origin.config,
        arch=architecture.to_spec(),
        data=absolute_data(config.data),
        plugins=tuple(str((loaded.base / path).resolve()) for path in config.plugins),
    )
    arch_values = architecture.model_dump(mode="json")
    del arch_values["name"]
    if loaded.plugin_digests:
        arch_values["plugins"] = sorted(loaded.plugin_digests.values())
    identity = run_identity(
        arch=arch_values,
        data=_data_identity(config.data, dataset),
        train=train,
        code=code_digest(),
        torch_version=version("torch"),
        device_type=device.type,
        origin=final.origin,
    )
    if origin is not None:
        check_origin(origin, final, architecture, dataset)
    for note in feed_of(dataset, config).notes:  # raises where the data does not fit
        logger.warning("%s", note)
    return ReadyRun(final, architecture, dataset, identity, run_key(identity), origin)


def absolute_data(data: DataConfig) -> DataConfig:
    """The same data with absolute paths."""
    held, tokenizer = data.validation, data.tokenizer
    if isinstance(tokenizer, HfConfig):
        tokenizer = tokenizer.replace(path=str(Path(tokenizer.path).absolute()))
    sources = data.sources and {name: source.absolute() for name, source in data.sources.items()}
    return data.replace(
        source=data.source.absolute(),
        sources=sources,
        validation=held if isinstance(held, float) else held.absolute(),
        tokenizer=tokenizer,
    )


def _data_identity(data: DataConfig, dataset: Dataset) -> Any:
    """The tokens, and how they are laid out where that is not as usual."""
    layout = {name: value for name, value in data.model_dump(mode="json").items() if name in LAYOUT}
    return {"fingerprint": dataset.fingerprint, **layout} if layout else dataset.fingerprint


def create_run_folder(ready: ReadyRun, path: Path) -> RunFolder:
    """A new folder for the run, with its config and tokenizer.

    Raises:
        UsageError: the folder exists already, or cannot be made.
        RunError: the file that it is to begin with is gone, or another one.
    """
    if isinstance(ready.origin, LostOrigin) and ready.origin.config.weights is not None:
        raise ready.origin.reason
    folder = RunFolder.create(path, key=ready.key, name=ready.name, config=ready.as_yaml())
    try:
        _write_beside(ready, path)
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
    return folder


def _write_beside(ready: ReadyRun, path: Path) -> None:
    """What a run's folder holds beside its config: the tokenizer, and the labels."""
    (path / TOKENIZER).mkdir(exist_ok=True)
    ready.dataset.tokenizer.save(path / TOKENIZER)
    if ready.dataset.labels:
        text = json.dumps(ready.dataset.labels, ensure_ascii=False)
        (path / LABELS).write_text(text, encoding="utf-8")


def remake_run_folder(folder: RunFolder, ready: ReadyRun) -> RunFolder:
    """The folder of a run that was made and has never begun, as that of ``ready``.

    Raises:
        UsageError: it has begun, or cannot be written.
        RunError: another process is about to begin it.
    """
    with folder.lock():
        path = folder.path / TOKENIZER
        if not folder.has_begun():
            shutil.rmtree(path, ignore_errors=True)
            try:
                _write_beside(ready, folder.path)
            except OSError as error:
                message = f"{folder.path}: cannot be written: {error.strerror}"
                raise UsageError(message) from error
        return folder.remake(key=ready.key, name=ready.name, config=ready.as_yaml())


def run_in_folder(
    folder: RunFolder,
    *,
    ready: ReadyRun | None = None,
    resume: bool = False,
    until: int | None = None,
    on_event: OnEvent | None = None,
    on_step: OnStep | None = None,
    world: World = ALONE,
) -> dict[str, Any]:
    """Trains the run of a folder to its end; its record. What may be raised: see ``train_run``."""
    ready = ready or ready_run(load_run(folder.config_path))
    begun = any(event.kind == "start" for event in folder.read_events())
    if not begun and ready.key != folder.key:
        raise UsageError(
            f"{folder.path}: was made for another config, or another version of the code, of a "
            "plugin or of the data, and has not begun; put that back, or choose another folder"
        )
    if world.first and (resume or not begun):
        _mend(folder, ready)
        _tell_of_settings(folder, ready)
    parts = replace(run_parts(ready), world=world)
    return train_run(parts, folder, resume=resume, until=until, on_event=on_event, on_step=on_step)


def _mend(folder: RunFolder, ready: ReadyRun) -> None:
    """Writes anew what the folder has lost and the run is of no use without.

    Raises:
        UsageError: the run began as another one, or the folder cannot be written.
    """
    needed = ["config.yaml", f"{TOKENIZER}/{TOKENIZER_FILE}"]
    needed += [LABELS] if ready.dataset.labels else []
    lost = [name for name in needed if not (folder.path / name).is_file()]
    if not lost:
        return
    start = folder.read_start()
    if start is not None:
        check_same_run(start["identity"], ready.identity)
    try:
        with folder.lock():
            _write_beside(ready, folder.path)
            if not folder.config_path.is_file():
                write_atomic(folder.config_path, ready.as_yaml())
    except OSError as error:
        raise UsageError(f"{folder.path}: cannot be written: {error.strerror}") from error
    logger.warning("%s: %s: missing, and written anew", folder.path, ", ".join(lost))


def _tell_of_settings(folder: RunFolder, ready: ReadyRun) -> None:
    """Says which settings without effect on the weights are others than those it began with."""
    document, train = load_document(folder.config_path), ready.config.train.model_dump(mode="json")
    for name in sorted(WITHOUT_EFFECT):
        was, is_now = document.get(("train", name), "nothing"), train.get(name, "nothing")
        if was != is_now:
            logger.warning(
                "%s: train.%s: %s from here on; config.yaml keeps %s, with which it began",
                folder.path, name, is_now, was,
            )  # fmt: skip


def run_parts(ready: ReadyRun) -> RunParts:
    """Model, batches and the rest of a run, built."""
    train, dataset, architecture = ready.config.train, ready.dataset, ready.architecture
    device = resolve_device(train.device)
    written = architecture if train.mup is None else mup_architecture(architecture, train.mup)
    model = build_model(objective_config(ready.config), written, train.seed, device=device)
    if train.mup is not None:
        rescale(model, train.mup)
    feed = feed_of(dataset, ready.config)
    objective = objective_of(train.objective, model)
    beginning = None
    if ready.origin is not None:
        beginning = beginning_of(ready.origin, ready.config, dataset, feed.batches)
    flops_per_token = objective.train_flops_per_token(architecture, train.seq_len)
    if feed.step is not None:
        flops_per_token = feed.step.train_flops(architecture) / feed.step.targets
    return RunParts(
        model=model,
        batches=feed.batches,
        valid=feed.valid,
        tokenizer=dataset.tokenizer,
        train=train,
        identity=ready.identity,
        flops_per_token=flops_per_token,
        facts={
            "arch_digest": architecture.digest(),
            "data_fingerprint": dataset.fingerprint,
            "flops_per_token": int(flops_per_token),
            **({} if dataset.kind == "text" else {"left_out": feed.skipped, "cut": feed.cut}),
        },
        samples=lambda model: make_samples(model, dataset, ready.config),
        scores=_scores(ready),
        beginning=beginning,
    )


def _scores(ready: ReadyRun) -> Callable[[nn.Module], Mapping[str, float]] | None:
    """What is measured at each evaluation of what the model writes; where its logits are not finite
    it writes nothing, and no score is finite either."""
    of_model = scores_of(ready.dataset, ready.config)
    if of_model is None:
        return None

    def scores(model: nn.Module) -> Mapping[str, float]:
        try:
            return of_model(model)
        except NotFiniteError:
            return dict.fromkeys(ready.config.train.scores, math.nan)

    return scores


@dataclass(frozen=True)
class TrainedModel:
    """A model as a run left it, with its tokenizer."""

    model: Any
    """A Model, or what the run's objective makes of it."""
    tokenizer: Tokenizer
    step: int
    config: RunConfig
    labels: tuple[str, ...] = ()
    """The classes, by their numbers."""


def open_trained(
    folder: RunFolder,
    *,
    device: str = "cpu",
    warn: Any = None,
    best: bool = False,
    ema: bool = False,
) -> TrainedModel:
    """The model of a run at its newest whole checkpoint (or its best), in eval mode. With ``ema``
    its weights are the average that the run kept of them.

    Raises:
        UsageError: ``ema`` is asked for, and the run keeps no average.
        CheckpointError: no checkpoint is whole.
        RunError: the folder lacks its tokenizer.
    """
    exact_float32()
    loaded = load_run(folder.config_path)
    if ema:
        check_average(folder, loaded.config)
    if not (folder.path / TOKENIZER).is_dir():
        raise RunError(f"{folder.path}: has no tokenizer")
    tokenizer = load_tokenizer(folder.path / TOKENIZER)
    config = loaded.config
    architecture = resolve(config.arch, tokenizer.vocab_size + extra_ids(config))
    model = build_model(objective_config(config), architecture, device=torch.device(device))
    tell: Any = warn or logging.getLogger(__name__).warning
    if _plugins_then(folder) != sorted(loaded.plugin_digests.values()):
        tell(f"{folder.path}: a plugin has changed since the run: its weights may not fit it")
    step = load_weights(folder.checkpoints, model, tell, best=best, ema=ema)
    return TrainedModel(model.eval(), tokenizer, step, config, _labels_of(folder, config))


def check_average(folder: RunFolder, config: RunConfig) -> None:
    """Raises UsageError where a run keeps no average of its weights."""
    if config.train.ema is None:
        raise UsageError(
            f"{folder.path}: keeps no average of its weights (train.ema); leave --ema out"
        )


def _labels_of(folder: RunFolder, config: RunConfig) -> tuple[str, ...]:
    if config.data.kind != "labels":
        return ()
    path = folder.path / LABELS
    try:
        labels = tuple(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: the labels cannot be read ({error})") from error
    if len(labels) != config.arch.head.num_classes:
        raise RunError(f"{path}: holds {len(labels)} labels, not as many as the head's classes")
    return labels


def _plugins_then(folder: RunFolder) -> list[str]:
    """The digests of the plugins that the run began with."""
    starts = [event.values for event in folder.read_events() if event.kind == "start"]
    return list(starts[0]["identity"]["arch"].get("plugins", [])) if starts else []


def validation_loss(trained: TrainedModel, max_tokens: int) -> float:
    """The loss of a run's model (or of another form of it) on its validation data, on at most so
    many targets: in nats a token."""
    config = trained.config
    limit = min(max_tokens, config.train.eval_tokens or max_tokens)
    config = config.replace(train=config.train.replace(eval_tokens=limit))
    valid = feed_of(prepare(config.data), config).valid  # a run's own file has settled stages
    objective = objective_of(config.train.objective, trained.model)
    return evaluate(trained.model, valid, trained.tokenizer, objective).loss
