"""A short causal convolution of each channel by itself, with the state that decoding needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from windtunnel.nn.component import Span
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.initialize import Init, uniform
from windtunnel.nn.ops.wide import wide


class ShortConvolution(nn.Module):
    """y_t = Σ_i weight_i · x_{t−size+1+i} + bias for each channel: b t d -> b t d.

    Parameters as in a depthwise ``torch.nn.Conv1d``, and as Mamba has them: ``weight`` (d, 1,
    size), the tap of the current token last, and ``bias`` (d,) or none; both start at
    U(−1/√size, 1/√size), torch's own. What came before the first token is 0. Pads are passed over:
    a token sees the last real ones. The state holds the last size − 1 real tokens' inputs.
    """

    def __init__(self, width: int, size: int, *, bias: bool) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.empty(width, 1, size))
        self.register_parameter("bias", nn.Parameter(torch.empty(width)) if bias else None)

    bias: Tensor | None

    def initializers(self) -> dict[str, Init]:
        return dict.fromkeys(("weight", "bias"), uniform(self.size**-0.5))

    def initial_state(self, batch: int) -> Tensor:
        """(b, size − 1, d) of zeros."""
        return self.weight.new_zeros(batch, self.size - 1, self.weight.shape[0])

    def forward(self, x: Tensor, state: Tensor, span: Span) -> tuple[Tensor, Tensor]:
        """The outputs (arbitrary but finite at pads) and the state after."""
        return short_convolution(x, self.weight, self.bias, state, span)


def short_convolution_cost(width: Num, size: Num, t: Num, *, bias: bool) -> Cost:
    """No matrix product; what is kept is the input, with the state before it."""
    return Cost(
        params=width * size + width * bias,
        state_values=width * (size - 1),
        activation_values=width * (t + size - 1) / t,
    )


def short_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, span: Span
) -> tuple[Tensor, Tensor]:
    """As :class:`ShortConvolution`, of given parameters: x b t d, weight d 1 size."""
    before = weight.shape[2] - 1
    if not span.padded:
        seen = torch.cat((state, x), dim=1)
        # a copy, so that a state holds no whole prompt
        return _convolve(seen, weight, bias), seen[:, seen.shape[1] - before :].clone()
    order, place, lengths = _real_first(span, x.shape[0])
    seen = torch.cat((state, _rows(x, order)), dim=1)
    last = lengths[:, None] + torch.arange(before, device=x.device)
    return _rows(_convolve(seen, weight, bias), place), _rows(seen, last)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x b t d at ``index`` b s -> b s d."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def _real_first(span: Span, batch: int) -> tuple[Tensor, ...]:
    """Made once for all layers: an order that moves each row's real tokens together to the front,
    the way back (a pad reads the real token before it), and how many there are."""
    key = ("real first", batch)
    if key not in span.memo:
        real = span.real.expand(batch, -1)
        order = (~real).to(torch.int8).argsort(dim=1, stable=True)
        place = (real.cumsum(1) - 1).clamp(min=0)
        span.memo[key] = (order, place, real.sum(1))
    return span.memo[key]


def _convolve(seen: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = _Convolution.apply(seen, weight, bias)  # type: ignore[no-untyped-call]
    return y


class _Convolution(Function):
    """b (size − 1 + t) d -> b t d, one multiplication and addition a tap, in float32 or wider.

    By hand, as autograd would pad each tap's gradient to full length, and a ``conv1d`` would turn
    the input to b d t and back.
    """

    @staticmethod
    def forward(ctx: Any, seen: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(seen, weight)
        x, taps = wide(seen), wide(weight)[:, 0].t().unbind(0)
        t = x.shape[1] - len(taps) + 1
        y = x[:, :t] * taps[0]
        if bias is not None:
            y += bias
        for index, tap in enumerate(taps[1:], start=1):
            y.addcmul_(x[:, index : index + t], tap)
        return y.to(seen.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        seen, weight = ctx.saved_tensors
        x, taps, g = wide(seen), wide(weight)[:, 0].t().unbind(0), wide(grad)
        t = g.shape[1]
        grad_seen = torch.zeros_like(x)
        grad_taps = []
        for index, tap in enumerate(taps):
            grad_seen[:, index : index + t].addcmul_(g, tap)
            grad_taps.append((g * x[:, index : index + t]).sum((0, 1)))
        grad_weight = torch.stack(grad_taps, dim=1)[:, None].to(weight.dtype)
        grad_bias = g.sum((0, 1)).to(weight.dtype) if ctx.needs_input_grad[2] else None
        return grad_seen.to(seen.dtype), grad_weight, grad_bias
