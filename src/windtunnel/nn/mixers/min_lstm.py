"""minLSTM (Feng et al. 2024, arXiv 2410.01201, section 3.2): an LSTM that a scan can train."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from windtunnel.nn.component import register
from windtunnel.nn.mixers.minimal_recurrent import Minimal, MinimalConfig, normalized


class MinLSTMConfig(MinimalConfig):
    """``h = f·h + i·c``, with gates f + i = 1 and c functions of the current token alone."""

    maps: ClassVar[int] = 3

    type: Literal["min_lstm"] = "min_lstm"


@register("mixer")
class MinLSTM(Minimal):
    """f = σ(W_f x), i = σ(W_i x); h_t = f/(f+i) h_{t−1} + i/(f+i) c(W_c x_t); y_t = h_t, projected
    if n ≠ d.

    ``forget`` is W_f, ``enter`` W_i, ``candidate`` W_c. As with minGRU the scan is of the values.
    """

    Config = MinLSTMConfig
    maps = ("forget", "enter", "candidate")

    @staticmethod
    def decay_and_share(*gates: Tensor) -> tuple[Tensor, Tensor]:
        return normalized(*gates)
