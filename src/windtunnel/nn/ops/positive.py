"""Attention with positive features, y_i = Σ_j (φ(q_i)·φ(k_j)) v_j / Σ_j φ(q_i)·φ(k_j), in O(t).

Features come as logarithms, and every sum is held relative to a running maximum of each feature, as
in a softmax: no constant is added to a denominator or to a feature, nothing overflows or vanishes,
and a maximum never reaches back in time but by a scale that cancels. The state of a head with m
features is the maximum M (m) and, relative to it, Σ φ(k) [v, 1] (m × (v + 1)).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from windtunnel.nn.ops.chunks import carry, even_chunks, in_chunks
from windtunnel.nn.ops.wide import without_autocast

CHUNK = 64
"""The longest chunk. Measured with 266 features of heads of 64; 128 is as fast on a CPU."""
_FLOOR = -1e30
"""A maximum over nothing: finite, as the difference of two infinities is not a number."""
_TINY = 1e-25
"""A denominator below this has lost terms to underflow (float32 ends at 1e-38)."""


class Sums(NamedTuple):
    """What has been read of the keys and values, head by head."""

    peak: Tensor
    """b h m: the greatest log-feature of a key so far."""
    sums: Tensor
    """b h m v+1: Σ exp(log φ(k) − peak) [v, 1]."""


def no_sums(batch: int, heads: int, features: int, width: int, like: Tensor) -> Sums:
    """The state before the first key: float32, or float64 where ``like`` is."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    peak = torch.full((batch, heads, features), _FLOOR, dtype=dtype, device=like.device)
    return Sums(peak, peak.new_zeros(batch, heads, features, width + 1))


def attend_positively(
    log_q: Tensor,
    log_k: Tensor,
    v: Tensor,
    before: Sums,
    *,
    causal: bool = True,
    real: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Sums]:
    """The outputs (b, h, t, v) and the state after; ``log_q`` and ``log_k`` (b, h, t, m).

    A constant added to a row of ``log_q`` cancels. ``real`` (1 or b, t) is False at pads, which
    give nothing to any sum; their outputs are arbitrary but finite. Without ``causal`` all keys are
    read by all queries, and those of ``before`` too. All is computed in the dtype of the state,
    under autocast too.
    """
    with without_autocast(log_q.device):
        dtype = before.sums.dtype
        # Contiguous, or each product would copy (and keep) what is made of them.
        log_q, log_k, v = (x.to(dtype).contiguous() for x in (log_q, log_k, v))
        v = torch.cat((v, torch.ones_like(v[..., :1])), dim=-1)
        if real is not None:
            log_k = log_k.masked_fill(~real[:, None, :, None], float("-inf"))
        if causal:
            read, after = _read_past(log_q, log_k, v, before, real, chunk)
        else:
            read, after = _read_all(log_q, log_k, v, before)
        weight = read[..., -1:]
        # Tiny for a query at a pad alone: every other sees a key, itself.
        return read[..., :-1] / torch.where(weight < _TINY, 1.0, weight), after


def _read_all(log_q: Tensor, log_k: Tensor, v: Tensor, before: Sums) -> tuple[Tensor, Sums]:
    peak = torch.maximum(before.peak, log_k.detach().amax(-2))
    sums = (log_k - peak[:, :, None]).exp_().mT @ v
    sums = torch.addcmul(sums, before.sums, (before.peak - peak).exp()[..., None])
    return _scaled(log_q, peak[:, :, None])[0] @ sums, Sums(peak, sums)


