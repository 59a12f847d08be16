"""Classification: one label for a whole sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.train.objectives.config import ClassificationConfig


@dataclass(frozen=True)
class Labelled:
    """Sequences with their classes."""

    inputs: Tensor
    """(b, t) int64, or (b, t, d) vectors"""
    real: Tensor
    """(b, t) bool, False at pads"""
    labels: Tensor
    """(b,) int64"""


class Classification:
    """−Σ ln p(class | sequence), of a model with a classification head.

    With label smoothing ε the label is (1 − ε) of its class and ε spread over all (Szegedy et al.
    2016, arXiv 1512.00567, section 7).
    """

    def __init__(self, config: ClassificationConfig) -> None:
        self.config = config

    def loss(
        self, model: nn.Module, batch: Labelled, generator: torch.Generator | None = None
    ) -> tuple[Tensor, int]:
        """The summed loss, in float32, and of how many sequences."""
        logits: Tensor = model(batch.inputs, batch.real)
        smoothing = self.config.label_smoothing
        summed = F.cross_entropy(
            logits.float(), batch.labels, reduction="sum", label_smoothing=smoothing
        )
        return summed, len(batch.labels)

    def right(self, model: nn.Module, batch: Labelled) -> int:
        """How many labels come first."""
        logits: Tensor = model(batch.inputs, batch.real)
        return int((logits.argmax(-1) == batch.labels).sum())
