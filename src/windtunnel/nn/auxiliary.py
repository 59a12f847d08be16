"""Auxiliary losses: what a part adds to the objective beside what it computes.

A part offers a loss by :func:`auxiliary_losses` in its forward; whoever trains opens a collector::

    with collect_auxiliary() as auxiliary:
        logits = model(tokens)
    loss = cross_entropy(logits, targets) + auxiliary.total()

Without a collector, in evaluation and without gradients nothing is computed.

A loss that is no sum over tokens, such as one of how evenly experts are used, depends on where a
batch is cut. Its part asks :meth:`AuxiliaryLosses.whole` for what it counts, and whoever cuts a
batch goes through its pieces twice: first to gather the counts, then to learn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


def counts_whole_batches(model: nn.Module) -> bool:
    """Whether a part of ``model`` asks for :meth:`AuxiliaryLosses.whole` (it says so)."""
    return any(getattr(module, "counts_whole_batches", False) for module in model.modules())


def tallies(model: nn.Module) -> list[Tensor]:
    """The buffers in which parts count tokens from update to update: with several processes, each
    counts its own."""
    return [
        module.get_buffer(name)
        for module in model.modules()
        for name in getattr(module, "tallies", ())
        if name in module._buffers
    ]


@dataclass
class AuxiliaryLosses:
    """The losses that the parts of a model offered during a forward, in their order."""

    losses: list[Tensor] = field(default_factory=list)
    """Scalars: means over the real tokens of the whole batch, already times their coefficient. Of a
    batch in pieces, each piece's gradient is its part of the whole one; values need not add up."""
    totals: list[Tensor] | None = None
    """What was asked for by :meth:`whole`, over all pieces, in the order of a forward; None where
    the batch is in one piece."""
    parts: list[bool] = field(default_factory=list)
    """Of each loss, whether it is made of what the whole batch counts."""
    gathering: bool = False
    """Whether this forward is only to gather totals."""
    _asked: int = 0

    def add(self, loss: Tensor, *, part: bool = False) -> None:
        """Offers one scalar: a mean over this forward's tokens, or with ``part`` its part of one
        over the whole batch, made with :meth:`whole`."""
        if not self.gathering:
            self.losses.append(loss)
            self.parts.append(part)

    def whole(self, counted: Tensor) -> Tensor:
        """What the whole batch counts, where this forward counts ``counted``: the same, unless the
        batch is in pieces. It has no gradient."""
        counted = counted.detach()
        if self.totals is None:
            return counted
        index, self._asked = self._asked, self._asked + 1
        if not self.gathering:
            return self.totals[index]
        if index < len(self.totals):
            self.totals[index] += counted
        else:
            self.totals.append(counted.clone())
        return counted

    def total(self, share: float = 1.0) -> Tensor | float:
        """Their sum, 0.0 where no part offered any; ``share``: this forward's of the batch, by
        which means over its tokens alone count."""
        if not self.losses:
            return 0.0
        pairs = zip(self.losses, self.parts, strict=True)
        return torch.stack([x.float() if part else x.float() * share for x, part in pairs]).sum()


_COLLECTOR: ContextVar[AuxiliaryLosses | None] = ContextVar("auxiliary losses", default=None)
_REPLAYING: ContextVar[bool] = ContextVar("replaying", default=False)
_REAL: ContextVar[Tensor | None] = ContextVar("real tokens", default=None)


@contextmanager
def collect_auxiliary(
    totals: list[Tensor] | None = None, *, gathering: bool = False
) -> Iterator[AuxiliaryLosses]:
    """Collects the auxiliary losses of the forward inside; afterwards nothing is left of it.

    Args:
        totals: of a batch in pieces: what :meth:`AuxiliaryLosses.whole` answers.
        gathering: adds up those totals, and collects no loss; gradients may be off.
    """
    losses = AuxiliaryLosses(totals=totals, gathering=gathering)
    token = _COLLECTOR.set(losses)
    try:
        yield losses
    finally:
        _COLLECTOR.reset(token)


def auxiliary_losses(module: nn.Module) -> AuxiliaryLosses | None:
    """Where ``module`` may offer a loss now; None when nobody asks, or nothing is being trained."""
    collector = _COLLECTOR.get()
    if collector is None or not module.training:
        return None
    return collector if torch.is_grad_enabled() or collector.gathering else None


def may_tally(module: nn.Module) -> bool:
    """Whether ``module`` may count tokens for the next :func:`~.component.after_update`: in
    training, once for each forward, though it be computed twice."""
    return module.training and torch.is_grad_enabled() and not _REPLAYING.get()


@contextmanager
def replaying(collector: AuxiliaryLosses | None, asked: int) -> Iterator[None]:
    """A forward that is computed again in the backward: it does what it did before, and what it
    offers and counts is forgotten. ``collector`` and ``asked`` are as they were then."""
    again = None
    if collector is not None:
        again = AuxiliaryLosses(totals=collector.totals, _asked=asked)
    collecting, flag = _COLLECTOR.set(again), _REPLAYING.set(True)
    try:
        yield
    finally:
        _COLLECTOR.reset(collecting)
        _REPLAYING.reset(flag)


def present_collector() -> tuple[AuxiliaryLosses | None, int]:
    """What :func:`replaying` needs to know of this moment."""
    collector = _COLLECTOR.get()
    return collector, 0 if collector is None else collector._asked


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
