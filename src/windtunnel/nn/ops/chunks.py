"""What linear attentions and recurrences share: time in chunks, and a state carried over them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from windtunnel.nn.cost import Num, larger, smaller


def even_chunks(t: Num, longest: int) -> tuple[Num, Num]:
    """(chunks, tokens a chunk) that cover ``t`` tokens with the least filling.

    >>> even_chunks(240, 64), even_chunks(5, 64)
    ((4, 60), (1, 5))
    """
    chunks = larger(-(-t // longest), 1)
    return chunks, -(-t // chunks)


def halving_chunks(t: Num, longest: int) -> tuple[Num, Num]:
    """As :func:`even_chunks`, but a chunk is a power of two, at most ``longest`` (one too).

    >>> halving_chunks(240, 64), halving_chunks(5, 64)
    ((4, 64), (1, 8))
    """
    tokens = 1
    for power in range(longest.bit_length() - 1):
        tokens = tokens + (t > 2**power) * 2**power
    return larger(-(-t // tokens), 1), smaller(tokens, longest)


def in_chunks(x: Tensor, chunks: int, tokens: int, fill: float = 0.0) -> Tensor:
    """b h t … -> b h chunks tokens …, the end filled up."""
    missing = chunks * tokens - x.shape[2]
    if missing:
        x = F.pad(x, (0, 0, 0, missing), value=fill)
    b, h, _, width = x.shape
    return x.reshape(b, h, chunks, tokens, width)


def carry(added: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """S_c = decay_c · S_{c−1} + added_c: the states before each chunk, and the last one.

    ``added`` and the result b h c k v, ``decay`` broadcasts to that, ``state`` b h k v.
    """
    entries = []
    for more, factor in zip(
        added.unbind(2), decay.expand(-1, -1, added.shape[2], -1, -1).unbind(2), strict=True
    ):
        entries.append(state)
        state = torch.addcmul(more, state, factor)
    return torch.stack(entries, dim=2), state
