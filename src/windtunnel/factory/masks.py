"""Masks of the factory format, as the keys that they leave: masks act on keys."""

from __future__ import annotations

import torch
from torch import Tensor

from windtunnel.errors import UsageError


def kept_keys(
    mask: Tensor | None, name: str, shape: tuple[int, int], *, causal: bool = False
) -> Tensor | None:
    """(b, keys) bool of a mask (b, keys), or (b, t, keys) alike for all its queries; 0 or False
    leaves a key out. A single row is meant for all. With ``causal`` the square may be a triangle,
    which holds anyway.

    Args:
        shape: (b, keys) of what the mask is about.

    Raises:
        UsageError: the mask has another shape, or says more than which keys are real.
    """
    if mask is None:
        return None
    seen = mask if mask.dtype == torch.bool else mask != 0
    b, keys = shape
    fits = seen.ndim in (2, 3) and seen.shape[-1] == keys and seen.shape[0] in (1, b)
    if not fits:
        found = tuple(mask.shape)
        raise UsageError(f"{name}: expected ({b}, {keys}) or ({b}, t, {keys}), not {found}")
    if seen.ndim == 2:
        return seen.expand(b, keys)
    real = seen.any(1)
    same = real[:, None].expand_as(seen)
    triangular = causal and seen.shape[1] == keys
    if torch.equal(seen, same) or (triangular and torch.equal(seen, same.tril())):
        return real.expand(b, keys)
    raise UsageError(
        f"{name}: it differs between queries; a mask says which keys are real, alike for all"
    )
