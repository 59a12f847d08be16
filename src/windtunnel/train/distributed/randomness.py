"""Dropout of some rows of a batch as it would be if all rows were here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class RowsOfABatch(TorchFunctionMode):
    """While it is entered, dropout and noise are those of rows r, r + n, … of a larger batch.

    Numbers are drawn for the whole batch, in every process the same, and the own rows are kept: so
    n processes drop what one drops. That holds for ``F.dropout`` (and ``nn.Dropout``),
    ``randn_like`` and ``rand_like`` of tensors whose first dimension is the batch, or the batch
    times something. It does not hold where the rows of a tensor depend on the data, as inside
    experts and after a depth router: there each process drops by itself, just as randomly.
    """

    def __init__(self, rank: int, size: int, rows: int) -> None:
        super().__init__()
        self.rank, self.size, self.rows = rank, size, rows
        self.own = len(range(rank, rows, size))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func is F.dropout:
            return self._dropout(*args, **named)
        if func in (torch.randn_like, torch.rand_like) and self._fits(args[0]):
            like: Tensor = args[0]
            return self._own(func(self._whole(like), **named), like)
        return func(*args, **named)

    def _dropout(
        self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0.0 or not self._fits(input):
            return F.dropout(input, p, training, inplace)
        # As torch does it on a CPU, for all rows.
        kept = self._own(self._whole(input).bernoulli_(1 - p).div_(1 - p), input)
        return input.mul_(kept) if inplace else input * kept

    def _fits(self, x: Tensor) -> bool:
        return x.dim() > 0 and self.own > 0 and x.shape[0] % self.own == 0

    def _whole(self, x: Tensor) -> Tensor:
        """Of all rows, laid out in memory as ``x`` is: numbers are drawn in that order."""
        shape = (x.shape[0] // self.own * self.rows, *x.shape[1:])
        order = sorted(range(x.dim()), key=lambda d: (x.stride(d), x.shape[d] > 1), reverse=True)
        empty = x.new_empty([shape[dim] for dim in order])
        return empty.permute([order.index(dim) for dim in range(x.dim())])

    def _own(self, whole: Tensor, like: Tensor) -> Tensor:
        rows = whole.reshape(self.rows, -1)
        return rows[self.rank :: self.size].reshape(like.shape)
