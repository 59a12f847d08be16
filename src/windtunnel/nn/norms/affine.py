"""What norms share: a learned weight and bias, and the precision that they compute in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.nn.component import C, ComponentConfig, Norm, Scope
from windtunnel.nn.initialize import Init, constant


class AffineConfig(ComponentConfig):
    """A norm with an optional weight and an optional bias."""

    affine: bool = True
    """Whether a weight is learned."""
    bias: bool = False
    """Whether a bias for each channel is learned."""


class AffineNorm(Norm[C]):
    """Holds ``weight`` (starts at ``start``) and ``bias`` (starts at 0), each of size d or absent.

    Norms of bfloat16 values are computed in float32 and rounded once, at the end.
    """

    start = 1.0

    def __init__(self, config: C, scope: Scope, width: int | None = None) -> None:
        super().__init__(config, scope)
        flags: Any = config
        self.d_model = scope.d_model
        weight = nn.Parameter(torch.empty(width or scope.d_model)) if flags.affine else None
        bias = nn.Parameter(torch.empty(scope.d_model)) if flags.bias else None
        self.register_parameter("weight", weight)
        self.register_parameter("bias", bias)

    weight: Tensor | None
    bias: Tensor | None

    def initializers(self) -> dict[str, Init]:
        return {"weight": constant(self.start), "bias": constant(0.0)}


def length(x: Tensor) -> Tensor:
    """‖x‖₂ over the last dimension, which stays with size 1."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm
