"""Batches of a plan: which rows of which sources each of them holds, by random access."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import gcd
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from windtunnel.data.order import KeyedPermutation

Rows = NDArray[np.int64]


class RowSource(Protocol):
    """An endless stream of rows (windows of a text, or samples), each epoch in its own order."""

    def __len__(self) -> int:
        """Rows of an epoch."""
        ...

    def take(self, numbers: Rows) -> Sequence[Any]:
        """Rows by their numbers in the stream, from 0."""
        ...


@dataclass(frozen=True)
class PlannedStage:
    """A part of a plan: so many rows, cut into batches, the last of which may be short."""

    weights: Mapping[str, int]
    """Rows of each source in a cycle; see :class:`Mix`."""
    batch_size: int
    rows: int

    @property
    def steps(self) -> int:
        """Batches."""
        return -(-self.rows // self.batch_size)


class Mix:
    """In which order the rows of several sources follow each other.

    A cycle has as many rows as the weights add up to (after division by what they have in common),
    and exactly ``weight`` of each source. Its order is a keyed permutation of (key, cycle), so what
    stands at a place is known without the places before it. No seed is in it: how long a stage
    lasts until a source is used up is the same for all seeds.

    >>> mix = Mix({"a": 2, "b": 1}, 0)
    >>> [mix.count("a", rows) for rows in (3, 6, 300)]
    [2, 4, 200]
    """

    def __init__(self, weights: Mapping[str, int], key: int) -> None:
        common = gcd(*weights.values())
        self.names = tuple(weights)
        self.parts = [weight // common for weight in weights.values()]
        self.size = sum(self.parts)
        self._key = key
        self._plain = np.repeat(np.arange(len(self.parts)), self.parts)

    def cycle(self, number: int) -> Rows:
        """The sources of a cycle's rows, by their places in ``names``."""
        if len(self.parts) == 1:
            return self._plain
        order = KeyedPermutation(self.size, "mix", self._key, number)
        return self._plain[order(np.arange(self.size))]

    def count(self, name: str, rows: int) -> int:
        """How many of the first ``rows`` rows are of one source."""
        source = self.names.index(name)
        whole, rest = divmod(rows, self.size)
        begun = int((self.cycle(whole)[:rest] == source).sum()) if rest else 0
        return whole * self.parts[source] + begun

    def rows_until(self, name: str, wanted: int) -> int:
        """The smallest number of rows of which ``wanted`` (at least 1) are of one source."""
        source = self.names.index(name)
        whole, rest = divmod(wanted - 1, self.parts[source])
        places = np.flatnonzero(self.cycle(whole) == source)
        return whole * self.size + int(places[rest]) + 1

    def between(self, first: int, last: int) -> tuple[Rows, Rows]:
        """The sources of the rows first … last − 1, and each one's number among those of its
        source."""
        sources, numbers = [], []
        for number in range(first // self.size, (last - 1) // self.size + 1):
            cycle = self.cycle(number)
            mine = np.empty_like(cycle)
            for source, part in enumerate(self.parts):
                mine[cycle == source] = number * part + np.arange(part)
            sources.append(cycle)
            numbers.append(mine)
        start = first - first // self.size * self.size
        here = slice(start, start + last - first)
        return np.concatenate(sources)[here], np.concatenate(numbers)[here]


class PlannedBatches:
    """The batches of a plan: batch ``position`` is known without the ones before it.

    A stage takes rows of its sources in the order of its :class:`Mix`. Each source is one stream
    over the whole plan: a stage goes on where the one before it left the source, so in every
    epoch of a source each of its rows comes once, whatever the stages. After the last row the
    last stage goes on.

    Args:
        sources: by name.
        stages: at least one; their weights name the sources.
        collate: makes a batch of rows.
        shift: added to the numbers of a source's rows, where the plan goes on with a stream that
            another one has begun.
    """

    def __init__(
        self,
        sources: Mapping[str, RowSource],
        stages: Sequence[PlannedStage],
        *,
        collate: Callable[[list[Any]], Any],
        shift: Mapping[str, int] | None = None,
    ) -> None:
        self.sources, self.stages = sources, tuple(stages)
        self._collate, self._shift = collate, dict(shift or {})
        self._mixes = [Mix(stage.weights, i) for i, stage in enumerate(self.stages)]
        self._ends = list(accumulate(stage.steps for stage in self.stages))

    def at(self, position: int) -> Any:
        """Batch number ``position``, from 0."""
        index, first, last = self._rows(position)
        mix, before = self._mixes[index], self._before(index)
        sources, numbers = mix.between(first, last)
        rows: list[Any] = [None] * (last - first)
        for number, name in enumerate(mix.names):
            places = np.flatnonzero(sources == number)
            if len(places):
                wanted = numbers[places] + before.get(name, 0) + self._shift.get(name, 0)
                taken = self.sources[name].take(wanted)
                for place, row in zip(places.tolist(), taken, strict=True):
                    rows[place] = row
        return self._collate(rows)

    def seen(self, position: int) -> dict[str, int]:
        """Rows of each source in the batches before ``position``, and in what came before the
        plan."""
        index, first, _ = self._rows(position)
        before, mix = self._before(index), self._mixes[index]
        counts = {name: before.get(name, 0) + self._shift.get(name, 0) for name in self.sources}
        return {
            name: count + (mix.count(name, first) if name in mix.names else 0)
            for name, count in counts.items()
        }

    def shifted(self, shift: Mapping[str, int]) -> PlannedBatches:
        """The same plan on streams that begin elsewhere."""
        return PlannedBatches(self.sources, self.stages, collate=self._collate, shift=shift)

    def _rows(self, position: int) -> tuple[int, int, int]:
        """The stage of a batch, and its first row there and the one after its last."""
        assert position >= 0
        index = next((i for i, end in enumerate(self._ends) if position < end), len(self._ends) - 1)
        stage = self.stages[index]
        first = (position - (self._ends[index] - stage.steps)) * stage.batch_size
        if first >= stage.rows:  # after the plan
            first -= stage.steps * stage.batch_size - stage.rows
            return index, first, first + stage.batch_size
        return index, first, min(first + stage.batch_size, stage.rows)

    def _before(self, index: int) -> dict[str, int]:
        """Rows of each source in the stages before one."""
        found: dict[str, int] = {}
        for stage, mix in zip(self.stages[:index], self._mixes[:index], strict=True):
            for name in mix.names:
                found[name] = found.get(name, 0) + mix.count(name, stage.rows)
        return found
