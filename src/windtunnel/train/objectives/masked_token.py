"""Masked tokens (Devlin et al. 2018, BERT, arXiv 1810.04805, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from windtunnel.train.batch import IGNORED, TokenBatch
from windtunnel.train.objectives.config import MaskedTokenConfig
from windtunnel.train.objectives.objective import Objective


@dataclass(frozen=True)
class MaskedBatch:
    """Rows with tokens left out."""

    inputs: Tensor
    """(b, t) int64"""
    targets: Tensor
    """(b, t) int64: the token where one is to be found, else −100"""


class MaskedToken(Objective[MaskedTokenConfig]):
    """−Σ ln p(token | all tokens but those left out), over a random part of the tokens.

    Of those to be found, 80% are replaced by the mask (the last id of the vocabulary), 10% by some
    other token, 10% are left. Deviations: which tokens are masked is drawn anew whenever a row is
    read, as in RoBERTa (arXiv 1907.11692, section 4.1), and at least one is in every batch.
    """

    @property
    def mask_id(self) -> int:
        """The id that stands for a token left out."""
        return self.vocab_size - 1

    def prepare(self, batch: TokenBatch, generator: torch.Generator) -> MaskedBatch:
        config = self.config
        tokens = batch.inputs.cpu()
        counted = batch.targets.cpu() != IGNORED
        draw = torch.rand(tokens.shape, generator=generator).masked_fill(~counted, 2.0)
        sought = draw < config.rate
        if bool(counted.any()) and not bool(sought.any()):
            sought.view(-1)[draw.argmin()] = True
        how = torch.rand(tokens.shape, generator=generator)
        other = torch.randint(0, self.mask_id, tokens.shape, generator=generator)
        inputs = torch.where(sought & (how < config.mask), self.mask_id, tokens)
        swapped = sought & (how >= config.mask) & (how < config.mask + config.random)
        inputs = torch.where(swapped, other, inputs)
        return MaskedBatch(inputs, tokens.masked_fill(~sought, IGNORED))
