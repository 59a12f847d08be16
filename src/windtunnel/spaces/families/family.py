"""What a family of architectures is, and the registry of all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from windtunnel.config import Document, suggestion
from windtunnel.errors import UsageError

_DEFAULT_VOCABULARY, _SMALLEST_VOCABULARY = 4096, 259
"""Of the tokenizer that a run file has where it names none, and the smallest that it can have."""
_DEFAULT_SEQ_LEN = 256
_MOST_SIZE, _MOST_LAYERS = 2**31, 100_000


def _size(value: Any) -> bool:
    return type(value) is int and 1 <= value < _MOST_SIZE


def _share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1


def _truth(value: Any) -> bool:
    return type(value) is bool


def _depth(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _MOST_LAYERS


_SIZE = ("whole numbers from 1 to 2^31 - 1", _size)
_DEPTH = ("whole numbers from 1 to 100,000", _depth)
ALLOWED: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "d_model": _SIZE, "n_layer": _DEPTH, "n_head": _SIZE, "ff_ratio": _SIZE,
    "p_drop": ("numbers from 0 to below 1", _share), "tie_weights": ("true and false", _truth),
}  # fmt: skip
"""What the values of an axis of that name must be, in words and as a test."""
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
    bounded: ClassVar[bool] = True
    """Whether values on axes of the names in :data:`ALLOWED` must be as that says."""
    told: ClassVar[bool] = True
    """Whether its name and the values of its axes tell a member, so that they are its structure."""
    closed: ClassVar[bool] = True
    """Whether :meth:`params` is a closed form; else members are built up and counted."""

    def check(self, name: str, values: Sequence[Any]) -> None:
        """Raises UsageError for a value that an axis cannot have."""
        wrong = self.unfit(name, values)
        if wrong is not None:
            allowed = ALLOWED[name][0]
            raise UsageError(f"family {self.name}: {name} takes {allowed}, not {values[wrong]!r}")

    def unfit(self, name: str, values: Sequence[Any]) -> int | None:
        """The place of the first value that an axis cannot have; what is not among :data:`ALLOWED`
        may be anything."""
        if not self.bounded or name not in ALLOWED:
            return None
        fits = ALLOWED[name][1]
        return next((n for n, value in enumerate(values) if not fits(value)), None)

    def identity(self) -> Any:
        """What two families must have alike so that equal values give equal members."""
        return self.name

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
    if known is not None and _whence(type(known)) != _whence(kind):
        raise UsageError(f"a family named {family.name!r} is there already, of "
                         f"{_whence(type(known))[0]}; choose another name")  # fmt: skip
    if tuple(family.parts) != family.axes:
        raise UsageError(f"family {family.name}: parts names {', '.join(family.parts)}, axes "
                         f"{', '.join(family.axes)}")  # fmt: skip
    _FAMILIES[family.name] = family
    return kind


def _whence(kind: type[Family]) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__


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
