"""Parameters for any architecture: predicted where it is small enough, grown where it is larger."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from windtunnel.arch import Architecture
from windtunnel.data.tokenizers import Tokenizer
from windtunnel.hyper.stored import Stored


@dataclass(frozen=True)
class Prediction:
    """The parameters of one architecture."""

    weights: dict[str, Tensor]
    """By the names of ``named_parameters()``; those that are not there keep their initial values."""
    values: int
    """How many numbers are predicted."""
    params: int
    """How many the architecture has."""
    notes: tuple[str, ...] = ()
    """What was grown or left out, in words."""


def predict(
    stored: Stored, architecture: Architecture, *, tokenizer: Tokenizer | None = None, seed: int = 0
) -> Prediction:
    """The parameters that a hypernetwork gives an architecture.

    Args:
        tokenizer: the architecture's, where it is not the hypernetwork's own.
        seed: of what breaks the symmetry of grown channels.
    """
    raise NotImplementedError
