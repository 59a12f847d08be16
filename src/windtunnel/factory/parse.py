"""From a file of the factory format to its configs; every mistake at once, with its place."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from windtunnel.config import Config, Document, decode, load_document
from windtunnel.config import Path as ConfigPath
from windtunnel.errors import ConfigError, Problem, UsageError
from windtunnel.factory.configs import (
    DecoderConfig,
    EncoderConfig,
    EncoderDecoderConfig,
    ModelConfig,
    ModelType,
)
from windtunnel.factory.dataset_config import DatasetConfig, DatasetsFile, dataset_configs
from windtunnel.factory.types import REQUIRED, DecoderSection, PartialParams, PerformerParams

_SECTIONS = {
    "encoder": ("encoder",),
    "decoder": ("decoder",),
    "encoder_decoder": ("encoder", "decoder"),
}
_OF_FEATURES = ("nb_features", "feature_redraw_interval", "auto_check_redraw")


class ModelSection(Config):
    """What stands under ``model:``."""

    model_type: ModelType
    """encoder, decoder or encoder_decoder."""
    name: str = Field("transformer", min_length=1, max_length=100)
    """What the model is called."""
    global_config: PartialParams = PartialParams()
    """Fills what `encoder` and `decoder` leave out; what they write wins."""
    encoder: PartialParams | None = None
    """The parameters of the encoder."""
    decoder: DecoderSection | None = None
    """The parameters of the decoder."""


class _ModelFile(Config):
    model: ModelSection
    global_config: Any = None
    datasets: Any = None


def parse_model_config(path: Path | str) -> ModelConfig:
    """The model of a file: what stands under ``model:``. The datasets are not looked at.

    A key without effect is a ``UserWarning``.

    Raises:
        ConfigError: every mistake at once, each with file, line, column and what is allowed.
        UsageError: the file cannot be read.
    """
    config, told = model_of_document(load_document(path))
    for text in told:
        warnings.warn(f"{path}: {text}", UserWarning, stacklevel=2)
    return config


def parse_dataset_configs(path: Path | str) -> tuple[DatasetConfig, ...]:
    """The datasets of a file, with its top-level ``global_config``. The model is not looked at.

    Raises:
        ConfigError: every mistake at once.
        UsageError: the file cannot be read.
    """
    return datasets_of_document(load_document(path))


def parse_config(path: Path | str) -> tuple[ModelConfig, tuple[DatasetConfig, ...]]:
    """The model and the datasets of a file.

    Raises:
        ConfigError: every mistake of both at once.
        UsageError: the file cannot be read.
    """
    problems: list[Problem] = []
    found: list[Any] = []
    for parse in (parse_model_config, parse_dataset_configs):
        try:
            found.append(parse(path))
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    model, datasets = found
    return model, datasets


def model_of_document(document: Document) -> tuple[ModelConfig, list[str]]:
    """The model of a document, and warnings: keys that have no effect.

    Raises:
        ConfigError: every mistake at once.
    """
    section = decode(document, _ModelFile, lambda file: _misfits(file.model, document)).model
    params = {name: _complete(section, name) for name in _SECTIONS[section.model_type]}
    config: EncoderConfig | DecoderConfig | EncoderDecoderConfig
    if section.model_type == "encoder":
        config = EncoderConfig(params["encoder"])
    elif section.model_type == "decoder":
        assert section.decoder is not None, "a missing section was not told"
        config = DecoderConfig(params["decoder"], section.decoder.use_cross_attention)
    else:
        config = _both(params, document)
    return ModelConfig(section.model_type, config, section.name), _without_effect(section)


def _both(params: dict[str, PerformerParams], document: Document) -> EncoderDecoderConfig:
    try:
        return EncoderDecoderConfig(params["encoder"], params["decoder"])
    except UsageError as error:
        place = document.place(("model", "decoder"))
        raise ConfigError([Problem("model", str(error), place)]) from None


def datasets_of_document(document: Document) -> tuple[DatasetConfig, ...]:
    """The datasets of a document, with the top-level ``global_config``; empty where it has none.

    Raises:
        ConfigError: every mistake at once.
    """
    return dataset_configs(decode(document, DatasetsFile))


def _misfits(section: ModelSection, document: Document) -> list[tuple[ConfigPath, str]]:
    """What the sections and the global part do not give between them, or give wrongly."""
    found: list[tuple[ConfigPath, str]] = []
    for name in _SECTIONS[section.model_type]:
        written = getattr(section, name)
        if written is None:
            found.append((("model", name), f"is required: model_type is {section.model_type}"))
            continue
        values = _merged(section.global_config, written)
        places = [("model", name), ("model", "global_config")]
        missing = [key for key in REQUIRED if values.get(key) is None]
        wrong = [key for key in missing if any(document.get((*p, key)) is not None for p in places)]
        if missing and not wrong:  # a wrong value is told where it stands
            text = f"{', '.join(missing)}: required here or in model.global_config"
            found.append((("model", name), text))
        if missing:
            continue
        try:
            PerformerParams(**values)
        except ValidationError as error:
            texts = [detail["msg"].removeprefix("Value error, ") for detail in error.errors()]
            found.append((("model", name), "; ".join(texts)))
    return found


def _merged(shared: PartialParams, written: PartialParams) -> dict[str, Any]:
    """What the section writes, and of the rest what the global part writes; null where a value is
    required writes nothing."""
    values: dict[str, Any] = {}
    for part in (shared, written):
        found = {name: getattr(part, name) for name in part.model_fields_set}
        values |= {k: v for k, v in found.items() if v is not None or k not in REQUIRED}
    return {name: values[name] for name in PerformerParams.model_fields if name in values}


def _complete(section: ModelSection, name: str) -> PerformerParams:
    return PerformerParams(**_merged(section.global_config, getattr(section, name)))


def _without_effect(section: ModelSection) -> list[str]:
    """Keys that were written and change nothing."""
    told = []
    used = _SECTIONS[section.model_type]
    for name in ("encoder", "decoder"):
        written: PartialParams | None = getattr(section, name)
        if written is None:
            continue
        if name not in used:
            told.append(f"model.{name} has no effect: model_type is {section.model_type}")
            continue
        keys = written.model_fields_set
        if _complete(section, name).attention_type == "softmax":
            idle = [key for key in _OF_FEATURES if key in keys]
            told += [f"model.{name}.{key} has no effect on softmax attention" for key in idle]
    if section.model_type == "encoder_decoder" and section.decoder is not None:
        crossed = section.decoder
        if "use_cross_attention" in crossed.model_fields_set and not crossed.use_cross_attention:
            told.append(
                "model.decoder.use_cross_attention: false has no effect: the decoder of an "
                "encoder_decoder always reads its encoder"
            )
    return told
