"""What training on a row of text costs: an objective may cut it before the model sees it."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.arch import ArchCost, Architecture, cost
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


def row_cost(written: ObjectiveConfig, architecture: Architecture, seq_len: int) -> RowCost:
    """What the objective makes of a row, counted.

    An encoder_decoder reads the beginning and writes the rest: together they are as long as the
    row.
    """
    config = chosen(written, architecture.type)
    if architecture.encoder is None or not isinstance(config, Seq2SeqConfig) or seq_len < 2:
        counted = cost(architecture, seq_len)
        return RowCost(counted, float(counted.train_flops_per_token), 0)
    s = Seq2Seq(config, vocab_size=architecture.vocab_size).cut(seq_len)
    counted = cost(architecture, seq_len - s, source_len=s)
    share = (seq_len - s) / seq_len
    return RowCost(counted, float(counted.train_flops_per_token) * share, s)
