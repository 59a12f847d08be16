"""What the trainer needs of the data, and the loss on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
"""The target of a token that has no loss."""


B = TypeVar("B", bound="TokenBatch")


class TokenBatch(Protocol):
    """A dataclass of tensors, each with the batch first: what is read, and what is to be found.

    Rows of tokens (b, t) and the token that follows each, both int64; some batches hold more
    (which tokens are real, a source), and classes have targets (b,).
    """

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


def pieces(batch: B, size: int) -> Iterator[B]:
    """The batch cut into pieces of at most ``size`` rows."""
    for start in range(0, len(batch.targets), size):
        yield each_tensor(batch, lambda tensor: tensor[start : start + size])  # noqa: B023 - used at once


def moved(batch: B, device: torch.device) -> B:
    """The batch on a device."""
    # On Apple's GPUs a copy that does not block may read a source that is gone.
    later = device.type == "cuda"
    return each_tensor(batch, lambda tensor: tensor.to(device, non_blocking=later))


def count_targets(batch: TokenBatch) -> int:
    """How many targets count."""
    return int((batch.targets != IGNORED).sum())


def each_tensor(batch: B, change: Callable[[Tensor], Tensor]) -> B:
    """The batch with each of its tensors changed."""
    parts: Any = batch
    values = {field.name: getattr(parts, field.name) for field in fields(parts)}
    tensors = {name: change(v) for name, v in values.items() if isinstance(v, Tensor)}
    changed: B = replace(parts, **tensors)
    return changed


def summed_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum over targets of −ln p(target), in nats: b t V, b t -> a float32 scalar.

    Computed in float32 whatever the logits' precision; ignored targets count nothing.
    """
    return F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
