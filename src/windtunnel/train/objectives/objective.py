"""The contract of an objective."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from windtunnel.arch import Architecture, cost
from windtunnel.train.batch import IGNORED, TokenBatch, summed_nats
from windtunnel.train.objectives.config import ObjectiveConfig

C = TypeVar("C", bound=ObjectiveConfig)


class Objective(Generic[C]):
    """From a batch to a loss, in two steps, so that a batch can be cut between them.

    :meth:`prepare` makes all random choices, for the whole batch; :meth:`summed` is then a function
    of the model and of the rows alone. The default is the loss of every target at its own place.
    """

    def __init__(self, config: C, *, vocab_size: int) -> None:
        self.config = config
        self.vocab_size = vocab_size

    def prepare(self, batch: TokenBatch, generator: torch.Generator) -> TokenBatch:
        """The batch as the model is to see it; ``generator`` is on the CPU."""
        return batch

    def predictions(
        self, model: nn.Module, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (b, u, V) of prepared rows, and what they should be: (b, u)."""
        return model(inputs), targets

    def summed(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over targets of −ln p(target), in nats: b t, b t -> a float32 scalar."""
        return summed_nats(*self.predictions(model, inputs, targets))

    def loss(
        self, model: nn.Module, batch: TokenBatch, generator: torch.Generator
    ) -> tuple[Tensor, int]:
        """The summed loss of a batch, and of how many targets."""
        prepared = self.prepare(batch, generator)
        count = int((prepared.targets != IGNORED).sum())
        return self.summed(model, prepared.inputs, prepared.targets), count

    def train_flops_per_token(self, architecture: Architecture, seq_len: int) -> float:
        """Of training, for each token of a batch's rows."""
        return float(cost(architecture, seq_len).train_flops_per_token)
