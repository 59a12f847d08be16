"""Sequence to sequence: a target, token by token, given a source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.arch import Architecture, cost
from windtunnel.errors import DataError
from windtunnel.train.batch import IGNORED, TokenBatch, summed_nats
from windtunnel.train.objectives.config import Seq2SeqConfig
from windtunnel.train.objectives.objective import Objective


@dataclass(frozen=True)
class Pairs:
    """Sources and what is to be written for each, such as translations."""

    source: Tensor
    """(b, s) int64"""
    source_real: Tensor
    """(b, s) bool, False at pads"""
    inputs: Tensor
    """(b, t) int64: the target, one to the right, after a token that begins it"""
    targets: Tensor
    """(b, t) int64, −100 at pads"""


class Seq2Seq(Objective[Seq2SeqConfig]):
    """−Σ ln p(target token | source, target tokens before it).

    A row of a text is cut in two: the encoder reads its beginning, the decoder writes the rest,
    starting with the first token of it. :meth:`of_pairs` is the same for pairs.
    """

    def cut(self, t: int) -> int:
        """How many of a row's ``t`` tokens are the source."""
        if t < 2:
            raise DataError(f"seq2seq cuts each row in two, and this one has {t} token")
        return min(max(1, round(self.config.source * t)), t - 1)

    def prepare(self, batch: TokenBatch, generator: torch.Generator) -> TokenBatch:
        targets = batch.targets.clone()
        targets[:, : self.cut(targets.shape[1])] = IGNORED
        return _Rows(batch.inputs, targets)

    def predictions(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        s = self.cut(batch.inputs.shape[1])
        return model(batch.inputs[:, :s], batch.inputs[:, s:]), batch.targets[:, s:]

    def of_pairs(self, model: nn.Module, pairs: Pairs) -> tuple[Tensor, int]:
        """The summed loss of pairs, and of how many target tokens."""
        logits = model(pairs.source, pairs.inputs, pairs.source_real, pairs.targets != IGNORED)
        return summed_nats(logits, pairs.targets), int((pairs.targets != IGNORED).sum())

    def train_flops_per_token(self, architecture: Architecture, seq_len: int) -> float:
        s = self.cut(seq_len)
        counted = cost(architecture, seq_len - s, source_len=s)
        return float(counted.train_flops_per_token) * (seq_len - s) / seq_len


@dataclass(frozen=True)
class _Rows:
    inputs: Tensor
    targets: Tensor
