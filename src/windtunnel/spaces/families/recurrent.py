"""rnn, lstm, gru: embedding, dropout, recurrent layers with dropout after each, head without bias.

As torch's ``nn.RNN`` (tanh), ``nn.LSTM`` and ``nn.GRU`` with a hidden width of d_model, dropout
between layers and once more before the head. No norm, no positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from windtunnel.spaces.families.family import Family, number, register


class Recurrent(Family):
    """``V·d·(1 + u) + G·L·(2d² + 2d)`` parameters; u is 0 when tied, G the number of gates."""

    gates: ClassVar[int]
    axes = ("d_model", "n_layer", "p_drop", "tie_weights")
    parts: ClassVar[Mapping[str, str]] = {
        "d_model": "{}d", "n_layer": "{}L", "p_drop": "d{}", "tie_weights": "t{}",
    }  # fmt: skip

    def params(self, values: Mapping[str, Any]) -> Any:
        vocab, d, layers, tied = number(values, "vocab_size", "d_model", "n_layer", "tie_weights")
        return vocab * d * (2 - tied) + self.gates * layers * (2 * d * d + 2 * d)

    def arch(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "preset": self.name,
            "vocab_size": values["vocab_size"],
            "max_seq_len": values["max_seq_len"],
            "d_model": values["d_model"],
            "embedding": {"tie": values["tie_weights"], "dropout": values["p_drop"]},
            "set": {
                "layers[0].repeat": values["n_layer"],
                "layers[0].dropout": values["p_drop"],
            },
        }

    def config(self, values: Mapping[str, Any]) -> dict[str, Any]:
        names = ("vocab_size", "d_model", "n_layer", "max_seq_len", "p_drop", "tie_weights")
        return {name: values[name] for name in names}


@register
class RNN(Recurrent):
    """The simple recurrent network, tanh."""

    name = "rnn"
    gates = 1


@register
class LSTM(Recurrent):
    """Long short-term memory."""

    name = "lstm"
    gates = 4


@register
class GRU(Recurrent):
    """The gated recurrent unit."""

    name = "gru"
    gates = 3
