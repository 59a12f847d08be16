"""Going through a batch piece by piece: to learn from it, or only to see what a model says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from windtunnel.nn.auxiliary import collect_auxiliary, counts_whole_batches, tallies
from windtunnel.nn.component import after_update
from windtunnel.runner.model import MBase
from windtunnel.train.accumulate import keyed_randomness

Sample = dict[str, Any]
Answer = tuple[list[str], Tensor, int]
"""Texts, the loss (the mean over tokens, in nats), how many tokens counted."""
Pieces = Sequence[Sequence[Sample]]


class Reading:
    """What a model makes of the pieces of a batch; nothing is learnt."""

    def __init__(self, model: MBase) -> None:
        self.model = model

    def begin(self, pieces: Pieces) -> None:
        """Call before the first piece, and when all begins anew with other pieces."""

    def piece(self, number: int, samples: Sequence[Sample]) -> Answer:
        """The answer of one piece."""
        return self.model.train_prompts(samples)

    def forget(self) -> None:
        """Leaves no trace of the pieces so far."""


class Learning(Reading):
    """Adds the gradient of a batch's mean loss to the weights.

    It is the same however the batch is cut: each piece counts by its tokens, and what parts of the
    model count over a whole batch they count before. Dropout draws from a generator keyed by
    (seed, step, piece), so a run that goes on draws what it would have drawn.

    Args:
        targets: how many tokens of the batch count.
        step: how many steps were done.
    """

    def __init__(
        self, model: MBase, optimizer: Optimizer, targets: int, seed: int, step: int
    ) -> None:
        super().__init__(model)
        self._optimizer, self._targets = optimizer, targets
        self._key = (seed, step)
        self._before = [tally.clone() for tally in tallies(model)]
        self._totals: list[Tensor] | None = None

    def begin(self, pieces: Pieces) -> None:
        self.forget()
        self._totals = None
        if len(pieces) < 2 or not counts_whole_batches(self.model):
            return
        totals: list[Tensor] = []
        for number, samples in enumerate(pieces):
            with (
                torch.no_grad(),
                keyed_randomness(self.model.device, *self._key, number),
                collect_auxiliary(totals, gathering=True),
            ):
                self.model.train_prompts(samples)
        self._totals = totals

    def piece(self, number: int, samples: Sequence[Sample]) -> Answer:
        with (
            keyed_randomness(self.model.device, *self._key, number),
            collect_auxiliary(self._totals) as auxiliary,
        ):
            texts, loss, count = self.model.train_prompts(samples)
            if count:
                share = count / self._targets
                objective = loss * share
                if auxiliary.losses:
                    objective = objective + auxiliary.total(share)
                objective.backward()  # type: ignore[no-untyped-call]
        return texts, loss.detach(), count

    def forget(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        for tally, value in zip(tallies(self.model), self._before, strict=True):
            tally.copy_(value)

    @torch.no_grad()
    def updated(self) -> None:
        """Lets the parts of the model do what they do after an update of the weights."""
        seed, step = self._key
        after_update(self.model, seed, step + 1)


def cut(prompts: Sequence[Sample], size: int) -> Pieces:
    """Pieces of at most ``size`` samples, in order."""
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]
