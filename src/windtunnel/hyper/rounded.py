"""Weights in fewer bits, for a release: half the bits of a float, or bytes with a scale a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from windtunnel.errors import UsageError

Precision: TypeAlias = Literal["int8", "float16", "bfloat16", "float32"]
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
PRECISIONS: tuple[str, ...] = ("int8", *DTYPES)
ENCODER = "encoder."
"""What is read by a performance predictor, too; never in fewer bits than half precision."""
_SCALE = "scale of "
_MOST = 127


def packed(weights: Mapping[str, Tensor], precision: Precision) -> dict[str, Tensor]:
    """What is written. ``int8``: matrices outside the encoder as bytes, symmetric, with one float32
    scale for each row (all axes but the last); vectors and the encoder in float16.

    Raises:
        UsageError: a value is too large, or none.

    >>> packed({"w": torch.tensor([[1.0, -0.5]])}, "int8")["w"].tolist()
    [[127, -64]]
    """
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            found[name] = tensor
        elif precision != "int8" or tensor.dim() < 2 or name.startswith(ENCODER):
            found[name] = tensor.to(DTYPES.get(precision, torch.float16))
        else:
            scale = (tensor.abs().amax(-1, keepdim=True) / _MOST).clamp(min=1e-30)
            found[name] = (tensor / scale).round().to(torch.int8)
            found[_SCALE + name] = scale.float()
        kept = found.get(_SCALE + name, found[name])
        if not bool(torch.isfinite(kept).all()):
            raise UsageError(f"{name} has values that {precision} cannot hold; store float32")
    return found


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file that :func:`packed` made, in float32 where they were rounded.

    Raises:
        ValueError: a tensor lacks its scale, or has that of another.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(_SCALE):
            continue
        scale = tensors.get(_SCALE + name)
        if (scale is None) == (tensor.dtype == torch.int8):
            raise ValueError(
                f"{name} is {tensor.dtype}, {'without' if scale is None else 'with'} a scale"
            )
        if scale is not None and scale.shape != (*tensor.shape[:-1], 1):
            raise ValueError(f"the scale of {name} is {tuple(scale.shape)}")
        if scale is not None and not bool(torch.isfinite(scale).all()):
            raise ValueError(f"the scale of {name} is not finite")
        found[name] = tensor if scale is None else tensor.float() * scale
    return found
