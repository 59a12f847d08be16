"""Gated DeltaNet: a delta rule that also forgets (Yang et al. 2024, arXiv 2412.06464)."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.nn.component import Scope, filled, register
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.initialize import Init
from windtunnel.nn.linear import Linear
from windtunnel.nn.mixers.delta_net import DeltaRule, DeltaRuleConfig
from windtunnel.nn.mixers.state_space import log_of_uniform, step_bias


class GatedDeltaNetConfig(DeltaRuleConfig):
    """``S = α (S − β k (Sᵀk)ᵀ) + β k vᵀ``, ``out(norm(Sᵀ q) · silu(gate(x)))``."""

    type: Literal["gated_delta_net"] = "gated_delta_net"
    dt_min: float = Field(1e-3, gt=0, allow_inf_nan=False)
    """The least step Δ of the decay at the start, for an input of 0: log-uniform."""
    dt_max: float = Field(0.1, gt=0, allow_inf_nan=False)
    """The largest step at the start."""
    a_max: float = Field(16.0, gt=0, allow_inf_nan=False)
    """The largest decay rate at the start: uniform from 0."""

    @model_validator(mode="after")
    def _order_of_steps(self) -> Self:
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min {self.dt_min} is larger than dt_max {self.dt_max}")
        return self

    def cost(self, scope: Scope, t: Num) -> Cost:
        d, h, width = scope.d_model, filled(self.num_heads), filled(self.value_dim)
        return (
            super().cost(scope, t)
            + linear_cost(d, h, bias=False)
            + linear_cost(d, h * width, bias=False)
            + Cost(params=2 * h, activation_values=h + 3 * h * width)
        )


@register("mixer")
class GatedDeltaNet(DeltaRule):
    """As DeltaNet, with α_t = exp(−exp(a_log) · softplus(W_α x + dt_bias)) for each head:
    S_t = α_t (1 − β_t k_t k_tᵀ) S_{t−1} + β_t k_t v_tᵀ; y = W_o(norm(S_tᵀ q_t) · silu(W_g x)).

    Parameters besides: ``alpha`` (W_α), ``dt_bias``, ``a_log``, ``gate`` (W_g). Values are as wide
    as keys unless `value_dim` says otherwise; the paper's models have them twice as wide.
    """

    Config = GatedDeltaNetConfig

    def __init__(self, config: GatedDeltaNetConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, h = scope.d_model, filled(config.num_heads)
        self.alpha = Linear(d, h, bias=False)
        self.dt_bias = nn.Parameter(torch.empty(h))
        self.a_log = nn.Parameter(torch.empty(h))
        self.gate = Linear(d, h * filled(config.value_dim), bias=False)

    def initializers(self) -> dict[str, Init]:
        config = self.config
        return {
            "dt_bias": step_bias(config.dt_min, config.dt_max),
            "a_log": log_of_uniform(0.0, config.a_max),
        }

    def decay(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.alpha(x), self.dt_bias, self.a_log

    def gated(self, y: Tensor, x: Tensor) -> Tensor:
        return y * F.silu(self.gate(x))
