"""A causal convolution as long as the sequence, by FFTs that never see the future.

One FFT over the whole sequence would be shorter to write, but its rounding leaks: a later token of
10⁸ would move earlier outputs by 10⁸ · eps. Here the outputs of a block are made from blocks
before it alone, at each of log₂(t/32) sizes, and within 32 tokens by plain sums: O(t log² t).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from windtunnel.nn.ops.wide import wide

_LEAST_BLOCK = 32
"""Tokens in a block that is convolved by plain sums: about where both ways take equally long."""


def long_convolution(x: Tensor, taps: Tensor) -> Tensor:
    """y_t = Σ_{j ≤ t} taps_{t−j} · x_j for each channel: (b, t, d), (t, d) -> (b, t, d).

    In float32 or wider within. Keeps x and the taps alone for the backward.
    """
    y: Tensor = _LongConvolution.apply(x, taps)  # type: ignore[no-untyped-call]
    return y


def convolve_one(x: Tensor, taps: Tensor, positions: Tensor) -> Tensor:
    """The output at one position of each row: (b, s, d), (b, s, d), (1 or b, 1) -> (b, 1, d)."""
    b, s, d = x.shape
    lag = positions - torch.arange(s, device=x.device)
    index = lag.clamp(min=0)[..., None].expand(b, s, d)
    seen = wide(taps).gather(1, index).masked_fill((lag < 0)[..., None], 0.0)
    return (seen * wide(x)).sum(1, keepdim=True).to(x.dtype)


class _LongConvolution(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(x, taps)
        return _convolve(wide(x), wide(taps)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, taps = ctx.saved_tensors
        g, t = wide(grad), x.shape[1]
        grad_x = _convolve(g.flip(1), wide(taps)).flip(1)
        size = 2 * t
        spectra = torch.fft.rfft(wide(x), n=size, dim=1).conj() * torch.fft.rfft(g, n=size, dim=1)
        grad_taps = torch.fft.irfft(spectra.sum(0), n=size, dim=0)[:t]
        return grad_x.to(x.dtype), grad_taps.to(taps.dtype)


def _convolve(x: Tensor, taps: Tensor) -> Tensor:
    t = x.shape[1]
    y = _within_blocks(x, taps)
    block = _LEAST_BLOCK
    while block < t:
        y = y + _onto_next_block(x, taps, block)
        block *= 2
    return y


def _within_blocks(x: Tensor, taps: Tensor) -> Tensor:
    """What tokens of a block of the least size add to those after them in it."""
    blocks = _in_blocks(x, _LEAST_BLOCK)
    y = blocks * taps[0]
    for lag in range(1, min(_LEAST_BLOCK, x.shape[1])):
        y[:, :, lag:].addcmul_(blocks[:, :, :-lag], taps[lag])
    return _in_a_row(y, x.shape[1])


def _onto_next_block(x: Tensor, taps: Tensor, block: int) -> Tensor:
    """What the first, third, … block adds to the second, fourth, … one."""
    t, size = x.shape[1], 2 * block
    pairs = _in_blocks(x, size)
    spectrum = torch.fft.rfft(pairs[:, :, :block], n=size, dim=2)
    # Lags of up to 2·block − 1 in a circle of 2·block: the second half wraps nothing around.
    added = torch.fft.irfft(spectrum * torch.fft.rfft(taps[:size], n=size, dim=0), n=size, dim=2)
    added[:, :, :block] = 0.0
    return _in_a_row(added, t)


def _in_blocks(x: Tensor, block: int) -> Tensor:
    """b t d -> b, blocks, block, d; the last one is filled up with zeros."""
    padded = F.pad(x, (0, 0, 0, -x.shape[1] % block))
    return padded.view(x.shape[0], -1, block, x.shape[2])


def _in_a_row(blocks: Tensor, t: int) -> Tensor:
    """b, blocks, block, d -> b t d"""
    return blocks.flatten(1, 2)[:, :t]
