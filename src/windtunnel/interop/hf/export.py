"""A run's model as a folder that transformers loads."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from windtunnel.arch import Architecture, build, diff, resolve
from windtunnel.data.tokenizers import Tokenizer, load_tokenizer
from windtunnel.errors import UsageError
from windtunnel.interop.hf.families import family_for, family_of
from windtunnel.interop.hf.family import Family, NotExpressible
from windtunnel.interop.hf.mapping import to_theirs
from windtunnel.interop.hf.source import SINGLE, transformers
from windtunnel.interop.hf.tokenizer import tokenizer_files
from windtunnel.runs import RunFolder, sync_folder, write_atomic
from windtunnel.train.checkpoint import Warn, kept_tensors, load_weights
from windtunnel.train.launch import TOKENIZER, check_average
from windtunnel.train.run_config import extra_ids, load_run
from windtunnel.train.tensors import write_tensors


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    model_type: str
    params: int
    notes: list[str] = field(default_factory=list)
    """What was left out, for people."""


def export_run(
    folder: RunFolder,
    out: Path,
    *,
    model_type: str | None = None,
    best: bool = False,
    ema: bool = False,
    warn: Warn = lambda text: None,
) -> Exported:
    """Writes config, weights and tokenizer of a run's newest checkpoint (or its best).

    Args:
        model_type: of the family to write; the first that fits when left out.
        ema: the average of the weights in place of the weights.

    Raises:
        UsageError: ``out`` exists, the family is not known, or the run keeps no average. Its kind
            NotExpressible names each part of the architecture that has no counterpart.
        CheckpointError: no checkpoint is whole.
    """
    config = load_run(folder.config_path).config
    if ema:
        check_average(folder, config)
    tokenizer = None
    if (folder.path / TOKENIZER).is_dir():
        tokenizer = load_tokenizer(folder.path / TOKENIZER)
    vocabulary = None if tokenizer is None else tokenizer.vocab_size + extra_ids(config)
    architecture = resolve(config.arch, vocabulary)
    family = family_for(architecture) if model_type is None else family_of(model_type)
    notes: list[str] = []
    values = family.to_config(architecture, notes)
    _refuse_existing(out)
    model = build(architecture)
    load_weights(folder.checkpoints, model, warn, best=best, ema=ema)
    return write_folder(
        out, family, architecture, kept_tensors(model), tokenizer, values=values, notes=notes
    )


def write_folder(
    out: Path,
    family: Family,
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    *,
    values: Mapping[str, Any] | None = None,
    notes: list[str] | None = None,
) -> Exported:
    """Writes a folder for transformers, whole or not at all.

    Args:
        weights: by our names.
        values: of the config, where ``family.to_config`` was asked already.

    Raises:
        UsageError: ``out`` exists or cannot be written, or a part has no counterpart.
    """
    notes = [] if notes is None else notes
    values = family.to_config(architecture, notes) if values is None else values
    _refuse_existing(out)
    files = None if tokenizer is None else tokenizer_files(tokenizer)
    if files is None:
        kind = "there is none" if tokenizer is None else f"{tokenizer.kind!r} has no counterpart"
        notes.append(f"no tokenizer was written: {kind}")
    config = _config(family, values, tokenizer)
    theirs = to_theirs(family.tensors(architecture, weights.keys()), weights)
    draft = out.parent / f".{out.name}.{uuid.uuid4().hex}.tmp"
    try:
        draft.mkdir(parents=True)
        for name, text in {"config.json": config, **(files or {})}.items():
            write_atomic(draft / name, text)
        write_tensors(draft / SINGLE, theirs)
        os.rename(draft, out)  # fails where another process was first
        sync_folder(out.parent)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise UsageError(f"{out}: cannot be written: {error.strerror}") from error
    params = sum(tensor.numel() for tensor in weights.values())
    return Exported(out, family.model_type, params, notes)


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise UsageError(f"{out}: already exists; choose another folder")


def _config(family: Family, values: Mapping[str, Any], tokenizer: Tokenizer | None) -> str:
    """``config.json``, checked by transformers.

    Raises:
        UsageError: transformers refuses it. Its kind NotExpressible: it makes another model of it.
    """
    specials = {} if tokenizer is None else tokenizer.specials
    values = {
        **{key: value for key, value in values.items() if key != "model_type"},
        **{f"{name}_token_id": specials.get(name) for name in ("bos", "eos", "pad")},
        "architectures": [family.causal_class],
        "dtype": "float32",
    }
    wanted = resolve(family.to_spec(values))
    try:
        config = transformers().AutoConfig.for_model(family.model_type, **values)
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(
            f"transformers refuses a {family.model_type} of this kind: {reason}"
        ) from error
    written = config.to_dict()
    if family.stored_tie:  # older versions ask the config
        written["tie_word_embeddings"] = values["tie_word_embeddings"]
    for changed in diff(wanted, resolve(family.to_spec(written))):
        # GemmaConfig takes gelu for its approximation
        raise NotExpressible(
            f"{changed.path}: {changed.first} has no counterpart in {family.model_type} "
            f"(transformers makes {changed.second} of it)"
        )
    return json.dumps(written, indent=2, sort_keys=True) + "\n"
