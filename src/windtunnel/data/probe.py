"""Synthetic tasks that tell architectures apart in seconds: what every one of them offers.

A task is a data source: it says which symbols it has, and makes example after example from a seed.
An example is a sequence of symbols, and for some of its places the symbol that is to be found
there, from what stands at that place and before it. No torch, no NumPy here.
"""

from __future__ import annotations

import hashlib
import inspect
import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from windtunnel.config.base import Config

T = TypeVar("T")
LARGEST = 2**27
"""Tokens of a task's training sequences together, at most: 256 MiB."""


class Draw:
    """Random choices that are the same on every machine and with every version of Python.

    Of Python's generator only ``random()`` is used, whose numbers are promised to stay.

    >>> Draw("mqar", 0, "train", 7).below(100) == Draw("mqar", 0, "train", 7).below(100)
    True
    """

    def __init__(self, *key: int | str) -> None:
        self.key = key
        text = ":".join(str(part) for part in key)
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
        self._random = random.Random(seed).random

    def share(self) -> float:
        """A number from 0 to below 1."""
        return self._random()

    def below(self, n: int) -> int:
        """One of 0 … n − 1."""
        return int(self._random() * n)

    def distinct(self, n: int, count: int) -> list[int]:
        """``count`` different ones of 0 … n − 1, in random order."""
        assert 0 <= count <= n
        moved: dict[int, int] = {}  # Fisher and Yates, of a list that is never written out
        found = []
        for place in range(count):
            other = place + self.below(n - place)
            found.append(moved.get(other, other))
            moved[other] = moved.get(place, place)
        return found

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The same in random order."""
        return [items[place] for place in self.distinct(len(items), len(items))]

    def places(self, n: int, count: int) -> list[int]:
        """``count`` different ones of 0 … n − 1, ascending."""
        return sorted(self.distinct(n, count))


class Example(NamedTuple):
    """A sequence, and what is to be found in it."""

    tokens: list[int]
    """The ids that are read."""
    answers: list[tuple[int, int]]
    """Places, ascending, and the id that is to be found at each."""


def _several(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else (value,) if type(value) is int else value


Lengths = Annotated[
    tuple[Annotated[int, Field(gt=0)], ...],
    BeforeValidator(_several, json_schema_input_type=int | list[int]),
]


class ProbeSource(Config):
    """The base of all tasks; ``type`` picks one. A task is one file with one class.

    A subclass gives its ``type``, its axes of difficulty as fields, and :attr:`symbols`,
    :attr:`chance`, :attr:`span` and :meth:`example`. It may have :meth:`fault`.
    """

    kind: ClassVar[Literal["probe"]] = "probe"
    """What it holds: sequences, some of whose places have an answer."""
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """More difficult forms by name (medium, hard); ``easy`` are the defaults."""
    disjoint: ClassVar[bool] = True
    """Whether no sequence of one side (train, validation, test) is on another."""

    type: str
    """The task."""
    samples: int = Field(default=8192, gt=0)
    """Sequences to train on; an epoch has each of them once."""
    held_samples: int = Field(default=512, gt=0, le=2**17)
    """Sequences of validation, and as many of the test (for each of its lengths)."""
    test_lengths: Lengths = ()
    """Longer sequences that the test has besides: `length` in place of the own. Ascending."""

    @property
    @abstractmethod
    def symbols(self) -> tuple[str, ...]:
        """The vocabulary: a name for each id, without white space."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """The accuracy that is expected of an answer that does not look at the sequence."""

    @property
    @abstractmethod
    def span(self) -> int:
        """Tokens of the longest sequence, of the own length."""

    @abstractmethod
    def example(self, draw: Draw) -> Example:
        """An example, made of ``draw`` and the config alone."""

    def fault(self) -> str | None:
        """Why no example can be made with these numbers; None where one can."""
        return None

    def longer_example(self, draw: Draw, length: int) -> Example:
        """An example of another length, for the test."""
        return self.at_length(length).example(draw)

    def at_length(self, length: int) -> Self:
        """The same task with another ``length``."""
        return self.model_copy(update={"length": length, "test_lengths": ()})

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of the longest sequences of the test: of the own length, and of the longer."""
        return (self.span, *(self.at_length(length).span for length in self.test_lengths))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence there is."""
        return max(self.lengths)

    def at_level(self, level: str) -> Self:
        """The task as difficult as ``level``: easy, or one of ``levels``."""
        return self if level == "easy" else self.replace(**self.levels[level])

    def absolute(self) -> Self:
        """The same: there are no paths."""
        return self

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if reason := self.fault():
            raise ValueError(reason)
        if self.test_lengths:
            self._check_lengths()
        if (size := self.samples * self.span) > LARGEST:
            raise ValueError(
                f"samples × {self.span} tokens are {size:,}; at most {LARGEST:,} are kept"
            )
        return self

    def _check_lengths(self) -> None:
        own = getattr(self, "length", None)
        if own is None:
            raise ValueError(f"{self.type} has no `length` that test_lengths could change")
        if list(self.test_lengths) != sorted({own, *self.test_lengths})[1:]:
            raise ValueError(
                f"test_lengths {list(self.test_lengths)} must ascend, each more than length {own}"
            )
        for length in self.test_lengths:
            if reason := self.at_length(length).fault():
                raise ValueError(f"test_lengths: with length {length}: {reason}")


_TASKS: dict[str, type[ProbeSource]] = {}
P = TypeVar("P", bound=type[ProbeSource])


def register_probe(cls: P) -> P:
    """Makes a task known under its ``type``; a user's own, in a file of ``plugins:``, too.

    Raises:
        ValueError: the type is taken.
    """
    fields: Mapping[str, Any] = cls.model_fields  # type: ignore[call-overload]
    name = fields["type"].default
    if name in _TASKS and _TASKS[name].__module__ != cls.__module__:
        raise ValueError(f"there is a probe of type {name!r} already")
    _TASKS[name] = cls
    return cls


def registered_probes() -> Mapping[str, type[ProbeSource]]:
    """The tasks that are known by now, by type."""
    return _TASKS


def code_of(task: ProbeSource) -> str:
    """The SHA-256 of the code that makes a task's examples: other code, another corpus."""
    ours = [cls for cls in type(task).__mro__ if issubclass(cls, ProbeSource)]
    files = dict.fromkeys(inspect.getfile(cls) for cls in ours)
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()
