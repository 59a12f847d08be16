"""Linear recurrences with decay, S_t = a_t S_{t−1} + k_t v_tᵀ and y_t = S_tᵀ q_t, in chunks.

The state S of a head is k × v. Decays are at most 1 and come as logarithms; every factor that is
computed is a product of decays, so at most 1 too: nothing overflows, and as no two logarithms are
subtracted, a token that forgets everything costs no precision.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.ops.chunks import carry, even_chunks, halving_chunks, in_chunks
from windtunnel.nn.ops.wide import without_autocast

CHUNK = 64
"""The longest chunk; a power of two."""


def attend_decayed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    before: Tensor,
    *,
    bonus: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Each key channel decays by itself: ``log_decay`` (b, h, t, k) ≤ 0, q and k of that shape.

    Without ``bonus`` y_t = S_tᵀ q_t; with it (h, k), y_t = (S_{t−1} + (bonus · k_t) v_tᵀ)ᵀ q_t.
    Where k_t and log_decay_t are 0 the state stays as it is. Returns y (b, h, t, v) and the state
    after (b, h, k, v), from the state ``before``; all in the dtype of the state.

    A chunk's tokens read each other by halves: the second half of each block of 2, 4, … tokens
    reads the first half across the decays to and from the block's middle. So all is made of matrix
    products, and no exponent is positive (in place of the two levels of arXiv 2312.06635, 4.3,
    whose inner one is not a product).
    """
    with without_autocast(q.device):
        t, dtype = q.shape[2], before.dtype
        n, c = halving_chunks(t, chunk)
        # Blocks of one token, b h t 1 ·
        q, k, v, decay = (
            in_chunks(x.to(dtype).contiguous(), n * c, 1) for x in (q, k, v, log_decay)
        )
        own = q * k if bonus is None else q * k * bonus.to(dtype)[:, None, None]
        # One token alone reads no past: its decay still gets a gradient, of 0.
        nothing = decay * 0 if t == 1 else torch.zeros_like(decay)
        decays = _Decays(decay if bonus is None else nothing, nothing, decay)
        y, decays = _by_halves(q, k, v, own.sum(-1, keepdim=True) * v, decays, c)
        q, k, v = (x.reshape(*x.shape[:2], n, c, x.shape[-1]) for x in (q, k, v))
        entries, last = carry((k * decays.until.exp()).mT @ v, decays.whole.exp().mT, before)
        y = y + (q * decays.since.exp()) @ entries
        return y.flatten(2, 3)[:, :, :t], last


class _Decays(NamedTuple):
    """Logarithms of decays within blocks of tokens, b h blocks tokens k."""

    since: Tensor
    """From the block's start up to a query."""
    until: Tensor
    """From a key up to the block's end."""
    whole: Tensor
    """Over the block: one token wide."""


def _by_halves(
    q: Tensor, k: Tensor, v: Tensor, y: Tensor, decays: _Decays, c: int
) -> tuple[Tensor, _Decays]:
    """``y`` with what each token reads of those before it in its chunk of ``c``, and its decays.

    All tensors come as blocks of one token, b h t 1 ·, and leave as blocks of ``c``.
    """
    while y.shape[3] < c:
        q, k, v, y = (x.reshape(*_paired(x), x.shape[-1]) for x in (q, k, v, y))
        since, until, whole = (x.reshape(*_paired(x), x.shape[-1]) for x in decays)
        late = q[..., 1, :, :] * since[..., 1, :, :].exp()
        early = k[..., 0, :, :] * until[..., 0, :, :].exp()
        read = (late @ early.mT) @ v[..., 0, :, :]
        y = torch.cat((y[..., 0, :, :], y[..., 1, :, :] + read), dim=3)
        first, second = whole.unbind(3)
        decays = _Decays(
            torch.cat((since[..., 0, :, :], since[..., 1, :, :] + first), dim=3),
            torch.cat((until[..., 0, :, :] + second, until[..., 1, :, :]), dim=3),
            first + second,
        )
        q, k, v = (x.flatten(3, 4) for x in (q, k, v))
    return y, decays


def _paired(x: Tensor) -> tuple[int, ...]:
    """b h blocks tokens -> b h blocks/2 2 tokens"""
    b, h, blocks, tokens, _ = x.shape
    return b, h, blocks // 2, 2, tokens


class Fading(NamedTuple):
    """The decays of :func:`attend_fading` for a span, chunk by chunk: the same in every layer."""

    within: Tensor
    """1|b h n c c: from each key to each query; 0 where the key comes later."""
    since: Tensor
    """1|b h n c 1: from the chunk's start up to a query."""
    until: Tensor
    """1|b h n c 1: from a key up to the chunk's end."""
    whole: Tensor
    """1|b h n 1 1: over the chunk."""


def fading(log_decay: Tensor, real: Tensor, *, chunk: int = CHUNK) -> Fading:
    """``log_decay`` (h,) a token, ``real`` (1 or b, t): at pads nothing fades."""
    n, c = even_chunks(real.shape[1], chunk)
    steps = in_chunks(real.to(log_decay.dtype)[:, None, :, None], n, c).cumsum(3)  # 1|b 1 n c 1
    rate = log_decay[:, None, None, None]
    distance = steps - steps.mT
    within = (rate * distance.clamp(min=0)).exp().tril()
    total = steps[:, :, :, -1:]
    return Fading(
        within, (rate * steps).exp(), (rate * (total - steps)).exp(), (rate * total).exp()
    )


def attend_fading(
    q: Tensor, k: Tensor, v: Tensor, fade: Fading, before: Tensor
) -> tuple[Tensor, Tensor]:
    """Each head decays by a constant of its own: q and k (b, h, t, k), v (b, h, t, v).

    y_t = S_tᵀ q_t; keys at pads must be 0. Returns y and the state after (b, h, k, v), from the
    state ``before``; all in the dtype of the state.
    """
    with without_autocast(q.device):
        t, dtype = q.shape[2], before.dtype
        n, c = fade.since.shape[2:4]
        q, k, v = (in_chunks(x.to(dtype).contiguous(), n, c) for x in (q, k, v))
        entries, last = carry((k * fade.until).mT @ v, fade.whole, before)
        y = (q @ k.mT * fade.within) @ v + (q * fade.since) @ entries
        return y.flatten(2, 3)[:, :, :t], last


def decayed_cost(k: Num, v: Num, t: Num) -> Cost:
    """One head of :func:`attend_decayed` over ``t`` tokens, besides its inputs q, k and decays."""
    n, c = halving_chunks(t, CHUNK)
    executed = n * c / t
    levels = sum((c >= 2 ** (i + 1)) * 1 for i in range(CHUNK.bit_length() - 1))
    # Each level keeps both halves' decays and products, and the square between the halves.
    kept = levels * 2 * k + (c - 1) / 2 + 4 * k + 1 + 2 * n * (k * v) / (n * c) + n * k / (n * c)
    kept = executed * kept + 2 * k + v
    return Cost(
        forward_flops=executed * ((c - 1) * (k + v) + 4 * k * v),
        decode_flops=4 * k * v,
        state_values=k * v,
        activation_values=kept,
        wide_values=kept,
    )
