"""A vocabulary may be padded (to a multiple of 64, say); ids of the padding stand for no text."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


class KnownIds:
    """A model that never chooses an id from ``size`` on: the model itself, but for its logits.

    A little-trained model gives padding ids a chance, and what is drawn must be text.
    """

    def __init__(self, model: Any, size: int) -> None:
        self._model, self._size = model, size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def logits(self, hidden: Tensor) -> Tensor:
        """b t d -> b t V, −∞ for ids without a text."""
        return self._masked(self._model.logits(hidden))

    def extend(self, *arguments: Any, **options: Any) -> Any:
        """As the model's, with such logits."""
        logits, state = self._model.extend(*arguments, **options)
        return self._masked(logits), state

    def _masked(self, logits: Tensor) -> Tensor:
        logits = logits.clone()
        logits[..., self._size :] = -math.inf
        return logits


def with_known_ids(model: Any, size: int) -> Any:
    """The model, or where its vocabulary is larger than ``size``, the model without the rest."""
    return model if model.architecture.vocab_size <= size else KnownIds(model, size)
