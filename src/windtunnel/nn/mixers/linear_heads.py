"""What the linear-time mixers share: heads without a t × t square, and how they are projected."""

from __future__ import annotations

from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from windtunnel.config import Choice
from windtunnel.nn.component import ComponentConfig, PositionConfig, Scope, Span
from windtunnel.nn.positions.none import NoPositionConfig

_USUAL_HEAD_DIM = 64


class HeadsConfig(ComponentConfig):
    """Heads of one width."""

    num_heads: int | None = Field(None, ge=1)
    """Heads; d_model / head_dim when left out (with heads of 64)."""
    head_dim: int | None = Field(None, ge=1)
    """Width of a head; d_model / num_heads when left out."""
    bias: bool = False
    """Whether the linear maps into the heads have a bias."""
    out_bias: bool | None = None
    """Whether the output has a bias; as `bias` when left out."""

    def resolve(self, scope: Scope) -> Self:
        heads, width = shared_width(self.num_heads, self.head_dim, scope.d_model)
        out_bias = self.bias if self.out_bias is None else self.out_bias
        return self.replace(num_heads=heads, head_dim=width, out_bias=out_bias)


class TurnedHeadsConfig(HeadsConfig):
    """Heads whose queries and keys may be turned by their positions."""

    position: Annotated[PositionConfig, Choice("position")] = NoPositionConfig()
    """How queries and keys are turned: rope, or not at all; biases need the logits of attention."""

    def resolve(self, scope: Scope) -> Self:
        resolved = super().resolve(scope)
        assert resolved.num_heads is not None
        assert resolved.head_dim is not None
        inside = scope.inside(resolved.num_heads, resolved.head_dim)
        if self.position.biased:
            raise ValueError(
                f"position {self.position.type} acts on the logits of attention, "
                f"which {self.type} never has; use rope or none"
            )
        return resolved.replace(position=self.position.resolve(inside))


def shared_width(num_heads: int | None, head_dim: int | None, d: int) -> tuple[int, int]:
    """(heads, width of each) for a width ``d``; ValueError where it cannot be shared out."""
    if num_heads is None:
        width = head_dim or min(_USUAL_HEAD_DIM, d)
        if d % width:
            raise ValueError(f"heads of {width} do not divide d_model {d}; give num_heads")
        return d // width, width
    if head_dim is None and d % num_heads:
        raise ValueError(
            f"num_heads {num_heads} does not divide d_model {d}; choose a divisor, or give head_dim"
        )
    return num_heads, head_dim or d // num_heads


def real_tokens(span: Span) -> Tensor | None:
    """(1 or b, t) bool, False at pads; None where there are none."""
    return span.real if span.padded else None


def without_pads(x: Tensor, real: Tensor | None) -> Tensor:
    """``x`` (b t d) with zeros at pads, so that nothing there can overflow."""
    return x if real is None else x.masked_fill(~real[..., None], 0.0)


def heads_first(x: Tensor, heads: int) -> Tensor:
    """b t h·k -> b h t k"""
    b, t, width = x.shape
    return x.view(b, t, heads, width // heads).transpose(1, 2)


def heads_joined(x: Tensor) -> Tensor:
    """b h t v -> b t h·v"""
    return x.transpose(1, 2).flatten(2)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype of a state whose weights are of ``dtype``."""
    return torch.promote_types(dtype, torch.float32)
