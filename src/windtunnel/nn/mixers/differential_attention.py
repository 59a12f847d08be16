"""Differential attention (Ye et al. 2024, arXiv 2410.05258): what two maps share cancels."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from windtunnel.config import Choice
from windtunnel.nn.component import ComponentConfig, Norm, Scope, build_component, filled, register
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.initialize import Init, normal
from windtunnel.nn.mixers.softmax_attention import SoftmaxAttention, SoftmaxConfig
from windtunnel.nn.norms.rmsnorm import RMSNormConfig
from windtunnel.nn.ops.wide import wide


class DifferentialAttentionConfig(SoftmaxConfig):
    """``out((1 − λ₀)·norm((softmax(q₁ k₁ᵀ) − λ·softmax(q₂ k₂ᵀ)) v))``; values of 2·head_dim.

    Left-out head counts and widths are such that 2·num_heads·head_dim is d_model.
    """

    maps: ClassVar[int] = 2

    type: Literal["differential_attention"] = "differential_attention"
    norm: Annotated[ComponentConfig, Choice("norm", "rmsnorm")] = RMSNormConfig(eps=1e-5)
    """Norm of what each head reads."""
    lambda_init: float | None = Field(None, ge=0, lt=1)
    """λ₀, what λ starts near; 0.8 − 0.6·exp(−0.3·layer), the first layer's 0, when left out."""

    def resolve(self, scope: Scope) -> Self:
        resolved = super().resolve(scope)
        return resolved.replace(norm=self.norm.resolve(resolved.read_scope(scope)))

    def read_scope(self, scope: Scope) -> Scope:
        """The place of what each head reads."""
        return scope.inside(filled(self.num_heads), 2 * filled(self.head_dim))

    def cost(self, scope: Scope, t: Num) -> Cost:
        h, k = filled(self.num_heads), filled(self.head_dim)
        norm = self.norm.cost(self.read_scope(scope), t)
        return super().cost(scope, t) + Cost(
            params=4 * k + norm.params,
            activation_values=h * norm.activation_values + 2 * h * k,
            wide_values=h * norm.wide_values,
        )


@register("mixer")
class DifferentialAttention(SoftmaxAttention[DifferentialAttentionConfig]):
    """Head i reads (A_i − λ·A_{h+i}) v_i, A the softmaxes of 2h heads of queries and 2g of keys
    (eq. 1); λ = exp(λ_q1·λ_k1) − exp(λ_q2·λ_k2) + λ₀ is one for all heads of a layer (eq. 2).

    The first h heads of ``q`` and g heads of ``k`` are the first map's. Parameters ``lambda_q1``,
    ``lambda_k1``, ``lambda_q2`` and ``lambda_k2`` (k,) start at N(0, 0.1²), as the authors' do.
    λ₀ follows the layer's number (section 2.1), so it stays out of the resolved config and equal
    layers remain equal.
    """

    Config = DifferentialAttentionConfig

    def __init__(self, config: DifferentialAttentionConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        k = filled(config.head_dim)
        self.norm: Norm[Any] = build_component("norm", config.norm, config.read_scope(scope))
        self.lambda_q1 = nn.Parameter(torch.empty(k))
        self.lambda_k1 = nn.Parameter(torch.empty(k))
        self.lambda_q2 = nn.Parameter(torch.empty(k))
        self.lambda_k2 = nn.Parameter(torch.empty(k))
        usual = 0.8 - 0.6 * math.exp(-0.3 * scope.layer)
        self.lambda_init = usual if config.lambda_init is None else config.lambda_init

    def initializers(self) -> dict[str, Init]:
        names = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
        return dict.fromkeys(names, normal(0.1))

    def _join(self, y: Tensor) -> Tensor:
        first, second = y.chunk(2, dim=1)
        read = self.norm(first - self._lambda().to(y.dtype) * second)
        return super()._join((1.0 - self.lambda_init) * read)

    def _lambda(self) -> Tensor:
        """λ, a number in at least float32."""
        one = (wide(self.lambda_q1) * wide(self.lambda_k1)).sum().exp()
        other = (wide(self.lambda_q2) * wide(self.lambda_k2)).sum().exp()
        return one - other + self.lambda_init
