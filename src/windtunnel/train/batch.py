"""What the trainer needs of the data, and the loss on it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
"""The target of a token that has no loss."""


class TokenBatch(Protocol):
    """Rows of tokens and the token that follows each; both (b, t) int64."""

    @property
    def inputs(self) -> Tensor: ...
    @property
    def targets(self) -> Tensor: ...


class BatchSource(Protocol):
    """Batches by position: the same position gives the same batch, for ever."""

    def at(self, position: int) -> TokenBatch: ...


class TokenLengths(Protocol):
    """A tokenizer, as far as evaluation needs it."""

    @property
    def token_bytes(self) -> NDArray[np.int32]:
        """(V,): the bytes of text that each id stands for."""
        ...


def summed_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum over targets of −ln p(target), in nats: b t V, b t -> a float32 scalar.

    Computed in float32 whatever the logits' precision; ignored targets count nothing.
    """
    return F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
