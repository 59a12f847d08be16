"""The delta rule: a matrix that is corrected, token by token, to return v for k, in chunks.

S_t = a_t (1 − β_t k_t k_tᵀ) S_{t−1} + β_t k_t v_tᵀ and o_t = S_tᵀ q_t, with S (k × v). Within a
chunk the corrections u_t = β_t (v_t − a_t S_{t−1}ᵀ k_t) solve a unit triangular system (the WY form
of a product of Householder matrices: Yang et al. 2024, arXiv 2406.06484, eq. 8 to 11; with the
decay a: arXiv 2412.06464, section 3.3), so a chunk is a few matrix products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from windtunnel.nn.cost import Num
from windtunnel.nn.ops.chunk_decay import chunk_decay
from windtunnel.nn.ops.chunks import even_chunks, in_chunks


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    state: Tensor,
    *,
    chunk: int,
    log_decay: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The outputs and the state after: q, k (b h t k), v (b h t v), beta and log_decay (b h t).

    ``state`` b h k v. Without ``log_decay`` nothing decays. A token of beta 0 and log_decay 0
    leaves the state as it was. Keys of length at most 1 and beta at most 1 (2 at the edge) keep the
    recurrence stable; nothing is divided.
    """
    t = q.shape[2]
    c = even_chunks(t, chunk)
    q, k, v = in_chunks(q, *c), in_chunks(k, *c), in_chunks(v, *c)
    b = in_chunks(beta[..., None], *c)
    scores, overlap = q @ k.mT, (b * k) @ k.mT
    held, added = b * k, b * v
    if log_decay is None:
        total: tuple[Tensor, ...] | None = None
        scores = scores.tril()
    else:
        decay = chunk_decay(in_chunks(log_decay[..., None], *c).squeeze(-1))
        scores, overlap = scores * decay.square, overlap * decay.square
        q, held = q * decay.from_start[..., None], held * decay.from_start[..., None]
        k, total = k * decay.to_end[..., None], decay.total[..., None, None].unbind(2)
    # u = added − held S, then corrected for the tokens before it in the chunk: (1 + L) u
    solved = torch.linalg.solve_triangular(
        overlap, torch.cat((held, added), dim=-1), upper=False, unitriangular=True
    )
    held, added = solved[..., : k.shape[-1]], solved[..., k.shape[-1] :]
    y, state = _across_chunks(q, k, scores, held, added, total, state)
    return y[:, :, :t], state


def _across_chunks(
    q: Tensor,
    k: Tensor,
    scores: Tensor,
    held: Tensor,
    added: Tensor,
    total: tuple[Tensor, ...] | None,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Chunk after chunk, all b h chunks c …: what depends on the state alone is left to do."""
    outputs = []
    parts = (x.unbind(2) for x in (q, k, scores, held, added))
    for i, (queries, keys, score, hold, add) in enumerate(zip(*parts, strict=True)):
        u = add - hold @ state
        outputs.append(queries @ state + score @ u)
        state = (state if total is None else state * total[i]) + keys.mT @ u
    return torch.stack(outputs, dim=2).flatten(2, 3), state


def delta_rule_flops(t: Num, heads: Num, k: Num, v: Num, chunk: int) -> Num:
    """Of matrix products, for each token of a forward over t tokens."""
    chunks, tokens = even_chunks(t, chunk)
    square = 4 * tokens * k + 2 * tokens * v
    return heads * (square + 6 * k * v) * chunks * tokens / t
