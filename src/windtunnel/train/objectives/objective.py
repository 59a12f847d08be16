"""The contract of an objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.arch import Architecture, cost
from windtunnel.nn.head import Head
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
        self.loss_rows: int | None = None
        """The logits of so many tokens exist at once; None: those of all."""

    def prepare(self, batch: TokenBatch, generator: torch.Generator) -> TokenBatch:
        """The batch as the model is to see it; ``generator`` is on the CPU."""
        return batch

    def prepare_rows(self, batch: TokenBatch, generators: Sequence[torch.Generator]) -> TokenBatch:
        """As :meth:`prepare`, but what is drawn for a row comes from its own generator, so that it
        is the same whatever batch the row is in. An objective that draws must say how."""
        return self.prepare(batch, generators[0])

    def predictions(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Logits (…, V) for a prepared batch, and what they should be: (…)."""
        return model(batch.inputs), batch.targets

    def hidden(self, model: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """As :meth:`predictions`, but what the head reads (…, d) in place of logits."""
        return model.hidden(batch.inputs), batch.targets

    def in_chunks(self, model: nn.Module) -> bool:
        """Whether the loss can be computed from :meth:`hidden`, some rows at a time."""
        owners = {
            next(cls for cls in type(self).__mro__ if name in cls.__dict__)
            for name in ("predictions", "hidden")
        }  # an objective that changes one of the two must change both
        head = getattr(model, "head", None)
        vocabulary = isinstance(head, Head) and head.config.type == "vocabulary"
        plain = type(self).summed is Objective.summed and len(owners) == 1
        return vocabulary and plain and hasattr(model, "hidden")

    def summed(self, model: nn.Module, batch: Any) -> Tensor:
        """The sum over targets of −ln p(target), in nats, of a prepared batch: a float32 scalar."""
        if self.loss_rows is None:
            return summed_nats(*self.predictions(model, batch))
        hidden, targets = self.hidden(model, batch)
        head: Any = model.head
        nats: Tensor = head.summed_nats(hidden, targets, self.loss_rows)
        return nats

    @torch.no_grad()
    def score(self, model: nn.Module, batch: Any, generator: torch.Generator) -> tuple[float, int]:
        """The summed loss of a prepared batch in float64, and how many targets come first.

        ``generator`` (on the CPU) is for what an objective draws besides.
        """
        if self.loss_rows is None:
            return _scored(*self.predictions(model, batch))
        hidden, targets = self.hidden(model, batch)
        head: Any = model.head
        cut = zip(
            torch.split(hidden.flatten(0, -2), self.loss_rows),
            torch.split(targets.flatten(), self.loss_rows),
            strict=True,
        )
        scores = [_scored(head(rows), sought) for rows, sought in cut]
        return math.fsum(nats for nats, _ in scores), sum(hits for _, hits in scores)

    def judged(self, batch: Any) -> int:
        """How many targets of a prepared batch the hits of :meth:`score` are among."""
        return count_targets(batch)

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


def _scored(logits: Tensor, sought: Tensor) -> tuple[float, int]:
    """The summed loss in float64, and the hits, of logits (…, V) for targets (…)."""
    logits, targets = logits.flatten(0, -2).float(), sought.flatten()
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    hits = logits.argmax(-1) == targets  # an ignored target is no id, so never a hit
    return float(losses.cpu().double().sum()), int(hits.sum())
