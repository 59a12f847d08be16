"""Room to grow: what a state remembers is appended to in place, and yet no state ever changes.

A state's tensors are the beginning of larger buffers. Whoever extends a state whose end is the end
of what has been written puts the new entries behind it, where no state looks yet; whoever extends
an older state (another branch of the same text) finds that place taken and copies. So each token
costs the writing of its own entries alone, and the buffers double when they are full.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from windtunnel.nn.component import Workspace

_LEAST = 64
"""Entries that a new buffer has room for, at least."""


class Room(Workspace):
    """Buffers, and how much of them has been written. All states that lie in them share it."""

    def __init__(self, buffers: tuple[Tensor, ...]) -> None:
        self.buffers = buffers
        self.taken = 0


def appended(
    old: Sequence[Tensor], new: Sequence[Tensor], dims: Sequence[int], room: Room | None
) -> tuple[list[Tensor], Room | None]:
    """Each old tensor followed by the new one along its dimension, as ``torch.cat``; and where the
    results lie, to be handed in when they are extended.

    ``room`` is that of the old tensors, or of longer ones whose end they are. With gradients on,
    the results are plain tensors.
    """
    if torch.is_grad_enabled():
        return [torch.cat(pair, dim) for *pair, dim in zip(old, new, dims, strict=True)], None
    s, t = old[0].shape[dims[0]], new[0].shape[dims[0]]
    end = _end_within(old[0], dims[0], room)
    if room is None or end != room.taken or end + t > room.buffers[0].shape[dims[0]]:
        room, end = _copied(old, dims, max(_LEAST, 2 * (s + t))), s
    for buffer, part, dim in zip(room.buffers, new, dims, strict=True):
        buffer.narrow(dim, end, t).copy_(part)
    room.taken = end + t
    start = end - s
    views = [b.narrow(dim, start, s + t) for b, dim in zip(room.buffers, dims, strict=True)]
    return views, room


def _copied(old: Sequence[Tensor], dims: Sequence[int], capacity: int) -> Room:
    buffers = []
    for tensor, dim in zip(old, dims, strict=True):
        shape = list(tensor.shape)
        shape[dim] = capacity
        buffer = tensor.new_empty(shape)
        buffer.narrow(dim, 0, tensor.shape[dim]).copy_(tensor)
        buffers.append(buffer)
    return Room(tuple(buffers))


def _end_within(view: Tensor, dim: int, room: Room | None) -> int | None:
    """Where a view of the room's first buffer ends; None where it is no view of it."""
    if room is None:
        return None
    buffer = room.buffers[0]
    same = (
        view.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()
        and view.stride() == buffer.stride()
        and view.shape[:dim] == buffer.shape[:dim]
        and view.shape[dim + 1 :] == buffer.shape[dim + 1 :]
    )
    if not same or buffer.stride(dim) == 0:
        return None
    return view.storage_offset() // buffer.stride(dim) + view.shape[dim]