def _read_past(
    log_q: Tensor, log_k: Tensor, v: Tensor, before: Sums, real: Tensor | None, chunk: int
) -> tuple[Tensor, Sums]:
    """All chunks side by side; only the states are carried from one to the next.

    Chunk c uses the maximum over all keys up to its own end, M_c: w = exp(log_q + M_c − max) and
    κ = exp(log_k − M_c) make (w S + tril(w κᵀ) [v, 1]), S = exp(M_{c−1} − M_c) S_{c−1}. Where keys
    later in a chunk have raised M_c so far that what a query may see has underflowed, the chunk is
    read again by halves.
    """
    t = log_q.shape[2]
    n, c = even_chunks(t, chunk)
    q, k, v = (
        in_chunks(x, n, c, fill) for x, fill in ((log_q, 0.0), (log_k, float("-inf")), (v, 0.0))
    )
    tops = torch.cat((before.peak[:, :, None], k.detach().amax(-2)), dim=2)
    peaks = tops.cummax(2).values  # b h n+1 m
    old, new = peaks[:, :, :-1, None], peaks[:, :, 1:, None]  # b h n 1 m
    decay = (old - new).exp().mT
    keys = (k - new).exp_()
    entries, last = carry(keys.mT @ v, decay, before.sums)
    w = _scaled(q, new)[0]
    read = (w @ keys.mT).tril_() @ v + w @ (entries * decay)
    weak = _weak_chunks(read[..., -1].detach(), t, real)
    if weak.numel():
        parts = (x.index_select(2, weak) for x in (q, k, v, old, entries))
        read = read.index_copy(2, weak, _read_by_halves(*parts))
    return read.flatten(2, 3)[:, :, :t], Sums(peaks[:, :, -1], last)


def _scaled(log_q: Tensor, peak: Tensor) -> tuple[Tensor, Tensor]:
    """exp(log_q + peak − top), and top, the greatest of each row: it cancels, so no gradient."""
    logits = log_q + peak
    top = logits.detach().amax(-1, keepdim=True)
    return logits.sub_(top).exp_(), top


def _weak_chunks(weight: Tensor, t: int, real: Tensor | None) -> Tensor:
    """The indices of the chunks in which a real query's denominator (b, h, n, c) is tiny."""
    if weight.is_meta:
        return weight.new_empty(0, dtype=torch.long)
    weak = weight < _TINY
    rows = weak.flatten(2)  # a view
    rows[:, :, t:] = False
    if real is not None:
        rows[:, :, :t] &= real[:, None]
    return weak.any(dim=3).any(dim=1).any(dim=0).nonzero()[:, 0]


def _read_by_halves(q: Tensor, k: Tensor, v: Tensor, peak: Tensor, sums: Tensor) -> Tensor:
    """What each query reads of the chunk up to itself and of the state before it.

    Each source has maxima of its own, all of it visible to the query: its denominator is at least
    1. The sources are then joined as the parts of a softmax are. Rows are scaled arbitrarily.
    """
    c = q.shape[-2]
    filled = 1 << (c - 1).bit_length()
    q, k, v = (
        F.pad(x, (0, 0, 0, filled - c), value=fill)
        for x, fill in ((q, 0.0), (k, float("-inf")), (v, 0.0))
    )
    w, top = _scaled(q, peak)
    return _joined(_within(q, k, v), (w @ sums, top))[0][..., :c, :]


def _within(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """(…, c, v+1) sums over the keys up to each query, and the logarithms of their scales."""
    c = q.shape[-2]
    if c == 1:
        return _read_block(q, k, v)
    q, k, v = (x.reshape(*x.shape[:-2], 2, c // 2, x.shape[-1]) for x in (q, k, v))
    own = _within(q, k, v)
    earlier = _read_block(q[..., 1, :, :], k[..., 0, :, :], v[..., 0, :, :])
    late = _joined((own[0][..., 1, :, :], own[1][..., 1, :, :]), earlier)
    early = (own[0][..., 0, :, :], own[1][..., 0, :, :])
    sums, scale = (torch.cat(pair, dim=-2) for pair in zip(early, late, strict=True))
    return sums, scale


def _read_block(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """What every query reads of every key of a block."""
    peak = k.detach().amax(-2, keepdim=True).clamp(min=_FLOOR)
    w, top = _scaled(q, peak)
    return (w @ (k - peak).exp_().mT) @ v, top


def _joined(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two (sums, scale) over different keys as one."""
    scale = torch.maximum(a[1], b[1])
    return a[0] * (a[1] - scale).exp() + b[0] * (b[1] - scale).exp(), scale
