"""Learned keys and values that each token reads by itself: a memory of what is always true.

After the memory layers of LMPlay (jmward01/lmplay, its `nnm` experiments) and the persistent
memory of Sukhbaatar et al. 2019 (arXiv 1907.01470, eq. 6), here without any token's keys beside.
A layer's mixer may read such slots, its feed-forward, or both; all that name one `store` read the
same slots, each with a query and an output of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal, Self, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.nn.component import Component, ComponentConfig, Scope, filled
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.initialize import Init, normal
from windtunnel.nn.linear import Linear, residual_gain
from windtunnel.nn.ops.attention import attend


class SlotsConfig(ComponentConfig):
    """What is written for a part that reads learned slots."""

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset({"lookup", "store"})

    num_slots: int = Field(64, ge=2)
    """Learned keys, and values, of each head."""
    num_heads: int | None = Field(None, ge=1)
    """Heads of queries; d_model / head_dim when left out (with heads of 64)."""
    head_dim: int | None = Field(None, ge=1)
    """Width of a head; d_model / num_heads when left out."""
    lookup: Literal["softmax", "linear"] = "softmax"
    """What becomes of the logits of the slots: a softmax, or nothing."""
    scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Factor of the logits; when left out 1/√head_dim, and 1/√(head_dim·num_slots) if linear."""
    store: str | None = Field(None, min_length=1)
    """Name of the slots: all parts of the stack that write the same read the same; own slots when
    left out."""
    bias: bool = False
    """Whether queries and the output have a bias."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the weights of the slots, in training."""

    def resolve(self, scope: Scope) -> Self:
        d = scope.d_model
        head_dim = self.head_dim or (d // self.num_heads if self.num_heads else min(64, d))
        heads = self.num_heads or d // max(1, head_dim)
        if heads * head_dim != d and None in (self.num_heads, self.head_dim):
            raise ValueError(
                f"{heads} heads of {head_dim} do not make d_model {d}; give num_heads and head_dim"
            )
        kept = 1 if self.lookup == "softmax" else self.num_slots
        scale = self.scale or (head_dim * kept) ** -0.5
        return self.replace(num_heads=heads, head_dim=head_dim, scale=scale)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the keys, and of the values: heads, slots, width."""
        return filled(self.num_heads), self.num_slots, filled(self.head_dim)

    def slots_cost(self) -> Cost:
        """The learned keys and values alone, which a store owns."""
        return Cost(params=2 * filled(self.num_heads) * filled(self.head_dim) * self.num_slots)

    def cost(self, scope: Scope, t: Num) -> Cost:
        d, h, m = scope.d_model, filled(self.num_heads), self.num_slots
        width = h * filled(self.head_dim)
        dropped = (self.dropout > 0) * 1
        if self.lookup == "softmax":
            kept = h * (1 + dropped * (3 * m - 1))
        else:
            kept = h * m * (1 + dropped)
        return (
            linear_cost(d, width, bias=self.bias)
            + linear_cost(width, d, bias=self.bias)
            + self.slots_cost()
            + Cost(
                forward_flops=4 * width * m,
                decode_flops=4 * width * m,
                activation_values=d + 2 * width + kept,
                wide_values=h * (self.lookup == "softmax") * (1 - dropped),
            )
        )


M = TypeVar("M", bound=SlotsConfig)


class Slots(nn.Module):
    """A store: ``keys`` and ``values`` (h, slots, k); N(0, 1) at the start, as projected tokens."""

    def __init__(self, config: SlotsConfig) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.empty(config.shape))
        self.values = nn.Parameter(torch.empty(config.shape))

    def initializers(self) -> dict[str, Init]:
        """The inits of both."""
        return {"keys": normal(1.0), "values": normal(1.0)}


class SlotReader(Component[M]):
    """q = W_q x, y = W_o Σ_i w_i v_i with w = softmax(scale · q Kᵀ), or just scale · q Kᵀ.

    The slots are ``keys`` and ``values`` (h, slots, k) of its own, or those of ``slots``, a store.
    """

    def __init__(self, config: M, scope: Scope) -> None:
        super().__init__(config, scope)
        width, d = filled(config.num_heads) * filled(config.head_dim), scope.d_model
        self.q = Linear(d, width, bias=config.bias)
        self.slots: Slots | None = None
        if config.store is None:
            self.keys = nn.Parameter(torch.empty(config.shape))
            self.values = nn.Parameter(torch.empty(config.shape))
        else:
            self.slots = Slots(config)
        self.out = Linear(width, d, bias=config.bias, gain=residual_gain(scope))

    def initializers(self) -> dict[str, Init]:
        return {"keys": normal(1.0), "values": normal(1.0)}

    def looked_up(self, x: Tensor) -> Tensor:
        """b t d -> b t d, each token by itself."""
        config = self.config
        assert config.scale is not None, "an unresolved config was built"
        held = self if self.slots is None else self.slots
        dropout = config.dropout if self.training else 0.0
        # All tokens of all rows stand as one sequence, so that no row needs its own keys.
        q = self.q(x).flatten(0, 1).unflatten(1, (filled(config.num_heads), -1)).transpose(0, 1)
        if config.lookup == "softmax":
            y = attend(
                q[None], held.keys[None], held.values[None], scale=config.scale, dropout=dropout
            )[0]
        else:
            weights = F.dropout((q * config.scale) @ held.keys.mT, dropout)
            y = weights @ held.values
        joined: Tensor = self.out(y.transpose(0, 1).flatten(1))
        return joined.view_as(x)


def share_slots(parts: Iterable[nn.Module]) -> None:
    """Of the parts of a stack, those that name the same store read that of the first."""
    stores: dict[str, Slots] = {}
    for part in parts:
        if isinstance(part, SlotReader) and part.slots is not None:
            part.slots = stores.setdefault(part.config.store, part.slots)


def store_of(config: ComponentConfig) -> str | None:
    """The name of the store that a part reads, if it does."""
    return config.store if isinstance(config, SlotsConfig) else None
