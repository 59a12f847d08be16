"""Which architectures a hypernetwork sees: the parts of its space, and the draw of each step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from windtunnel.data.order import keyed_number
from windtunnel.errors import UsageError
from windtunnel.hyper.anatomy import anatomy_of
from windtunnel.hyper.config import GhnConfig
from windtunnel.hyper.limits import TABLES, Limits
from windtunnel.hyper.network import HyperBatch
from windtunnel.spaces import Space
from windtunnel.spaces.families import twins_of
from windtunnel.spaces.split import protocol
from windtunnel.train.batch import BatchSource, TokenBatch


@dataclass(frozen=True)
class Members:
    """The architectures of a hypernetwork.

    ``parts`` are the splits of :func:`windtunnel.spaces.split.protocol`.
    """

    config: GhnConfig
    space: Space
    parts: dict[str, Space]

    @classmethod
    def of(cls, config: GhnConfig, space: Space) -> Members:
        """The splits that a config asks for.

        Raises:
            UsageError: nothing is left to train on.
        """
        split = config.split
        parts = protocol(
            space, d_model=split.d_model, n_layer=split.n_layer, left_out=split.left_out,
            n_head=split.n_head, ff_ratio=split.ff_ratio, held_out=split.held_out, seed=split.seed,
        )  # fmt: skip
        for name in ("train", "in_distribution"):
            if not len(parts[name]):
                raise UsageError(f"{space.name}: the split leaves no architecture for {name}")
        return cls(config, space, parts)

    @cached_property
    def limits(self) -> Limits:
        """The largest sizes and all roles of what is trained on: of each family the widest and
        deepest, tied and untied; and of axes that edit run files one member with each value."""
        train = self.parts["train"]
        blocks = train.block_numbers()
        found = [row for block in np.unique(blocks) for row in self._examples(int(block), blocks)]
        sizes = [name for name in ("d_model", "d_ff") if name in train.names()]
        found += [int(np.nanargmax(train.column(name))) for name in sizes]
        anatomies = [anatomy_of(train[row].architecture) for row in dict.fromkeys(found)]
        return Limits.of(anatomies, TABLES if self.config.predicts == "table" else None)

    def _examples(self, number: int, blocks: NDArray[np.int64]) -> list[int]:
        """Positions of a block's largest member, and of the largest with each value of each axis
        that may change which tensors there are."""
        train = self.parts["train"]
        rows = np.flatnonzero(blocks == number)
        found = [int(rows[np.argmax(train.params[rows])])]
        for axis in train.blocks[number].axes:
            if not axis.paths and axis.name != "tie_weights":
                continue
            values = train.column(axis.name)[rows]
            for value in np.unique(values):
                own = rows[values == value]
                found.append(int(own[np.argmax(train.params[own])]))
        return found

    @cached_property
    def draws(self) -> Draws:
        """What each step trains on."""
        return Draws(self.parts["train"], self.config)

    def held_out(self) -> list[int]:
        """The indices of held-out architectures that the validation loss is the mean of."""
        part = self.parts["in_distribution"]
        count = min(self.config.eval_members, len(part))
        return [int(i) for i in part.sample(count, seed=self.config.split.seed).indices()]


class Draws:
    """Architectures of a step: kinds in turn, and within each alike from bins of log parameters.

    A kind is a family with its twins. Every choice is keyed by (seed, position, place), so it does
    not depend on what was drawn before.
    """

    def __init__(self, space: Space, config: GhnConfig) -> None:
        self._seed = config.train.seed
        self._first = config.largest_first
        self._config = config
        indices = space.indices()
        params = np.log(space.params.astype(np.float64))
        self._bins: list[list[NDArray[np.int64]]] = []
        self._largest: list[NDArray[np.int64]] = []
        size = widest_first(space)
        for own in kinds_of(space):
            self._bins.append(_binned(indices[own], params[own], config.bins))
            self._largest.append(_examples(space, own & (size == size[own].max())))

    def at(self, position: int) -> list[int]:
        """The indices of a step's architectures."""
        count = self._config.meta_batch
        return [self._one(position, place, position * count + place) for place in range(count)]

    def _one(self, position: int, place: int, number: int) -> int:
        kind = number % len(self._bins)
        key = keyed_number("architecture", self._seed, position, place)
        if position < self._first:
            pool = self._largest[kind]
        else:
            bins = self._bins[kind]
            pool = bins[key % len(bins)]
        return int(pool[(key // 1009) % len(pool)])


def widest_first(space: Space) -> NDArray[np.float64]:
    """A number of each member that grows with width, and within a width with depth."""
    return np.asarray(space.column("d_model") * 1e4 + space.column("n_layer"), dtype=np.float64)


def kinds_of(space: Space) -> list[NDArray[np.bool_]]:
    """Which members are of each kind: a family with its twins."""
    names = [block.family.name for block in space.blocks]
    kinds: dict[frozenset[str], list[int]] = {}
    for number, name in enumerate(names):
        kinds.setdefault(twins_of(name), []).append(number)
    blocks = space.block_numbers()
    found = [np.isin(blocks, numbers) for numbers in kinds.values()]
    return [own for own in found if own.any()]


def largest_of_each_kind(space: Space) -> list[int]:
    """The indices of the widest, and of those the deepest, of each kind, tied and untied."""
    ties = space.column("tie_weights") if "tie_weights" in space.names() else space.params * 0
    ties = np.nan_to_num(ties.astype(np.float64), nan=-1.0)
    size, found = widest_first(space), list[int]()
    for own in kinds_of(space):
        for tie in np.unique(ties[own]):
            among = own & (ties == tie)
            among &= size == size[among].max()
            found += [int(index) for index in _examples(space, among)]
    return found


def _examples(space: Space, among: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The indices of one tied and one untied architecture: of the most parameters, and of those the
    first with the middle number of heads."""
    params, indices = space.params, space.indices()
    ties = space.column("tie_weights") if "tie_weights" in space.names() else params * 0
    found = []
    heads = space.column("n_head") if "n_head" in space.names() else params * 0
    heads = np.nan_to_num(heads.astype(np.float64), nan=-1.0)
    ties = np.nan_to_num(ties.astype(np.float64), nan=-1.0)  # a block may lack the axis
    for tie in np.unique(ties[among]):
        rows = np.flatnonzero(among & (ties == tie))
        rows = rows[params[rows] == params[rows].max()]
        counts = np.unique(heads[rows])
        found.append(indices[rows[heads[rows] == counts[len(counts) // 2]][0]])
    return np.array(found)


def _binned(
    indices: NDArray[np.int64], logs: NDArray[np.float64], bins: int
) -> list[NDArray[np.int64]]:
    """The indices in equal steps of log parameters; steps without any are left out."""
    width = (logs.max() - logs.min()) / bins or 1.0
    step = np.minimum((logs - logs.min()) / width, bins - 1).astype(np.int64)
    return [indices[step == one] for one in np.unique(step)]


@dataclass(frozen=True)
class HyperBatches:
    """Batches of text with the architecture of each row, which take turns."""

    text: BatchSource
    draws: Draws

    def at(self, position: int) -> HyperBatch:
        """The batch of a step: the same at every call."""
        batch = self.text.at(position)
        return with_members(batch, self.draws.at(position))


def with_members(batch: TokenBatch, members: list[int]) -> HyperBatch:
    """A batch of text whose rows go to the members in turn."""
    rows = len(batch.targets)
    turns = torch.tensor(members).repeat(-(-rows // len(members)))[:rows]
    return HyperBatch(batch.inputs, batch.targets, turns)
