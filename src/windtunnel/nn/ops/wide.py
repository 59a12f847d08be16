"""Computing in at least float32 whatever a recipe's precision: norms, routers, recurrences."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def wide(x: Tensor) -> Tensor:
    """``x`` in at least float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def without_autocast(device: torch.device) -> torch.autocast:
    """Within it autocast narrows nothing; nor does it widen, so tensors must be of one dtype.

    >>> x = torch.ones(2, 2)
    >>> with torch.autocast("cpu", torch.bfloat16), without_autocast(x.device):
    ...     (x @ x).dtype
    torch.float32
    """
    return torch.autocast(device.type, enabled=False)


def wide_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b in at least float32, under autocast too: (… d), (e, d), (e,) -> (… e).

    A plain map of widened tensors would be narrowed again by autocast.
    """
    with without_autocast(x.device):
        return F.linear(wide(x), wide(weight), None if bias is None else wide(bias))
