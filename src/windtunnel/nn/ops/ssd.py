"""Structured state-space duality: a recurrence with a scalar decay a head, as products of chunks.

S_t = a_t S_{t−1} + k_t v_tᵀ and y_t = S_tᵀ q_t, with S (n × v) (Dao & Gu 2024, arXiv 2405.21060,
section 6: the block decomposition of a semiseparable matrix).
"""

from __future__ import annotations

import torch
from torch import Tensor

from windtunnel.nn.cost import Num
from windtunnel.nn.ops.chunk_decay import chunk_decay
from windtunnel.nn.ops.chunks import even_chunks, in_chunks
from windtunnel.nn.ops.scan import scan


def ssd(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, *, chunk: int
) -> tuple[Tensor, Tensor]:
    """The outputs b h t v and the state after: q, k (b g t n), v (b h t v), log_decay (b h t).

    ``state`` b h n v; h a multiple of g, head i reading group i·g/h. A token of k = 0 and
    log_decay 0 leaves the state as it was.
    """
    t, g = q.shape[2], q.shape[1]
    c = even_chunks(t, chunk)
    q, k = in_chunks(q, *c), in_chunks(k, *c)
    values = torch.unflatten(in_chunks(v, *c), 1, (g, -1))  # b g r chunks c v, r heads a group
    logs = in_chunks(log_decay[..., None], *c).squeeze(-1)
    decay = chunk_decay(torch.unflatten(logs, 1, (g, -1)))
    inside = ((q @ k.mT)[:, :, None] * decay.square) @ values
    # The heads of a group stand side by side as columns of one product.
    ending = (values * decay.to_end[..., None]).permute(0, 3, 1, 4, 2, 5)  # b chunks g c r v
    heads = ending.shape[4:]
    added = torch.unflatten(k.mT.transpose(1, 2) @ ending.flatten(4), 4, heads)
    total = decay.total.permute(0, 3, 1, 2)[:, :, :, None, :, None]  # b chunks g 1 r 1
    start = torch.unflatten(state, 1, (g, -1)).transpose(2, 3)  # b g n r v
    states = scan(total, added, start)
    before = torch.cat((start[:, None], states[:, :-1]), dim=1).flatten(4)  # b chunks g n (r v)
    across = torch.unflatten(q.transpose(1, 2) @ before, 4, heads)
    across = across.permute(0, 2, 4, 1, 3, 5) * decay.from_start[..., None]
    y = (inside + across).flatten(1, 2).flatten(2, 3)[:, :, :t]
    return y, states[:, -1].transpose(2, 3).flatten(1, 2)


def ssd_flops(t: Num, heads: Num, groups: Num, n: Num, v: Num, chunk: int) -> Num:
    """Of matrix products, for each token of a forward over t tokens."""
    chunks, tokens = even_chunks(t, chunk)
    each = groups * 2 * tokens * n + heads * (2 * tokens * v + 4 * n * v)
    return each * chunks * tokens / t
