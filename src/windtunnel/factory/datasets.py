"""Datasets of the factory format, through lhotse: download, prepare, a CutSet for each split."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from windtunnel.config.nearest import suggestion
from windtunnel.errors import DataError, UsageError
from windtunnel.factory.dataset_config import DatasetConfig
from windtunnel.factory.recipes import RECIPES

EXTRA = "speech"


class DatasetManager:
    """Loads datasets by their recipes."""

    @staticmethod
    def load_datasets(datasets: Sequence[DatasetConfig]) -> list[Any]:
        """One ``lhotse.CutSet`` for each split of each dataset, in their order.

        Every recipe and argument is checked before anything is downloaded.

        Raises:
            UsageError: lhotse is not installed, or a recipe does not take an argument.
            DataError: a recipe gave nothing that has recordings.
        """
        lhotse = _lhotse()
        steps = [_Steps(dataset) for dataset in datasets]
        return [cuts for step in steps for cuts in cut_sets(step.manifests(), step.name, lhotse)]


def _lhotse() -> Any:
    try:
        return importlib.import_module("lhotse")
    except ImportError as error:
        raise UsageError(
            f"datasets need the extra {EXTRA!r}: pip install 'windtunnel[{EXTRA}]' ({error})"
        ) from None


class _Steps:
    """The two calls that a dataset needs, checked."""

    def __init__(self, dataset: DatasetConfig) -> None:
        self.name = dataset.name
        self.recipe = RECIPES[dataset.name]
        self.prepare = _function(self.recipe.module, self.recipe.prepare)
        self.download = None
        self.download_arguments: dict[str, Any] = {}
        if self.recipe.download is not None:
            self.download = _function(self.recipe.module, self.recipe.download)
            target = {self.recipe.target_argument: dataset.corpus_dir}
            again = {"force_download": dataset.force_download}
            self.download_arguments = _given(target | again) | dataset.download_params
            _check(self.download, self.download_arguments, self.name)
        output = _given({"output_dir": dataset.output_dir})
        self.arguments = output | dataset.process_params
        self.corpus: Any = dataset.corpus_dir
        _check(self.prepare, self._with_corpus("."), self.name)
        told = self.recipe.corpus_argument in (None, *self.arguments) or self.corpus is not None
        if self.download is None and not told:
            raise UsageError(f"{self.name}: has no download; give corpus_dir")

    def manifests(self) -> Any:
        """What the recipe prepares. A folder that the download names is the corpus's."""
        found = self.corpus
        if self.download is not None:
            found = self.download(**self.download_arguments) or found
        return self.prepare(**self._with_corpus(found))

    def _with_corpus(self, folder: Any) -> dict[str, Any]:
        argument = self.recipe.corpus_argument
        return self.arguments if argument is None else {argument: folder, **self.arguments}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _function(module: str, name: str) -> Callable[..., Any]:
    """A function of a recipe; by attribute, as not all of them are exported."""
    recipes = importlib.import_module("lhotse.recipes")
    if not hasattr(recipes, name):
        try:
            recipes = importlib.import_module(f"lhotse.recipes.{module}")
        except ImportError as error:
            raise UsageError(f"lhotse has no recipe {module!r}: {error}") from None
    function: Callable[..., Any] | None = getattr(recipes, name, None)
    if function is None:
        raise UsageError(f"lhotse.recipes has no {name}; another version of lhotse may have it")
    return function


def _check(function: Callable[..., Any], arguments: Mapping[str, Any], dataset: str) -> None:
    """Raises UsageError where the function does not take these arguments."""
    signature = inspect.signature(function)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for name in () if open_ended else arguments:
        if name not in signature.parameters:
            hint = suggestion(name, signature.parameters)
            raise UsageError(f"{dataset}: {function.__name__} has no argument {name!r}{hint}")
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise UsageError(f"{dataset}: {function.__name__}: {error}") from None


def cut_sets(manifests: Any, name: str, lhotse: Any) -> Iterator[Any]:
    """A CutSet for each split of what a recipe prepared.

    Recipes give (recordings, supervisions), a RecordingSet, a mapping of manifests by their kind,
    or a mapping of splits to any of these.

    Raises:
        DataError: nothing in it has recordings.
    """
    if isinstance(manifests, lhotse.CutSet):
        yield manifests
    elif isinstance(manifests, lhotse.RecordingSet):
        yield lhotse.CutSet.from_manifests(recordings=manifests)
    elif isinstance(manifests, tuple) and len(manifests) == 2:
        yield _joined({"recordings": manifests[0], "supervisions": manifests[1]}, name, lhotse)
    elif isinstance(manifests, Mapping) and _KINDS.keys() & manifests.keys():
        yield _joined(manifests, name, lhotse)
    elif isinstance(manifests, Mapping) and manifests:
        for split, inner in manifests.items():
            yield from cut_sets(inner, f"{name}.{split}", lhotse)
    else:
        found = type(manifests).__name__
        raise DataError(f"{name}: the recipe gave no recordings ({found})")


_KINDS = {
    "recordings": "recordings",
    "recording": "recordings",
    "audio": "recordings",
    "supervisions": "supervisions",
    "supervision": "supervisions",
    "cuts": "cuts",
}


def _joined(manifests: Mapping[str, Any], name: str, lhotse: Any) -> Any:
    parts = {kind: manifests[key] for key, kind in _KINDS.items() if manifests.get(key) is not None}
    if "cuts" in parts:
        return parts["cuts"]
    if "recordings" not in parts:
        raise DataError(f"{name}: the recipe gave no recordings ({', '.join(manifests)})")
    return lhotse.CutSet.from_manifests(**parts)
