"""Which members, in which order: a range, a list of indices, or a shuffle of either that is never
written down."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from windtunnel.data.order import KeyedPermutation
from windtunnel.spaces.axis import Indices


class Selection(Protocol):
    """Positions ``0 … len - 1`` → indices of a space."""

    def __len__(self) -> int: ...

    def at(self, position: int) -> int:
        """The index at one position."""

    def many(self, positions: Indices) -> Indices:
        """The indices at several."""

    def cut(self, window: slice) -> Selection:
        """Those of a slice of the positions."""


@dataclass(frozen=True)
class Run:
    """Every so many of them, as a range."""

    window: range

    def __len__(self) -> int:
        return len(self.window)

    def at(self, position: int) -> int:
        return self.window[position]

    def many(self, positions: Indices) -> Indices:
        return self.window.start + self.window.step * positions

    def cut(self, window: slice) -> Run:
        return Run(self.window[window])


@dataclass(frozen=True, eq=False)
class Listed:
    """An array of indices, of four bytes where those are enough."""

    indices: NDArray[Any]

    def __len__(self) -> int:
        return len(self.indices)

    def at(self, position: int) -> int:
        return int(self.indices[position])

    def many(self, positions: Indices) -> Indices:
        return self.indices[positions].astype(np.int64)

    def cut(self, window: slice) -> Listed:
        return Listed(self.indices[window])


@dataclass(frozen=True, eq=False)
class Shuffled:
    """A part of a keyed permutation of another selection."""

    base: Selection
    permutation: KeyedPermutation
    window: range

    def __len__(self) -> int:
        return len(self.window)

    def at(self, position: int) -> int:
        return self.base.at(self.permutation.at(self.window[position]))

    def many(self, positions: Indices) -> Indices:
        places = self.window.start + self.window.step * positions
        return self.base.many(self.permutation(places))

    def cut(self, window: slice) -> Shuffled:
        return replace(self, window=self.window[window])


def listed(indices: NDArray[Any]) -> Listed:
    """Indices in the narrowest form."""
    small = indices.size == 0 or int(indices.max()) < 2**31
    return Listed(indices.astype(np.int32 if small else np.int64, copy=False))


def shuffled(base: Selection, seed: int) -> Selection:
    """All of ``base``, each once, in an order that the seed chooses."""
    if not len(base):
        return base
    permutation = KeyedPermutation(len(base), "space", seed)
    return Shuffled(base, permutation, range(len(base)))
