"""What training costs: on a row of text, which an objective may cut, and on batches of samples."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.arch import ArchCost, Architecture, cost
from windtunnel.data.config import Kind
from windtunnel.train.objectives.config import ObjectiveConfig, Seq2SeqConfig, chosen
from windtunnel.train.objectives.seq2seq import Seq2Seq


@dataclass(frozen=True)
class RowCost:
    """The cost of rows of ``seq_len`` tokens."""

    counted: ArchCost
    """By part, at the lengths that the stacks see."""
    train_flops_per_token: float
    """Of training, for each token of a row."""
    source_len: int
    """Tokens of a row that an encoder reads; the rest are the decoder's. 0 without an encoder."""


@dataclass(frozen=True)
class StepSize:
    """What steps on samples come to on average: the batches are not equally wide."""

    targets: float
    """That count, in one step."""
    shapes: tuple[tuple[int, int, int], ...]
    """Of some batches: rows, tokens in each, and tokens of a source beside each (0 without)."""

    def train_flops(self, architecture: Architecture) -> float:
        """Of training, in one step, pads included."""
        found = [
            rows * t * float(cost(architecture, t, source_len=s or None).train_flops_per_token)
            for rows, t, s in self.shapes
        ]
        return sum(found) / len(found)


def row_cost(
    written: ObjectiveConfig, architecture: Architecture, seq_len: int, data: Kind = "text"
) -> RowCost:
    """What the objective makes of a row of text, counted; of samples as long as a row may be.

    Of a text an encoder_decoder reads the beginning and writes the rest: together they are as long
    as the row. Of a pair each side may be so long.
    """
    config = chosen(written, architecture.type)
    if architecture.encoder is not None and data == "pairs":
        counted = cost(architecture, seq_len, source_len=seq_len)
        return RowCost(counted, float(counted.train_flops_per_token), seq_len)
    if architecture.encoder is None or not isinstance(config, Seq2SeqConfig) or seq_len < 2:
        counted = cost(architecture, seq_len)
        return RowCost(counted, float(counted.train_flops_per_token), 0)
    s = Seq2Seq(config, vocab_size=architecture.vocab_size).cut(seq_len)
    counted = cost(architecture, seq_len - s, source_len=s)
    share = (seq_len - s) / seq_len
    return RowCost(counted, float(counted.train_flops_per_token) * share, s)
