"""Softmax attention as an operation: q, k, v and what may be seen -> what is read.

Every form is exact; they differ in speed. The t × t square is materialised only where dropout, a
soft-cap, a factor or the gradient of a bias needs its values (torch's fused kernels have none of
them on a CPU), where pads, an offset or a bias need a mask, and where a short sequence trains in
bfloat16 on a CPU, whose fused kernel has a slow backward.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from windtunnel.nn.cost import Num, larger, smaller

_LEAST_BLOCK = 64
"""Queries in a block of banded attention: smaller products are not faster."""
_BAND_GAIN = 2.5
"""How many times less work makes a band faster than the square, forward and backward, on a CPU."""
FUSED_FROM = 257
"""Keys from which training in bfloat16 on a CPU uses the fused kernel all the same. The square is
2.4 to 5 times as fast forward and backward at 64 to 512 keys, but is kept for the backward."""


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    mask: Tensor | None = None,
    causal: bool = False,
    softcap: float | None = None,
    dropout: float = 0.0,
    factor: Tensor | None = None,
) -> Tensor:
    """softmax(cap(scale · q kᵀ) · factor + mask) v: (b,h,t,k), (b,g,s,k), (b,g,s,v) -> (b,h,t,v).

    cap(z) = softcap · tanh(z / softcap) (Gemma 2, arXiv 2408.00118, section 2). ``mask`` and
    ``factor`` broadcast over (b, h, t, s); a mask is bool, True where seen, or float, added.
    ``causal`` is the mask of equally many queries and keys. Head i of the queries reads head
    i·g/h of the keys.
    """
    learned = mask is not None and mask.requires_grad
    explicit = softcap is not None or dropout > 0.0 or factor is not None or learned
    if explicit or _has_slow_backward(q, k):
        if causal:
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
        return _attend_explicitly(q, k, v, scale, mask, softcap, dropout, factor)
    b, h, t, d = q.shape
    g = k.shape[1]
    if t == 1 and h != g and (mask is None or mask.shape[1] == 1):
        # One query: its heads of a group stand as rows of one product; measured 1.7 times faster.
        y = F.scaled_dot_product_attention(
            q.reshape(b, g, h // g, d), k, v, attn_mask=mask, scale=scale
        )
        return y.reshape(b, h, 1, v.shape[3])
    width = v.shape[3]
    if t > 1 and width != d:
        # The fused kernels want one width; without them the square would be kept.
        q, k, v = (F.pad(x, (0, max(width, d) - x.shape[3])) for x in (q, k, v))
    y = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal and t > 1, scale=scale, enable_gqa=h != g
    )
    return y[..., :width]


def _has_slow_backward(q: Tensor, k: Tensor) -> bool:
    """Whether the fused kernel is the slower way to train."""
    return (
        q.device.type == "cpu"
        and q.dtype == torch.bfloat16
        and torch.is_grad_enabled()
        and (q.requires_grad or k.requires_grad)
        and 1 < q.shape[2] <= k.shape[2] < FUSED_FROM
    )


def _attend_explicitly(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None,
    softcap: float | None,
    dropout: float,
    factor: Tensor | None = None,
) -> Tensor:
    b, h, t, d = q.shape
    g, s = k.shape[1], k.shape[2]
    # The heads of a group stand as rows of one product, so keys need not be repeated.
    logits = (q * scale).reshape(b, g, h // g * t, d) @ k.transpose(2, 3)
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    logits = logits.view(b, h, t, s)
    if factor is not None:
        logits = logits * factor.to(logits.dtype)
    if mask is not None and mask.dtype == torch.bool:
        logits = logits.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        logits = logits + mask.to(logits.dtype)
    weights = F.dropout(torch.softmax(logits, dim=-1), dropout)
    return (weights.reshape(b, g, h // g * t, s) @ v).reshape(b, h, t, v.shape[3])


def visible(
    q_positions: Tensor,
    k_positions: Tensor,
    *,
    causal: bool,
    window: int | None,
    dilation: int = 1,
    stride: int | None = None,
    global_tokens: int = 0,
) -> Tensor:
    """Which keys each query sees: (1 or b, t) and (1 or b, s) -> (1 or b, 1, t, s) bool.

    A query at position p sees keys at 0 … p; without causality also those after. A window narrows
    that to the keys at distances 0, dilation, …, (window − 1)·dilation, and besides, to those at a
    multiple of ``stride`` and those where query or key is one of the first ``global_tokens``. Keys
    at pads (−1) are not seen. A query at a pad sees everything: its output is not used, and a
    softmax over nothing would be NaN.
    """
    q = q_positions[:, None, :, None]
    k = k_positions[:, None, None, :]
    seen = k >= 0
    if causal:
        seen = seen & (k <= q)
    if window is not None:
        distance = (q - k).abs()
        near = distance < (window - 1) * dilation + 1
        if dilation > 1:
            near = near & (distance % dilation == 0)
        if stride is not None:
            near = near | (distance % stride == 0)
        if global_tokens:
            near = near | (k < global_tokens) | (q < global_tokens)
        seen = seen & near
    return seen | (q < 0)


def band_shape(t: Num, window: Num) -> tuple[Num, Num, Num]:
    """(blocks, queries a block, keys a block) that cover the band of a causal window."""
    block = smaller(larger(_LEAST_BLOCK, (window + 1) // 2), t)
    return -(-t // block), block, block + window - 1


def executed_keys(t: Num, window: Num | None) -> Num:
    """Keys that each of ``t`` causal queries is multiplied with, masked ones included: the whole
    square's, or the band's where that is so much less that it is faster too."""
    if window is None:
        return t
    blocks, block, keys = band_shape(t, window)
    band = blocks * block * keys / t
    banded = band * _BAND_GAIN <= t
    return t + banded * (band - t)


def attend_in_band(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int,
    scale: float,
    mask: Tensor,
    softcap: float | None = None,
    dropout: float = 0.0,
    factor: Tensor | None = None,
) -> Tensor:
    """Causal attention within ``window``, in blocks of queries: O(t · window) instead of O(t²).

    ``mask`` is over :func:`band_positions`: (blocks, 1, queries, keys) bool, or float with
    h in place of 1, added; ``factor`` as such a float.
    """
    b, h, t, d = q.shape
    blocks, block, keys = band_shape(t, window)
    end = blocks * block - t
    q = F.pad(q, (0, 0, 0, end)).reshape(b * h, blocks, block, d).transpose(0, 1)
    k = _blocks_of_keys(k, window - 1, end, keys, block)
    v = _blocks_of_keys(v, window - 1, end, keys, block)
    if mask.dtype != torch.bool:
        mask = mask.repeat(1, b, 1, 1)
    if factor is not None:
        factor = factor.repeat(1, b, 1, 1)
    y = attend(q, k, v, scale=scale, mask=mask, softcap=softcap, dropout=dropout, factor=factor)
    return y.transpose(0, 1).reshape(b, h, blocks * block, v.shape[3])[:, :, :t]


def _blocks_of_keys(x: Tensor, before: int, after: int, keys: int, block: int) -> Tensor:
    """b g t k -> blocks, b·g, keys, k: each block its own queries' keys and those just before."""
    padded = F.pad(x, (0, 0, before, after))
    return padded.unfold(2, keys, block).permute(2, 0, 1, 4, 3).flatten(1, 2)


def band_positions(t: int, window: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions of each block's queries (blocks, queries) and keys (blocks, keys).

    Keys before the first token and all that fills the last block up are at −1.
    """
    blocks, block, keys = band_shape(t, window)
    start = torch.arange(blocks, device=device)[:, None] * block
    q = start + torch.arange(block, device=device)
    k = start + torch.arange(keys, device=device) - (window - 1)
    return q.masked_fill(q >= t, -1), k.masked_fill((k < 0) | (k >= t), -1)
