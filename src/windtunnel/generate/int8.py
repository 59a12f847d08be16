"""Decoding with 8-bit weights: a quarter of the bytes to read for each token.

Each row of a matrix becomes integers from −127 to 127 times one number (symmetric, rounded to the
nearest; Dettmers et al. 2022, arXiv:2208.07339, section 2.1, by rows of the weight). Activations
stay as they are, but for bfloat16 inside the products of few rows. What that costs in loss is
measured, not assumed: ``windtunnel generate --int8`` says it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.nn.head import Head
from windtunnel.nn.linear import Linear

M = TypeVar("M", bound=nn.Module)
_FEW_ROWS = 8
"""Up to so many, the integer product is the faster one on a CPU."""


def _blocks(width: int, size: int) -> int:
    return -(-width // size) * size


class Int8Linear(nn.Module):
    """y = (s ⊙ Q) x + c: … d_in -> … d_out; ``values`` Q (d_out, d_in) int8, ``scales`` s."""

    values: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().float()
        scales = weight.abs().amax(1, keepdim=True) / 127
        values = (weight / scales.where(scales > 0, 1.0)).round().to(torch.int8)
        self.out_features, self.in_features = weight.shape
        self.few_rows = _FEW_ROWS
        # The kernel reads whole blocks: a width between them would read what lies behind.
        wide = values.new_zeros(_blocks(self.out_features, 16), _blocks(self.in_features, 64))
        wide[: self.out_features, : self.in_features] = values
        self.register_buffer("values", wide)
        self.register_buffer("scales", scales[:, 0])
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    @property
    def weight(self) -> Tensor:
        """The matrix that is computed with, in float32."""
        values = self.values[: self.out_features, : self.in_features]
        return values.float() * self.scales[:, None]

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """The matrix and the bias, as a plain linear map says them."""
        return self.weight, self.bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.numel() // self.in_features
        if rows > self.few_rows or x.device.type != "cpu":
            return F.linear(x, self.weight.to(x.dtype), self.bias)
        flat = x.reshape(rows, self.in_features).bfloat16()
        n, k = self.values.shape
        flat = F.pad(flat, (0, k - self.in_features)) if k > self.in_features else flat
        # The scales are multiplied in afterwards, in float32: in bfloat16 each would be rounded.
        ones = torch.ones(n, dtype=torch.bfloat16)
        product = torch._weight_int8pack_mm(flat, self.values, ones)
        product = product[:, : self.out_features].float() * self.scales
        y = product.to(x.dtype).view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias


@contextmanager
def as_decoded(model: nn.Module) -> Iterator[None]:
    """Whole sequences go through the products that single tokens go through: to measure them."""
    maps = [module for module in model.modules() if isinstance(module, Int8Linear)]
    for module in maps:
        module.few_rows = sys.maxsize
    try:
        yield
    finally:
        for module in maps:
            module.few_rows = _FEW_ROWS


@torch.no_grad()
def quantized(model: M) -> M:
    """A copy of a model, for generation alone, whose linear maps and head have 8-bit weights.

    Embeddings, norms, convolutions and recurrent cells stay as they are.
    """
    result = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(result.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                plain = child.weight, child.bias
                acting = child.effective() if isinstance(child, Linear) else plain
                setattr(module, name, Int8Linear(*acting))
            elif isinstance(child, Head) and child.weight is not None:
                child.product = Int8Linear(child.weight, child.bias)
    return result
