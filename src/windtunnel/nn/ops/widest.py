"""The widest numbers that a device computes with."""

from __future__ import annotations

import torch
from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}
"""Types of devices that refuse float64 altogether."""

CPU = torch.device("cpu")


def widest(x: Tensor) -> Tensor:
    """``x`` in float64, or in float32 on a device that has no float64."""
    return x.float() if x.device.type in WITHOUT_FLOAT64 else x.double()


def exact_place(device: torch.device) -> torch.device:
    """Where float64 is computed for tensors of ``device``: there, or on the CPU.

    >>> exact_place(torch.device("mps"))
    device(type='cpu')
    """
    return CPU if device.type in WITHOUT_FLOAT64 else device
