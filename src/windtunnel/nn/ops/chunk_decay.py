"""Products of decays between the tokens of a chunk."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from windtunnel.nn.ops.widest import widest


class ChunkDecay(NamedTuple):
    """What is left between tokens: with G_i = Σ_{m ≤ i} log a_m within a chunk of c tokens,"""

    square: Tensor
    """(… c c): exp(G_i − G_j) where j ≤ i, else 0."""
    from_start: Tensor
    """(… c): exp(G_i), of what came before the chunk, at token i."""
    to_end: Tensor
    """(… c): exp(G_c − G_i), of what token i adds, at the end."""
    total: Tensor
    """(…): exp(G_c)."""


def chunk_decay(log_decay: Tensor) -> ChunkDecay:
    """Of log a ≤ 0, (… c).

    Sums are float64 where the device has it: a difference of float32 sums of a thousand would be
    off by 1e-4, and with it what a weakly decaying token after strong decays leaves.
    """
    dtype, c = log_decay.dtype, log_decay.shape[-1]
    sums = widest(log_decay).cumsum(-1)
    between = (sums[..., :, None] - sums[..., None, :]).to(dtype)
    later = torch.ones(c, c, dtype=torch.bool, device=sums.device).triu(1)
    from_start = sums.to(dtype).exp()
    return ChunkDecay(
        # masked before exp: the upper half may overflow
        between.masked_fill(later, float("-inf")).exp(),
        from_start,
        (sums[..., -1:] - sums).to(dtype).exp(),
        from_start[..., -1],
    )
