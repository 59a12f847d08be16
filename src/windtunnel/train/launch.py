"""From a run's file to a run: data, architecture, key, folder, training; and back to a model."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from windtunnel.arch import Architecture, Model, build, resolve
from windtunnel.config import annotated_yaml
from windtunnel.data.config import DataConfig, FilesSource, HfConfig
from windtunnel.data.dataset import Dataset, prepare
from windtunnel.data.loader import Batch, Batches, evaluation_batches
from windtunnel.data.progress import Progress
from windtunnel.data.tokenizers import Tokenizer, load_tokenizer
from windtunnel.errors import RunError, UsageError
from windtunnel.generate import SamplingConfig, can_continue, generate
from windtunnel.runs import RunFolder, code_digest, run_key
from windtunnel.train.checkpoint import load_weights
from windtunnel.train.identity import run_identity
from windtunnel.train.loop import resolve_device
from windtunnel.train.objectives.make import objective_of
from windtunnel.train.run_config import LoadedRun, RunConfig, extra_ids, load_run
from windtunnel.train.runner import OnEvent, OnStep, RunParts, train_run

TOKENIZER = "tokenizer"
_SAMPLES = 3
_PROMPT_TOKENS = 24
_SAMPLE_TOKENS = 60


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
    config = loaded.config
    dataset = dataset or prepare(config.data, progress)
    architecture = resolve(config.arch, dataset.tokenizer.vocab_size + extra_ids(config))
    train = config.train
    device = resolve_device(train.device)
    final = config.replace(
        arch=architecture.to_spec(),
        data=_absolute(config.data),
        plugins=tuple(str((loaded.base / path).resolve()) for path in config.plugins),
    )
    arch_values = architecture.model_dump(mode="json")
    del arch_values["name"]
    if loaded.plugin_digests:
        arch_values["plugins"] = sorted(loaded.plugin_digests.values())
    identity = run_identity(
        arch=arch_values,
        data=dataset.fingerprint,
        train=train,
        code=code_digest(),
        torch_version=version("torch"),
        device_type=device.type,
    )
    _check_sizes(dataset, config)
    return ReadyRun(final, architecture, dataset, identity, run_key(identity))


def _absolute(data: DataConfig) -> DataConfig:
    def files(source: Any) -> Any:
        if not isinstance(source, FilesSource):
            return source
        return source.replace(paths=tuple(str(Path(p).absolute()) for p in source.paths))

    tokenizer = data.tokenizer
    if isinstance(tokenizer, HfConfig):
        tokenizer = tokenizer.replace(path=str(Path(tokenizer.path).absolute()))
    return data.replace(
        source=files(data.source), validation=files(data.validation), tokenizer=tokenizer
    )


def _check_sizes(dataset: Dataset, config: RunConfig) -> None:
    """Raises UsageError where the corpus is too short, before a folder is made."""
    train = config.train
    Batches(dataset.train.tokens, seq_len=train.seq_len, batch_size=train.batch_size, seed=0)
    evaluation_batches(dataset.valid.tokens, seq_len=train.seq_len, batch_size=1, max_tokens=2)


def create_run_folder(ready: ReadyRun, path: Path) -> RunFolder:
    """A new folder for the run, with its config and tokenizer.

    Raises:
        UsageError: the folder exists already, or cannot be made.
    """
    folder = RunFolder.create(path, key=ready.key, name=ready.name, config=ready.as_yaml())
    try:
        (path / TOKENIZER).mkdir()
        ready.dataset.tokenizer.save(path / TOKENIZER)
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
    return folder


def run_in_folder(
    folder: RunFolder,
    *,
    ready: ReadyRun | None = None,
    resume: bool = False,
    on_event: OnEvent | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Trains the run of a folder to its end; its record. What may be raised: see ``train_run``."""
    ready = ready or ready_run(load_run(folder.config_path))
    begun = any(event.kind == "start" for event in folder.read_events())
    if not begun and ready.key != folder.key:
        raise UsageError(
            f"{folder.path}: was made for another config, or another version of the code or the "
            "data, and has not begun; choose another folder"
        )
    parts = run_parts(ready)
    return train_run(parts, folder, resume=resume, on_event=on_event, on_step=on_step)


