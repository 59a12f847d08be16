"""Long short-term memory (Hochreiter & Schmidhuber 1997; Gers et al. 2000)."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from windtunnel.nn.component import register
from windtunnel.nn.cost import Num, larger
from windtunnel.nn.mixers.recurrent import Recurrent, RecurrentConfig


class LSTMConfig(RecurrentConfig):
    """``c = f·c + i·g``, ``h = o·tanh(c)``, as torch.nn.LSTM."""

    gates: ClassVar[int] = 4
    states: ClassVar[int] = 2

    type: Literal["lstm"] = "lstm"

    def _kept(self, d: Num, n: Num) -> Num:
        # oneDNN's workspace on a CPU, measured at widths of 64 to 256 within 3%.
        return 10.4 * n + 6.3 * larger(d, n)

    def _more_in_bfloat16(self, n: Num) -> Num:
        return 6.4 * n


class LSTMState(NamedTuple):
    """What an LSTM remembers."""

    h: Tensor
    """(b, n)"""
    c: Tensor
    """(b, n)"""


@register("mixer")
class LSTM(Recurrent):
    """y_t = h_t; the rows of each weight are input gate i, forget gate f, cell g, output gate o."""

    Config = LSTMConfig

    def initial_state(self, batch: int) -> LSTMState:
        return LSTMState(self.zeros(batch), self.zeros(batch))

    def run(self, x: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        hx = (state.h[None], state.c[None])
        y, h, c = torch.lstm(
            x, hx, self.weights(), self.config.bias, 1, 0.0, self.keeps, False, True
        )
        return y, LSTMState(h[0], c[0])

    def run_packed(self, x: PackedSequence, state: LSTMState) -> tuple[Tensor, LSTMState]:
        hx = (state.h[None], state.c[None])
        y, h, c = torch.lstm(
            x.data, x.batch_sizes, hx, self.weights(), self.config.bias, 1, 0.0,
            self.keeps, False,
        )  # fmt: skip
        return y, LSTMState(h[0], c[0])
