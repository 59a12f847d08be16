"""A model of ours with weights of Hugging Face, and a run's folder that holds it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from windtunnel.arch import Architecture, Model, build, resolve
from windtunnel.config import annotated_yaml
from windtunnel.data.config import DataConfig, HfConfig
from windtunnel.data.tokenizers import Tokenizer
from windtunnel.data.tokenizers.base import FILE
from windtunnel.data.tokenizers.hf import HfTokenizer
from windtunnel.errors import UsageError
from windtunnel.interop.hf.families import family_of
from windtunnel.interop.hf.mapping import to_ours
from windtunnel.interop.hf.source import (
    check_layers,
    model_folder,
    read_config,
    read_weights,
    with_stored_tie,
    without_tied,
)
from windtunnel.runs import RunFolder, RunStore, code_digest, environment, git_state, run_key
from windtunnel.train.checkpoint import kept_tensors, save_weights
from windtunnel.train.config import TrainConfig
from windtunnel.train.launch import TOKENIZER
from windtunnel.train.run_config import RunConfig


@dataclass(frozen=True)
class Pretrained:
    """What was read: everything that a run's folder needs."""

    model_type: str
    architecture: Architecture
    weights: Mapping[str, Tensor]
    """float32, by our names."""
    tokenizer: Tokenizer | None
    dtypes: tuple[str, ...]
    """What the weights were stored as."""
    notes: list[str] = field(default_factory=list)
    """What was left out, for people."""

    @property
    def params(self) -> int:
        """How many numbers the model has, a tied weight counted once."""
        return sum(weight.numel() for weight in self.weights.values())

    def model(self) -> Model:
        """The model, in eval mode."""
        model = build(self.architecture)
        with torch.no_grad():
            for name, tensor in kept_tensors(model).items():
                tensor.copy_(self.weights[name])
        return model.eval()


def read_pretrained(
    source: str,
    *,
    gguf_file: str | None = None,
    download: bool = False,
    name: str | None = None,
    allow_nonfinite: bool = False,
) -> Pretrained:
    """Reads a model of Hugging Face; nothing is written.

    Args:
        source: a folder with ``config.json`` and safetensors, a ``.gguf`` file, or a name.
        gguf_file: the GGUF file within that folder.
        download: whether a name may be fetched from the hub; else the local cache alone is asked.
        name: what the architecture is called; the source's last part when left out.
        allow_nonfinite: take weights that are NaN or infinite; else they are refused by name.

    Raises:
        UsageError: no such model, an unknown family, or tensors that do not fit; every one is
            named. Its kind NotExpressible names each key of the config that we cannot express.
        DataError: a file is damaged.
    """
    with model_folder(source, gguf_file=gguf_file, download=download) as folder:
        notes: list[str] = []
        values = read_config(folder, notes)
        family = family_of(str(values.get("model_type")))
        theirs = read_weights(folder, family, notes, allow_nonfinite=allow_nonfinite)
        check_layers(values, theirs, folder)
        values = with_stored_tie(values, theirs, family)
        architecture = resolve(family.to_spec(values, notes))
        architecture = architecture.named((name or _name(source))[:100])
        if architecture.embedding.tie:
            theirs = without_tied(theirs, family, folder)
        shapes = {
            name: tuple(tensor.shape)
            for name, tensor in kept_tensors(build(architecture, device="meta")).items()
        }
        weights = to_ours(family.tensors(architecture, shapes), theirs, shapes, str(folder))
        tokenizer = _tokenizer(folder, architecture, notes)
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in theirs.values()})
    return Pretrained(family.model_type, architecture, weights, tokenizer, tuple(dtypes), notes)


def _name(source: str) -> str:
    return Path(source).name.removesuffix(".gguf") or Path(source).resolve().name or "imported"


def _tokenizer(folder: Path, architecture: Architecture, notes: list[str]) -> Tokenizer | None:
    if not (folder / FILE).is_file():
        notes.append(f"there is no {FILE}: the model reads ids alone, and cannot continue text")
        return None
    tokenizer = HfTokenizer.read(folder)
    if tokenizer.vocab_size > architecture.vocab_size:
        raise UsageError(
            f"{folder / FILE}: has {tokenizer.vocab_size} ids, more than the model's "
            f"vocab_size {architecture.vocab_size}"
        )
    return tokenizer


def create_imported_run(
    pretrained: Pretrained, source: str, *, out: Path | None = None, runs: Path
) -> RunFolder:
    """A run's folder with the weights as its only checkpoint, of step 0.

    Its status is ``imported``: it was never trained here, so it has no losses, and it is final.
    Its config trains the same architecture from the start, with the imported tokenizer.

    Raises:
        UsageError: the folder exists already, or cannot be written.
    """
    key = run_key({"imported": _digest(pretrained)})
    architecture = pretrained.architecture
    path = (out or RunStore(runs).path_for(key, architecture.name)).absolute()
    folder = RunFolder.create(path, key=key, name=architecture.name, config=_yaml(pretrained, path))
    try:
        if pretrained.tokenizer is not None:
            (path / TOKENIZER).mkdir()
            pretrained.tokenizer.save(path / TOKENIZER)
        save_weights(folder.checkpoints, pretrained.weights)
        folder.write_record(_record(folder, pretrained, source))
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
    return folder


def _yaml(pretrained: Pretrained, path: Path) -> str:
    architecture = pretrained.architecture
    usual = TrainConfig()
    config = RunConfig(
        arch=architecture.to_spec(),
        data=DataConfig(tokenizer=HfConfig(path=str(path / TOKENIZER))),
        train=usual.replace(seq_len=min(usual.seq_len, architecture.max_seq_len)),
    )
    return annotated_yaml(config)


def _digest(pretrained: Pretrained) -> str:
    """The SHA-256 of the architecture and all weights."""
    total = hashlib.sha256(pretrained.architecture.digest().encode())
    for name in sorted(pretrained.weights):
        total.update(name.encode())
        total.update(pretrained.weights[name].reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _record(folder: RunFolder, pretrained: Pretrained, source: str) -> dict[str, Any]:
    local = Path(source).expanduser()
    return {
        "key": folder.key,
        "name": folder.name,
        "status": "imported",
        "imported": {
            "from": str(local.resolve()) if local.exists() else source,
            "model_type": pretrained.model_type,
            "stored_as": list(pretrained.dtypes),
            "transformers": version("transformers"),
            "notes": pretrained.notes,
        },
        "arch_digest": pretrained.architecture.digest(),
        "params": pretrained.params,
        "steps": 0,
        "environment": environment(torch.get_num_threads()),
        "git": git_state(),
        "code_digest": code_digest(),
    }
