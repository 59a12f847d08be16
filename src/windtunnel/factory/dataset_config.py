"""The datasets of the factory format, as data. No speech library is needed to read them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from windtunnel.config import Config
from windtunnel.config.nearest import suggestion
from windtunnel.factory.recipes import RECIPES

Scalar = str | int | float | bool | None
Options = dict[str, Scalar | tuple[Scalar, ...]]
"""Keyword arguments for a recipe's function, as that function names them."""


def _recipe(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    name = value.lower()
    if name not in RECIPES:
        raise ValueError(f"unknown dataset {value!r}{suggestion(name, RECIPES)}")
    return name


class _Shared(Config):
    corpus_dir: str | None = Field(None, min_length=1)
    """Folder that corpora are downloaded into; each recipe makes its own folder there."""
    output_dir: str | None = Field(None, min_length=1)
    """Folder for manifests."""
    force_download: bool | None = None
    """Whether to download again what is there."""
    download_params: Options = Field(default_factory=dict)
    """Further arguments of the recipe's download."""
    process_params: Options = Field(default_factory=dict)
    """Further arguments of the recipe's preparation."""


class GlobalDatasets(_Shared):
    """The top-level ``global_config``: what the datasets leave out."""


class DatasetConfig(_Shared):
    """One dataset: a recipe's name and where its files are.

    >>> DatasetConfig(name="LibriSpeech", output_dir="m").name
    'librispeech'
    """

    name: Annotated[str, BeforeValidator(_recipe)]
    """The recipe's name, in capitals or not."""


class DatasetsFile(Config):
    """The part of a file that speaks of datasets."""

    global_config: GlobalDatasets = GlobalDatasets()
    """What all datasets share."""
    datasets: tuple[DatasetConfig, ...] = ()
    """The datasets, in their order."""
    model: Any = None
    """Not looked at."""


def dataset_configs(file: DatasetsFile) -> tuple[DatasetConfig, ...]:
    """Each dataset with what it leaves out filled in; manifests go to ``output_dir/name``."""
    shared = file.global_config
    found = []
    for dataset in file.datasets:
        output = dataset.output_dir
        if output is None and shared.output_dir is not None:
            output = f"{shared.output_dir.rstrip('/')}/{dataset.name}"
        found.append(
            dataset.replace(
                corpus_dir=dataset.corpus_dir or shared.corpus_dir,
                output_dir=output,
                force_download=(
                    shared.force_download
                    if dataset.force_download is None
                    else dataset.force_download
                ),
                download_params={**shared.download_params, **dataset.download_params},
                process_params={**shared.process_params, **dataset.process_params},
            )
        )
    return tuple(found)
