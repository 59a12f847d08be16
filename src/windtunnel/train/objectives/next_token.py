"""The next token of a text, or of what follows a prompt: language modelling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.data.forms import SampleRows
from windtunnel.train.batch import IGNORED, TokenBatch
from windtunnel.train.objectives.config import NextTokenConfig
from windtunnel.train.objectives.objective import Objective
from windtunnel.train.objectives.seq2seq import CutRows, cut_at


class NextToken(Objective[NextTokenConfig]):
    """−Σ ln p(token | those before it): each row's targets are its tokens, one to the left.

    With ``source`` those of a row's beginning do not count.
    """

    def prepare(self, batch: TokenBatch, generator: torch.Generator) -> TokenBatch:
        if not self.config.source or isinstance(batch, SampleRows):
            return batch
        targets = batch.targets.clone()
        targets[:, : cut_at(self.config.source, targets.shape[1])] = IGNORED
        return CutRows(batch.inputs, targets)

    def predictions(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        if isinstance(batch, SampleRows):
            return model(batch.inputs, batch.real, **_documents(batch)), batch.targets
        return model(batch.inputs), batch.targets

    def hidden(self, model: Any, batch: Any) -> tuple[Tensor, Tensor]:
        if isinstance(batch, SampleRows):
            return model.hidden(batch.inputs, batch.real, **_documents(batch)), batch.targets
        return model.hidden(batch.inputs), batch.targets

    def train_flops(self, batch: Any, flops_per_token: float) -> float:
        if isinstance(batch, SampleRows):  # as wide as its longest sample, pads included
            flops_per_token = self._flops_at(batch.shape_of_documents[1])
        return super().train_flops(batch, flops_per_token)


def _documents(batch: SampleRows) -> dict[str, Tensor]:
    """Which tokens see each other, where rows hold several documents."""
    return {} if batch.documents is None else {"documents": batch.documents}
