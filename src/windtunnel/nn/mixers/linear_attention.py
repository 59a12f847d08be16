"""Linear attention with elementwise features (Katharopoulos et al. 2020, arXiv 2006.16236)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from windtunnel.nn.component import filled, register
from windtunnel.nn.cost import Num
from windtunnel.nn.mixers.linear_heads import at_least_float32
from windtunnel.nn.mixers.positive_attention import PositiveAttention, PositiveConfig


class LinearAttentionConfig(PositiveConfig):
    """``y_i = Σ_j (φ(q_i)·φ(k_j)) v_j / Σ_j φ(q_i)·φ(k_j)`` with φ(x) = elu(x) + 1.

    Under `position: rope` q and k are turned before φ, which is no linear map: the weights depend
    on the positions themselves and not on the distance alone. RoFormer (arXiv 2104.09864, eq. 19)
    turns φ(q) and φ(k), in the numerator alone, which may make weights negative.
    """

    type: Literal["linear_attention"] = "linear_attention"

    def features(self) -> Num:
        return filled(self.head_dim)

    def _kept_by_features(self) -> Num:
        return 4 * filled(self.head_dim)


@register("mixer")
class LinearAttention(PositiveAttention):
    """φ(x) = elu(x) + 1 = e^min(x, 0) + max(x, 0) (eq. 7); causal sums as in eq. 10 to 12.

    Deviation: sums are held relative to the greatest log-feature so far, in place of the epsilon
    that the authors' code adds to the denominator, so far-negative queries and keys are exact too.
    """

    Config = LinearAttentionConfig

    def log_features(self, x: Tensor, *, of_keys: bool) -> Tensor:
        # The log of a sum of which one part is constant: exact on both sides.
        x = x.to(at_least_float32(x.dtype))
        return x.clamp(max=0.0) + torch.log1p(torch.relu(x))
