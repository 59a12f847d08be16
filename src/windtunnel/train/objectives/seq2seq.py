"""Sequence to sequence: a target, token by token, given a source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.arch import Architecture, cost
from windtunnel.data.forms import Pairs
from windtunnel.errors import DataError
from windtunnel.train.batch import IGNORED, TokenBatch
from windtunnel.train.objectives.config import Seq2SeqConfig
from windtunnel.train.objectives.objective import Objective


def cut_at(source: float, t: int) -> int:
    """How many of a row's ``t`` tokens are the source, of which it is that share."""
    if t < 2:
        raise DataError(f"seq2seq cuts each row in two, and this one has {t} token")
    return min(max(1, round(source * t)), t - 1)


class Seq2Seq(Objective[Seq2SeqConfig]):
    """−Σ ln p(target token | source, target tokens before it).

    Of a pair the encoder reads the one and the decoder writes the other. A row of a text is cut in
    two: the encoder reads its beginning, the decoder writes the rest, starting with the first token
    of it.
    """

    def cut(self, t: int) -> int:
        """How many of a row's ``t`` tokens are the source."""
        return cut_at(self.config.source, t)

    def prepare(self, batch: TokenBatch, generator: torch.Generator) -> TokenBatch:
        if isinstance(batch, Pairs):
            return batch
        targets = batch.targets.clone()
        targets[:, : self.cut(targets.shape[1])] = IGNORED
        return CutRows(batch.inputs, targets)

    def predictions(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        if isinstance(batch, Pairs):
            written = batch.targets != IGNORED
            return model(batch.source, batch.inputs, batch.source_real, written), batch.targets
        s = self.cut(batch.inputs.shape[1])
        return model(batch.inputs[:, :s], batch.inputs[:, s:]), batch.targets[:, s:]

    def hidden(self, model: Any, batch: Any) -> tuple[Tensor, Tensor]:
        if isinstance(batch, Pairs):
            written = batch.targets != IGNORED
            memory = model.encode(batch.source, batch.source_real)
            hidden = model.hidden(batch.inputs, written, memory, batch.source_real)
            return hidden, batch.targets
        s = self.cut(batch.inputs.shape[1])
        memory = model.encode(batch.inputs[:, :s])
        return model.hidden(batch.inputs[:, s:], memory=memory), batch.targets[:, s:]

    def train_flops_per_token(self, architecture: Architecture, seq_len: int) -> float:
        s = self.cut(seq_len)
        counted = cost(architecture, seq_len - s, source_len=s)
        return float(counted.train_flops_per_token) * (seq_len - s) / seq_len

    def train_flops(self, batch: Any, flops_per_token: float) -> float:
        if isinstance(batch, Pairs):
            flops_per_token = self._flops_at(batch.inputs.shape[1], batch.source.shape[1])
        return super().train_flops(batch, flops_per_token)


@dataclass(frozen=True)
class CutRows:
    """Rows of a text of which not every target counts."""

    inputs: Tensor
    targets: Tensor
