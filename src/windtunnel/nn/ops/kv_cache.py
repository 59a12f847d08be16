"""The keys and values that a softmax attention remembers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from windtunnel.nn.ops.room import Room


class KVState(NamedTuple):
    """The keys and values seen so far; with a window, those that can still be seen."""

    k: Tensor
    """b g s k"""
    v: Tensor
    """b g s v"""
    positions: Tensor
    """(b, s) int64, −1 at pads"""
    room: Room | None = None
    """Where they lie, with space behind them."""


def keep_ends(state: KVState, *, first: int, last: int, uniform: bool) -> KVState:
    """What is left of a state of which only each row's tokens at positions below ``first`` and its
    ``last`` ones can still be seen.

    ``uniform`` says that no row has pads, so that columns are tokens.
    """
    s, keep = state.positions.shape[1], first + last
    if s <= keep:
        return state
    if uniform:
        k, v = (_ends(part, 2, first, last) for part in (state.k, state.v))
        room = state.room if first == 0 else None
        return KVState(k, v, _ends(state.positions, 1, first, last), room)
    # Pads and what is out of sight first, the rest in order, so that it is not pushed out.
    positions = state.positions
    near = positions > positions.amax(dim=1, keepdim=True) - last
    kept = (positions >= 0) & (near | (positions < first))
    order = kept.to(torch.int8).argsort(dim=1, stable=True)[:, s - keep :]
    k, v = (
        part.gather(2, order[:, None, :, None].expand(-1, part.shape[1], -1, part.shape[3]))
        for part in (state.k, state.v)
    )
    return KVState(k, v, positions.gather(1, order))


def _ends(x: Tensor, dim: int, first: int, last: int) -> Tensor:
    """The first and the last entries of a dimension that has more than those."""
    end = x.narrow(dim, x.shape[dim] - last, last)
    return end if first == 0 else torch.cat((x.narrow(dim, 0, first), end), dim=dim)
