"""The elementwise functions of feed-forwards."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

Activation = Literal["relu", "relu2", "gelu", "gelu_tanh", "silu", "mish"]


def relu2(x: Tensor) -> Tensor:
    """relu(x)² (So et al. 2021, arXiv 2109.08668)."""
    return torch.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu2": relu2,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
}
"""gelu is exact (x·Φ(x)); gelu_tanh its approximation (Hendrycks & Gimpel, arXiv 1606.08415);
silu x·σ(x); mish x·tanh(softplus(x)) (Misra, arXiv 1908.08681)."""


def kept_values(activation: str) -> int:
    """How many numbers, for each one read, an activation and the reader of its output keep.

    relu keeps its output alone; relu² relu's output and its own; the others input and output.
    """
    return 1 if activation == "relu" else 2
