"""How large the tensors are that a decoder can write, and which kinds of them it knows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from windtunnel.hyper.anatomy import Anatomy, Axis, Slot

TABLES = frozenset({"embedding", "head", "position"})
"""Roles that are rows of vectors."""
POSITION_STD = 0.05
"""Of learned positions before training."""


@dataclass(frozen=True)
class Role:
    """A kind of parameter, the same in all layers and sizes."""

    name: str
    axes: tuple[Axis, ...]
    gates: int = 1
    """Blocks of an axis ``gates``."""
    layered: bool = False
    """Whether it is inside the stack, so that it has a depth."""


@dataclass(frozen=True)
class Limits:
    """The largest sizes among the architectures that are trained on."""

    d_model: int
    d_ff: int
    vocab_size: int
    max_seq_len: int
    roles: tuple[Role, ...]
    traits: tuple[str, ...] | None = None
    """How any of them computes; None where it was not kept."""

    @classmethod
    def of(cls, anatomies: Iterable[Anatomy], keep: Iterable[str] | None = None) -> Limits:
        """The limits of these anatomies; with ``keep`` of these roles alone."""
        kept = None if keep is None else set(keep)
        d = f = vocab = longest = 0
        roles: dict[str, Role] = {}
        traits: set[str] = set()
        for anatomy in anatomies:
            d, f = max(d, anatomy.d_model), max(f, anatomy.d_ff)
            vocab, longest = max(vocab, anatomy.vocab_size), max(longest, anatomy.max_seq_len)
            traits |= set(anatomy.traits)
            for slot in anatomy.slots:
                if kept is None or slot.role in kept:
                    roles.setdefault(slot.role, _role(slot, anatomy))
        known = tuple(roles[name] for name in sorted(roles))
        return cls(d, f, vocab, longest, known, tuple(sorted(traits)))

    def strange(self, anatomy: Anatomy) -> tuple[str, ...]:
        """What an architecture does that none of these do."""
        return tuple(t for t in anatomy.traits if self.traits is not None and t not in self.traits)

    def size(self, axis: Axis) -> int:
        """The largest size of an axis; of ``gates`` that of one gate."""
        sizes = {"vocab": self.vocab_size, "position": self.max_seq_len, "ff": self.d_ff}
        return sizes.get(axis, self.d_model)

    def shape(self, role: Role) -> tuple[int, ...]:
        """The largest tensor of a role; an axis ``gates`` becomes two: gate and unit."""
        found: list[int] = []
        for axis in role.axes:
            found += [role.gates, self.size(axis)] if axis == "gates" else [self.size(axis)]
        return tuple(found)

    def fits(self, anatomy: Anatomy) -> bool:
        """Whether every tensor of known roles is at most as large."""
        return (
            anatomy.d_model <= self.d_model
            and anatomy.d_ff <= self.d_ff
            and anatomy.max_seq_len <= self.max_seq_len
        )


def _role(slot: Slot, anatomy: Anatomy) -> Role:
    gates = slot.shape[0] // anatomy.d_model if "gates" in slot.axes else 1
    return Role(slot.role, slot.axes, gates, anatomy.ops[slot.op].layer is not None)


def corner(bank: Tensor, slot: Slot, limits: Limits) -> Tensor:
    """The part of a bank (c, largest shape) that a slot's shape takes: c, slot's shape.

    Along widths that is the beginning; along heads the beginning of each head, where heads lie as
    far apart as in the largest width. So a channel means the same at every size.
    """
    dimension = 1
    for axis, size in zip(slot.axes, slot.shape, strict=True):
        if axis == "gates":
            each = size // bank.shape[dimension]
            bank = bank.narrow(dimension + 1, 0, each).flatten(dimension, dimension + 1)
        elif axis == "heads" and size < limits.d_model:
            rows = head_rows(slot.heads, size, limits.d_model)
            bank = bank.index_select(dimension, rows.to(bank.device))
        else:
            bank = bank.narrow(dimension, 0, size)
        dimension += 1
    return bank


def head_rows(heads: int, size: int, largest: int) -> Tensor:
    """Where the channels of ``heads`` heads, ``size`` in all, lie among ``largest`` channels.

    >>> head_rows(2, 4, 8).tolist()
    [0, 1, 4, 5]
    """
    each = size // heads
    first = torch.arange(heads) * largest // heads
    return (first[:, None] + torch.arange(each)).flatten()


def fan_in(slot: Slot, limits: Limits) -> tuple[int, int]:
    """The inputs of a map: of this slot, and of the reference size; (1, 1) of tables and vectors.

    The reference is the largest width; of feed-forwards four times that, so that an architecture's
    scale does not hang on how wide the widest feed-forward is.
    """
    if len(slot.shape) < 2 or slot.role in TABLES:
        return 1, 1
    axis, size = slot.axes[-1], slot.shape[-1]
    return size, 4 * limits.d_model if axis == "ff" else limits.d_model
