"""No feed-forward."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from windtunnel.nn.component import MLP, ComponentConfig, Scope, register
from windtunnel.nn.cost import Cost, Num


class NoMLPConfig(ComponentConfig):
    """No feed-forward: the layer is its mixer alone."""

    type: Literal["none"] = "none"

    def cost(self, scope: Scope, t: Num) -> Cost:
        return Cost()


@register("mlp")
class NoMLP(MLP[NoMLPConfig]):
    """A branch that adds nothing. A layer leaves it out, with its norm and residual."""

    Config = NoMLPConfig

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)
