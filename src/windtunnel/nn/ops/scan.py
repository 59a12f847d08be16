"""The linear recurrence h_t = a_t · h_{t−1} + b_t, elementwise, in O(√t) steps that follow.

Time is cut into about √t blocks. First every block finds, all blocks side by side, what it adds and
by how much it shrinks what came before; then the states between blocks follow one another; then
every block runs again from its own start. Nothing is divided and no logarithm is taken, so nothing
under- or overflows that the plain recurrence would not, while |a| ≤ 1; the numbers agree with those
of the plain recurrence to rounding. On a CPU the few passes over memory beat a log-depth scan.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

_SHORT = 24
"""Up to here the plain recurrence is as fast."""


def scan(a: Tensor, b: Tensor, start: Tensor, real: Tensor | None = None) -> Tensor:
    """All h_t with h_{−1} = ``start``: (b t …), (b t …), (b …) -> (b t …).

    ``a`` may be smaller than ``b`` where it broadcasts; t must be at least 1. Where ``real`` (1 or
    b, t) is False, h_t = h_{t−1}. Differentiable in a, b and ``start``; of the three and the result
    only a, start and the result are kept.
    """
    if real is not None:
        pad = ~real.reshape(*real.shape, *(1,) * (b.ndim - 2))
        a, b = a.masked_fill(pad, 1.0), b.masked_fill(pad, 0.0)
    h: Tensor = _Scan.apply(a, b, start)  # type: ignore[no-untyped-call]
    return h


class _Scan(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, start: Tensor) -> Tensor:
        h = _solve(a, b, start, reverse=False)
        ctx.save_for_backward(a, start, h)
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """g_t = ∂h_t + a_{t+1} · g_{t+1}: the same recurrence, backwards."""
        a, start, h = ctx.saved_tensors
        after = torch.cat((a[:, 1:], torch.ones_like(a[:, :1])), dim=1)
        g = _solve(after, grad, torch.zeros_like(start), reverse=True)
        grad_a = grad_start = None
        if ctx.needs_input_grad[0]:
            grad_a = torch.empty_like(g)
            torch.mul(g[:, 0], start, out=grad_a[:, 0])
            torch.mul(g[:, 1:], h[:, :-1], out=grad_a[:, 1:])
            grad_a = grad_a.sum_to_size(a.shape)
        if ctx.needs_input_grad[2]:
            grad_start = g[:, 0] * a[:, 0]
        return grad_a, g, grad_start


def _solve(a: Tensor, b: Tensor, start: Tensor, *, reverse: bool) -> Tensor:
    """All h; backwards in time, from the last token on, when ``reverse``."""
    out = torch.empty_like(b, memory_format=torch.contiguous_format)
    t = b.shape[1]
    size = t if t <= _SHORT else isqrt(t // 2)
    rest = t % size
    edge = slice(t - rest, t) if reverse else slice(0, rest)
    body = slice(0, t - rest) if reverse else slice(rest, t)
    start = _follow(a[:, edge], b[:, edge], start, out[:, edge], 1, reverse)
    if size == t:
        _follow(a, b, start, out, 1, reverse)
        return out
    decays, added, blocks = (torch.unflatten(x[:, body], 1, (-1, size)) for x in (a, b, out))
    starts = _starts(decays, added, start, reverse)
    _follow(decays, added, starts, blocks, 2, reverse)
    return out


def _starts(a: Tensor, b: Tensor, start: Tensor, reverse: bool) -> Tensor:
    """The state before each block; ``a`` and ``b`` are b blocks size …"""
    end = torch.zeros_like(b[:, :, 0])
    shrink = torch.ones_like(a[:, :, 0])
    for decay, more in _steps(a, b, 2, reverse):
        end = torch.addcmul(more, decay, end)
        shrink = shrink * decay
    starts = torch.empty_like(end)
    order = range(end.shape[1])
    for block in reversed(order) if reverse else order:
        starts[:, block] = start
        start = torch.addcmul(end[:, block], shrink[:, block], start)
    return starts


def _follow(a: Tensor, b: Tensor, h: Tensor, out: Tensor, dim: int, reverse: bool) -> Tensor:
    """Steps along ``dim`` one by one into ``out``; the last state."""
    places = out.unbind(dim)
    for (decay, more), place in zip(
        _steps(a, b, dim, reverse), reversed(places) if reverse else places, strict=True
    ):
        h = torch.addcmul(more, decay, h, out=place)
    return h


def _steps(a: Tensor, b: Tensor, dim: int, reverse: bool) -> list[tuple[Tensor, Tensor]]:
    steps = list(zip(a.unbind(dim), b.unbind(dim), strict=True))
    return steps[::-1] if reverse else steps