def run_parts(ready: ReadyRun) -> RunParts:
    """Model, batches and the rest of a run, built."""
    train, dataset, architecture = ready.config.train, ready.dataset, ready.architecture
    device = resolve_device(train.device)
    model = build(architecture, train.seed, device=device)
    objective = objective_of(train.objective, model)
    flops_per_token = objective.train_flops_per_token(architecture, train.seq_len)
    return RunParts(
        model=model,
        batches=Batches(
            dataset.train.tokens,
            seq_len=train.seq_len,
            batch_size=train.batch_size,
            seed=train.seed,
        ),
        valid=Evaluation(dataset, ready.config),
        tokenizer=dataset.tokenizer,
        train=train,
        identity=ready.identity,
        flops_per_token=flops_per_token,
        facts={
            "arch_digest": architecture.digest(),
            "data_fingerprint": dataset.fingerprint,
            "flops_per_token": int(flops_per_token),
        },
        samples=lambda model: make_samples(model, dataset),
    )


class Evaluation:
    """The fixed validation batches of a run, gone through as often as asked."""

    def __init__(self, dataset: Dataset, config: RunConfig) -> None:
        self._tokens = dataset.valid.tokens
        self._train = config.train

    def __iter__(self) -> Iterator[Batch]:
        train = self._train
        return evaluation_batches(
            self._tokens,
            seq_len=train.seq_len,
            batch_size=train.micro_batch_size or train.batch_size,
            max_tokens=train.eval_tokens,
        )


def make_samples(model: nn.Module, dataset: Dataset) -> list[dict[str, str]]:
    """Continuations of the same few pieces of validation text, drawn with the same seed."""
    assert isinstance(model, Model)
    if not can_continue(model.architecture):
        return []
    tokens, tokenizer = dataset.valid.tokens, dataset.tokenizer
    limit = model.max_positions or math.inf
    prompt_len = int(min(_PROMPT_TOKENS, len(tokens) // 2, limit // 2))
    new = int(min(_SAMPLE_TOKENS, limit - prompt_len))
    if prompt_len < 1 or new < 1:
        return []
    starts = [len(tokens) * (2 * i + 1) // (2 * _SAMPLES) for i in range(_SAMPLES)]
    starts = [min(start, len(tokens) - prompt_len) for start in starts]
    prompts = [[int(t) for t in tokens[s : s + prompt_len]] for s in starts]
    texts = generate(
        model, prompts, max_new_tokens=new, eos=tokenizer.eos,
        sampling=SamplingConfig(temperature=0.8), seed=0,
    )  # fmt: skip
    return [
        {"prompt": tokenizer.decode(prompt), "text": tokenizer.decode(text)}
        for prompt, text in zip(prompts, texts, strict=True)
    ]


@dataclass(frozen=True)
class TrainedModel:
    """A model as a run left it, with its tokenizer."""

    model: Model
    tokenizer: Tokenizer
    step: int


def open_trained(
    folder: RunFolder, *, device: str = "cpu", warn: Any = None, best: bool = False
) -> TrainedModel:
    """The model of a run at its newest whole checkpoint (or its best), in eval mode.

    Raises:
        CheckpointError: no checkpoint is whole.
        RunError: the folder lacks its tokenizer.
    """
    loaded = load_run(folder.config_path)
    if not (folder.path / TOKENIZER).is_dir():
        raise RunError(f"{folder.path}: has no tokenizer")
    tokenizer = load_tokenizer(folder.path / TOKENIZER)
    config = loaded.config
    architecture = resolve(config.arch, tokenizer.vocab_size + extra_ids(config))
    model = build(architecture, device=torch.device(device))
    tell: Any = warn or logging.getLogger(__name__).warning
    if _plugins_then(folder) != sorted(loaded.plugin_digests.values()):
        tell(f"{folder.path}: a plugin has changed since the run: its weights may not fit it")
    step = load_weights(folder.checkpoints, model, tell, best=best)
    return TrainedModel(model.eval(), tokenizer, step)


def _plugins_then(folder: RunFolder) -> list[str]:
    """The digests of the plugins that the run began with."""
    starts = [event.values for event in folder.read_events() if event.kind == "start"]
    return list(starts[0]["identity"]["arch"].get("plugins", [])) if starts else []


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[str]) -> list[list[int]]:
    """The ids of each prompt; an empty one begins with the tokenizer's bos (or eos)."""
    encoded = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    start = tokenizer.bos if tokenizer.bos is not None else tokenizer.eos
    return [ids or ([] if start is None else [start]) for ids in encoded]
