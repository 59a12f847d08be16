"""The gated recurrent unit (Cho et al. 2014, arXiv 1406.1078), reset gate as in torch."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from windtunnel.nn.component import register
from windtunnel.nn.cost import Num
from windtunnel.nn.mixers.recurrent import Recurrent, RecurrentConfig
from windtunnel.nn.mixers.rnn import RNNState


class GRUConfig(RecurrentConfig):
    """``h = (1 − z)·c + z·h`` with ``c = tanh(W_c x + b + r·(U_c h + b'))``, as torch.nn.GRU."""

    gates: ClassVar[int] = 3

    type: Literal["gru"] = "gru"

    def _kept(self, d: Num, n: Num) -> Num:
        return 7 * n


@register("mixer")
class GRU(Recurrent):
    """y_t = h_t; the rows of each weight are reset gate r, update gate z, candidate c."""

    Config = GRUConfig

    def initial_state(self, batch: int) -> RNNState:
        return RNNState(self.zeros(batch))

    def run(self, x: Tensor, state: RNNState) -> tuple[Tensor, RNNState]:
        y, h = torch.gru(
            x, state.h[None], self.weights(), self.config.bias, 1, 0.0, self.keeps, False, True
        )
        return y, RNNState(h[0])

    def run_packed(self, x: PackedSequence, state: RNNState) -> tuple[Tensor, RNNState]:
        y, h = torch.gru(
            x.data, x.batch_sizes, state.h[None], self.weights(), self.config.bias, 1, 0.0,
            self.keeps, False,
        )  # fmt: skip
        return y, RNNState(h[0])
