"""minGRU (Feng et al. 2024, arXiv 2410.01201, section 3.1): a GRU that a scan can train."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from windtunnel.nn.component import register
from windtunnel.nn.mixers.minimal_recurrent import Minimal, MinimalConfig, opposite


class MinGRUConfig(MinimalConfig):
    """``h = (1 − z)·h + z·c``, with z and c functions of the current token alone."""

    maps: ClassVar[int] = 2

    type: Literal["min_gru"] = "min_gru"


@register("mixer")
class MinGRU(Minimal):
    """z_t = σ(W_z x_t); h_t = (1 − z_t) h_{t−1} + z_t c(W_c x_t); y_t = h_t, projected if n ≠ d.

    ``gate`` is W_z, ``candidate`` W_c. The paper's scan of logarithms, which needs its positive
    candidate (appendix B.2.1), is here a scan of the values: the same numbers. h starts at 0.
    """

    Config = MinGRUConfig
    maps = ("gate", "candidate")

    @staticmethod
    def decay_and_share(*gates: Tensor) -> tuple[Tensor, Tensor]:
        return opposite(gates[0]), torch.sigmoid(gates[0])
