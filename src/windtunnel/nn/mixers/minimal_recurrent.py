"""What min_gru and min_lstm share (Feng et al. 2024, arXiv 2410.01201): gates without memory."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from windtunnel.nn.component import ComponentConfig, Mixer, Scope, Span, filled
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.mixers.state_space import real_of, wide_zeros
from windtunnel.nn.ops.recompute import recomputed
from windtunnel.nn.ops.scan import scan
from windtunnel.nn.ops.wide import wide

Candidate = Literal["positive", "linear"]


class MinimalConfig(ComponentConfig):
    """A recurrence whose gates see the current token alone."""

    maps: ClassVar[int]
    """Linear maps of the input: the gates and the candidate."""

    d_hidden: int | None = Field(None, ge=1)
    """Width of the hidden state; d_model when left out. Another adds a projection to d_model."""
    candidate: Candidate = "positive"
    """The function of the candidate: x + ½ where x ≥ 0, else σ(x), or none."""
    bias: bool = True
    """Whether the maps and the projection have biases."""

    def resolve(self, scope: Scope) -> Self:
        return self if self.d_hidden is not None else self.replace(d_hidden=scope.d_model)

    def cost(self, scope: Scope, t: Num) -> Cost:
        d, n = scope.d_model, filled(self.d_hidden)
        projected = n != d
        return (
            linear_cost(d, n, bias=self.bias) * self.maps
            + linear_cost(n, d, bias=self.bias) * projected
            + Cost(
                state_values=n,
                activation_values=d + (self.maps + projected) * n + n / t,
                wide_values=n / t,
                working_values=(3.5 + 3 * self.maps) * n,  # of the recurrence, as measured
            )
        )


class MinimalState(NamedTuple):
    """What a minimal recurrence remembers."""

    h: Tensor
    """(b, n), in float32 or wider"""


class Minimal(Mixer[Any]):
    """h_t = a_t h_{t−1} + b_t, a and b from the current token; y = h, projected where n ≠ d."""

    maps: ClassVar[tuple[str, ...]]
    """The linear maps by name, the candidate's last; they start as every linear map."""

    def __init__(self, config: MinimalConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, n = scope.d_model, filled(config.d_hidden)
        for name in self.maps:
            self.add_module(name, Linear(d, n, bias=config.bias))
        gain = residual_gain(scope)
        self.out = Linear(n, d, bias=config.bias, gain=gain) if n != d else None

    @staticmethod
    @abstractmethod
    def decay_and_share(*gates: Tensor) -> tuple[Tensor, Tensor]:
        """From the gates' maps: how much of h stays, and how much of the candidate enters."""

    def initial_state(self, batch: int) -> MinimalState:
        weight = self.get_submodule(self.maps[0]).weight
        assert isinstance(weight, Tensor)
        return MinimalState(wide_zeros(weight, batch, len(weight)))

    def extend(self, x: Tensor, state: MinimalState, span: Span) -> tuple[Tensor, MinimalState]:
        operation = partial(self._recur, positive=self.config.candidate == "positive")
        read = [self.get_submodule(name)(x) for name in self.maps]
        y, h = recomputed(partial(operation, real=real_of(span)), *read, state.h)
        return (y if self.out is None else self.out(y)), MinimalState(h)

    @classmethod
    def _recur(cls, *tensors: Tensor, positive: bool, real: Tensor | None) -> tuple[Tensor, Tensor]:
        *gates, candidate, state = (wide(part) for part in tensors)
        decay, share = cls.decay_and_share(*gates)
        if positive:
            # max(x, 0) + σ(min(x, 0)), whose two halves meet with equal value
            candidate = torch.where(candidate >= 0, candidate + 0.5, torch.sigmoid(candidate))
        h = scan(decay, share * candidate, state, real)
        return h.to(tensors[0].dtype), h[:, -1].clone()


def opposite(gate: Tensor) -> Tensor:
    """1 − σ(x), without cancellation."""
    return torch.sigmoid(-gate)


def normalized(forget: Tensor, enter: Tensor) -> tuple[Tensor, Tensor]:
    """f / (f + i) and i / (f + i) of f = σ(forget) and i = σ(enter).

    From logarithms, as both sigmoids may vanish: f / i = exp(log σ(forget) − log σ(enter)).
    """
    ratio = F.logsigmoid(forget) - F.logsigmoid(enter)
    return torch.sigmoid(ratio), torch.sigmoid(-ratio)
