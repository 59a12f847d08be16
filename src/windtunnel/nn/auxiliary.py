"""Auxiliary losses: what a part adds to the objective beside what it computes.

A part offers a loss by :func:`auxiliary_losses` in its forward; whoever trains opens a collector::

    with collect_auxiliary() as auxiliary:
        logits = model(tokens)
    loss = cross_entropy(logits, targets) + auxiliary.total()

Without a collector, in evaluation and without gradients nothing is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class AuxiliaryLosses:
    """The losses that the parts of a model offered during a forward, in their order."""

    losses: list[Tensor] = field(default_factory=list)
    """Scalars: means over real tokens, already times their coefficient."""

    def add(self, loss: Tensor) -> None:
        """Offers one scalar."""
        self.losses.append(loss)

    def total(self) -> Tensor | float:
        """Their sum; 0.0 where no part offered any."""
        return torch.stack([loss.float() for loss in self.losses]).sum() if self.losses else 0.0


_COLLECTOR: ContextVar[AuxiliaryLosses | None] = ContextVar("auxiliary losses", default=None)
_REAL: ContextVar[Tensor | None] = ContextVar("real tokens", default=None)


@contextmanager
def collect_auxiliary() -> Iterator[AuxiliaryLosses]:
    """Collects the auxiliary losses of every forward inside; afterwards nothing is left of it."""
    losses = AuxiliaryLosses()
    token = _COLLECTOR.set(losses)
    try:
        yield losses
    finally:
        _COLLECTOR.reset(token)


def auxiliary_losses(module: nn.Module) -> AuxiliaryLosses | None:
    """Where ``module`` may offer a loss now; None when nobody asks, or nothing is being trained."""
    if not module.training or not torch.is_grad_enabled():
        return None
    return _COLLECTOR.get()


@contextmanager
def counting(real: Tensor) -> Iterator[None]:
    """Inside, only the tokens of a (b, t) mask count: what a part that sees each token by itself
    cannot know."""
    token = _REAL.set(real)
    try:
        yield
    finally:
        _REAL.reset(token)


def counted(values: Tensor) -> Tensor:
    """Of (b·t, …) ``values``, those of the tokens that count; all where nothing else was said."""
    real = _REAL.get()
    return values if real is None else values[real.flatten()]
