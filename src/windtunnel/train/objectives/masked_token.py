"""Masked tokens (Devlin et al. 2018, BERT, arXiv 1810.04805, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

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
    real: Tensor | None = None
    """(b, t) bool, False behind a text's end; None where every row is full"""


class _Drawn(NamedTuple):
    """Random numbers for every token, (b, t) each."""

    which: Tensor
    how: Tensor
    other: Tensor
    """An id to put in the token's place."""


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
        return self._masked(batch, self._drawn(batch.inputs.shape, generator), together=True)

    def prepare_rows(self, batch: TokenBatch, generators: Sequence[torch.Generator]) -> MaskedBatch:
        """Here at least one token is masked in every row."""
        shape = batch.inputs[:1].shape
        rows = [self._drawn(shape, generator) for generator in generators]
        drawn = _Drawn(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
        return self._masked(batch, drawn, together=False)

    def _drawn(self, shape: torch.Size, generator: torch.Generator) -> _Drawn:
        return _Drawn(
            torch.rand(shape, generator=generator),
            torch.rand(shape, generator=generator),
            torch.randint(0, self.mask_id, shape, generator=generator),
        )

    def _masked(self, batch: TokenBatch, drawn: _Drawn, *, together: bool) -> MaskedBatch:
        """At least one token is masked in the batch, or in each of its rows."""
        config = self.config
        tokens = batch.inputs.cpu()
        counted = batch.targets.cpu() != IGNORED
        which = drawn.which.masked_fill(~counted, 2.0)
        least = which.amin() if together else which.amin(1, keepdim=True)
        sought = (which < config.rate) | ((which == least) & (least >= config.rate) & counted)
        inputs = torch.where(sought & (drawn.how < config.mask), self.mask_id, tokens)
        swapped = sought & (drawn.how >= config.mask) & (drawn.how < config.mask + config.random)
        inputs = torch.where(swapped, drawn.other, inputs)
        real = None if bool(counted.all()) else counted
        return MaskedBatch(inputs, tokens.masked_fill(~sought, IGNORED), real)

    def predictions(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        return model(batch.inputs, batch.real), batch.targets

    def hidden(self, model: Any, batch: Any) -> tuple[Tensor, Tensor]:
        return model.hidden(batch.inputs, batch.real), batch.targets
