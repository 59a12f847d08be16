"""Mixture of depths: a layer that reads only some of the tokens (Raposo et al., arXiv 2404.02258).

The paper picks the top k tokens of a sequence, which lets a token's route depend on those after it.
Here a token goes through the layer where its own router says so (a threshold, the paper's way of
sampling), in training as in decoding, and an auxiliary loss holds the part of tokens that do near
``capacity``. A token that goes around the layer is to its mixer as if it were a pad: positions and
windows count the tokens that the layer reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.config import Config
from windtunnel.nn.auxiliary import auxiliary_losses
from windtunnel.nn.component import Scope, Span, State
from windtunnel.nn.cost import Cost, Num, larger
from windtunnel.nn.initialize import Init, constant, fan_in_std, normal
from windtunnel.nn.ops.wide import wide, wide_linear


class DepthConfig(Config):
    """``x + σ(r)·(layer(x) − x)`` where ``r = weight·x/rms(x) + bias`` is above 0, else ``x``."""

    capacity: float = Field(0.5, gt=0, lt=1)
    """The part of the tokens that go through the layer, at the start and by the auxiliary loss."""
    balance_rate: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Coefficient of that loss, (part that goes through − capacity)²."""

    def cost(self, scope: Scope, streams: int | None = None) -> Cost:
        """Of the router alone."""
        d = scope.d_model
        # What the router reads, the norm's output and what is joined, and the choice.
        kept = (2 + (streams or 1)) * d + 4
        return Cost(params=d + 1, forward_flops=2 * d, decode_flops=2 * d, state_values=1,
                    activation_values=kept)  # fmt: skip

    def read(self, t: Num) -> Num:
        """How many of ``t`` tokens the layer reads, as planned."""
        return larger(t * self.capacity // 1, 1)

    def thinned(self, layer: Cost) -> Cost:
        """The cost of the layer, given that of one that reads :meth:`read` tokens."""
        c = self.capacity
        return Cost(
            params=layer.params,
            forward_flops=layer.forward_flops * c,
            decode_flops=layer.decode_flops * c,
            state_values=layer.state_values,
            state_values_per_token=layer.state_values_per_token * c,
            activation_values=layer.activation_values * c,
            wide_values=layer.wide_values * c,
            working_values=layer.working_values * c,
            shared_values=layer.shared_values * c * c,
        )


class DepthState(NamedTuple):
    """What a layer remembers that reads only some tokens."""

    inner: State
    """That of the layer."""
    seen: Tensor
    """(b,) int64: tokens of each row that went through it."""


@dataclass(frozen=True)
class Picked:
    """The tokens that go through a layer, those of a row moved together: b r d, or b r n d."""

    x: Tensor
    span: Span
    index: Tensor
    """(b, r): where each came from; beyond the end of a row, some token that goes around."""
    gate: Tensor
    """(b, r)"""
    seen: Tensor
    """(b,): tokens read, these included."""

    def joined(self, stream: Tensor, y: Tensor) -> Tensor:
        """The stream (b t d) with the layer's output ``y`` (b r d) for the tokens that it read."""
        real, gate = over(self.span.real, y), over(self.gate, y)
        moved = torch.where(real, gate * (y - self.x), 0.0)
        return stream.scatter(1, over(self.index, y).expand_as(y), self.x + moved)


def over(values: Tensor, x: Tensor) -> Tensor:
    """One value for each token (b r), to go with its vector or vectors ``x`` (b r …)."""
    return values[..., *(None,) * (x.ndim - 2)]


class DepthRouter(nn.Module):
    """Picks the tokens: r = weight·x/rms(x) + bias, in float32; ``weight`` (d,), ``bias`` (1,)."""

    def __init__(self, config: DepthConfig, scope: Scope) -> None:
        super().__init__()
        self.config = config
        self.counts_whole_batches = config.balance_rate > 0
        self.weight = nn.Parameter(torch.empty(scope.d_model))
        self.bias = nn.Parameter(torch.empty(1))

    def initializers(self) -> dict[str, Init]:
        """A bias at which ``capacity`` of the tokens are picked."""
        bias = NormalDist().inv_cdf(self.config.capacity)
        return {"weight": normal(fan_in_std(len(self.weight))), "bias": constant(bias)}

    def none_seen(self, batch: int) -> Tensor:
        """(b,) zeros: before the first token."""
        return self.weight.new_zeros(batch, dtype=torch.long)

    def pick(self, x: Tensor, span: Span, seen: Tensor) -> Picked:
        """Of the tokens of a span, those to read; ``seen`` (b,) were read before.

        Of several streams (b t n d) the router reads the mean, and a token goes with all of them.
        """
        normed = F.rms_norm(wide(x if x.ndim == 3 else x.mean(-2)), x.shape[-1:])
        score = wide_linear(normed, self.weight[None], self.bias).squeeze(-1)  # b t
        real = span.real.expand(score.shape)
        through = (score > 0) & real
        self._balance(score[real], through[real])
        count = through.sum(1)
        width = max(int(count.max()), 1)
        index = through.logical_not().to(torch.int8).argsort(dim=1, stable=True)[:, :width]
        read = torch.arange(width, device=x.device) < count[:, None]
        picked = x.gather(1, over(index, x).expand(-1, -1, *x.shape[2:]))
        gate = score.gather(1, index).sigmoid().to(x.dtype)
        return Picked(picked, Span.of_real(read, seen), index, gate, seen + count)

    def _balance(self, score: Tensor, through: Tensor) -> None:
        collector = auxiliary_losses(self)
        if collector is None:
            return
        sizes = torch.tensor([0, through.numel()], device=score.device)
        sizes[0] = through.sum()
        read, tokens = collector.whole(sizes).to(score.dtype)
        tokens = tokens.clamp(min=1)
        soft = score.sigmoid().sum() / tokens
        part = read / tokens + soft - soft.detach()  # counted, with a gradient
        off = part - self.config.capacity
        collector.add(self.config.balance_rate * off.square(), part=True)
