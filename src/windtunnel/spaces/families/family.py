"""What a family of architectures is, and the registry of all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from windtunnel.config import Document, suggestion
from windtunnel.errors import UsageError

_DEFAULT_VOCABULARY, _SMALLEST_VOCABULARY = 4096, 259
"""Of the tokenizer that a run file has where it names none, and the smallest that it can have."""
_DEFAULT_SEQ_LEN = 256
F = TypeVar("F", bound="type[Family]")
_FAMILIES: dict[str, Family] = {}


class Family(ABC):
    """Architectures of one kind, told apart by some values.

    One file makes a family: a subclass under :func:`register`. Values come as a mapping from the
    names in ``axes``, with ``vocab_size`` and ``max_seq_len`` beside them.
    """

    name: ClassVar[str]
    """What it is called in files, conditions and metadata (``model_type``)."""
    axes: ClassVar[tuple[str, ...]]
    """The names of its axes, the outermost first."""
    parts: ClassVar[Mapping[str, str]]
    """How each axis stands in a member's name: ``{"d_model": "{}d"}``."""
    coupled: ClassVar[tuple[str, ...]] = ()
    """The axes that :meth:`valid` reads."""
    free: ClassVar[frozenset[str]] = frozenset({"p_drop"})
    """The axes that change no tensor: members that differ in nothing else are one structure."""
    twin: ClassVar[str | None] = None
    """Another family that has the same tensors and computes the same with them, so that a split
    must keep equal sizes of both on one side."""

    folder: Path = Path()
    """What plugins of the run file are relative to."""
    closed: ClassVar[bool] = True
    """Whether :meth:`params` is a closed form; else members are built up and counted."""

    def valid(self, values: Mapping[str, Any]) -> Any:
        """Which combinations of the coupled axes there are; arrays in, truths out."""
        raise NotImplementedError

    @abstractmethod
    def params(self, values: Mapping[str, Any]) -> Any:
        """The number of parameters, in closed form; takes arrays too."""

    @abstractmethod
    def arch(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What stands under ``arch:`` in a run file, without the name."""

    def document(self, values: Mapping[str, Any]) -> Document:
        """The run file: the architecture, and of data and recipe what must fit its sizes."""
        return Document({"arch": self.arch(values), **fitting(values)}, source=self.name)

    def derived(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """More columns for conditions, from arrays or numbers: ``d_ff``."""
        del values
        return {}

    def config(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The sizes as the metadata tell them."""
        return dict(values)


def register(kind: F) -> F:
    """Joins a family to those that spaces, run files and loaders know by name.

    Raises:
        UsageError: another family has that name, or parts that do not fit its axes.
    """
    family = kind()
    known = _FAMILIES.get(family.name)
    if known is not None and type(known).__qualname__ != kind.__qualname__:
        raise UsageError(f"a family named {family.name!r} is there already")
    if tuple(family.parts) != family.axes:
        raise UsageError(f"family {family.name}: parts names {', '.join(family.parts)}, axes "
                         f"{', '.join(family.axes)}")  # fmt: skip
    _FAMILIES[family.name] = family
    return kind


def family_names() -> tuple[str, ...]:
    """The names of all families, in the order in which they joined."""
    return tuple(_FAMILIES)


def family_of(name: str) -> Family:
    """The family of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in _FAMILIES:
        raise UsageError(f"unknown family {name!r}{suggestion(name, _FAMILIES)}")
    return _FAMILIES[name]


def twins_of(name: str) -> frozenset[str]:
    """All families with the same tensors as this one, itself among them."""
    first = _FAMILIES[name].twin or name if name in _FAMILIES else name
    return frozenset(
        {name, first} | {other for other, family in _FAMILIES.items() if family.twin == first}
    )


def fitting(values: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a run file that must differ from their defaults for these sizes."""
    found: dict[str, Any] = {}
    vocabulary, longest = values["vocab_size"], values["max_seq_len"]
    if _SMALLEST_VOCABULARY <= vocabulary < _DEFAULT_VOCABULARY:
        found["data"] = {"tokenizer": {"type": "bpe", "vocab_size": vocabulary}}
    if longest < _DEFAULT_SEQ_LEN:
        found["train"] = {"seq_len": longest}
    return found


def number(values: Mapping[str, Any], *names: str) -> tuple[Any, ...]:
    """Several values at once."""
    return tuple(values[name] for name in names)
