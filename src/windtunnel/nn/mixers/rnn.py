"""The simple recurrent network (Elman 1990)."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from windtunnel.nn.component import register
from windtunnel.nn.cost import Num
from windtunnel.nn.mixers.recurrent import Recurrent, RecurrentConfig


class RNNConfig(RecurrentConfig):
    """``h = activation(W_ih x + b_ih + W_hh h + b_hh)``, as torch.nn.RNN."""

    gates: ClassVar[int] = 1

    type: Literal["rnn"] = "rnn"
    activation: Literal["tanh", "relu"] = "tanh"
    """The elementwise function."""

    def _kept(self, d: Num, n: Num) -> Num:
        return n


class RNNState(NamedTuple):
    """What an RNN or GRU remembers."""

    h: Tensor
    """(b, n)"""


@register("mixer")
class RNN(Recurrent):
    """y_t = h_t."""

    Config = RNNConfig

    def initial_state(self, batch: int) -> RNNState:
        return RNNState(self.zeros(batch))

    def run(self, x: Tensor, state: RNNState) -> tuple[Tensor, RNNState]:
        kernel = torch.rnn_tanh if self.config.activation == "tanh" else torch.rnn_relu
        y, h = kernel(
            x, state.h[None], self.weights(), self.config.bias, 1, 0.0, self.keeps, False, True
        )
        return y, RNNState(h[0])

    def run_packed(self, x: PackedSequence, state: RNNState) -> tuple[Tensor, RNNState]:
        kernel = torch.rnn_tanh if self.config.activation == "tanh" else torch.rnn_relu
        y, h = kernel(
            x.data, x.batch_sizes, state.h[None], self.weights(), self.config.bias, 1, 0.0,
            self.keeps, False,
        )  # fmt: skip
        return y, RNNState(h[0])
