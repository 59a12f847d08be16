"""The contract of an objective."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.arch import Architecture, cost
from windtunnel.train.batch import IGNORED, TokenBatch, count_targets, summed_nats
from windtunnel.train.objectives.config import ObjectiveConfig

C = TypeVar("C", bound=ObjectiveConfig)


class Objective(Generic[C]):
    """From a batch to a loss, in two steps, so that a batch can be cut between them.

    :meth:`prepare` makes all random choices, for the whole batch; :meth:`summed` is then a function
    of the model and of the rows alone. The default is the loss of every target at its own place.
    """

    measures_text: ClassVar[bool] = True
    """Whether the loss is −ln p of tokens of text, so that it has a perplexity and bits a byte."""

    def __init__(
        self, config: C, *, vocab_size: int, architecture: Architecture | None = None
    ) -> None:
        self.config = config
        self.vocab_size = vocab_size
        self.architecture = architecture
        self._costs: dict[tuple[int, int], float] = {}

    def prepare(self, batch: TokenBatch, generator: torch.Generator) -> TokenBatch:
        """The batch as the model is to see it; ``generator`` is on the CPU."""
        return batch

    def predictions(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Logits (…, V) for a prepared batch, and what they should be: (…)."""
        return model(batch.inputs), batch.targets

    def summed(self, model: nn.Module, batch: Any) -> Tensor:
        """The sum over targets of −ln p(target), in nats, of a prepared batch: a float32 scalar."""
        return summed_nats(*self.predictions(model, batch))

    @torch.no_grad()
    def score(self, model: nn.Module, batch: Any, generator: torch.Generator) -> tuple[float, int]:
        """The summed loss of a prepared batch in float64, and how many targets come first.

        ``generator`` (on the CPU) is for what an objective draws besides.
        """
        logits, sought = self.predictions(model, batch)
        logits, targets = logits.flatten(0, -2).float(), sought.flatten()
        losses = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
        hits = logits.argmax(-1) == targets  # an ignored target is no id, so never a hit
        return float(losses.cpu().double().sum()), int(hits.sum())

    def loss(
        self, model: nn.Module, batch: TokenBatch, generator: torch.Generator
    ) -> tuple[Tensor, int]:
        """The summed loss of a batch, and of how many targets."""
        prepared = self.prepare(batch, generator)
        return self.summed(model, prepared), count_targets(prepared)

    def train_flops_per_token(self, architecture: Architecture, seq_len: int) -> float:
        """Of training, for each token of a batch's rows, at that length."""
        return float(cost(architecture, seq_len).train_flops_per_token)

    def train_flops(self, batch: Any, flops_per_token: float) -> float:
        """Of training on a prepared batch, given :meth:`train_flops_per_token`."""
        return float(batch.inputs.numel() * flops_per_token)

    def _flops_at(self, t: int, s: int = 0) -> float:
        """Of training, per token of ragged rows that are ``t`` long beside a source of ``s``."""
        if self.architecture is None:
            return 0.0
        if (t, s) not in self._costs:
            counted = cost(self.architecture, t, source_len=s or None)
            self._costs[t, s] = float(counted.train_flops_per_token)
        return self._costs[t, s]
