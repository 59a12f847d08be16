"""Runs parts of the program on a CUDA GPU and on the CPU; prints what they came to.

    python on_gpu.py cuda|cpu PART        (cpu: a rehearsal, both times on the CPU)

As ``on_standin``, but that nothing is played: kernels, fused optimizers and autocast are the GPU's.
Random numbers alone are the CPU's on both (a GPU draws others from the same seed), so that dropout
drops the same.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from device_cases import THERE, open_noted, outcomes
from torch import Tensor
from torch.nn import functional as F

from windtunnel.cli import generating
from windtunnel.hyper import launch as hyper_launch
from windtunnel.runner import runner as runner_module
from windtunnel.train import launch, loop


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """``F.dropout`` with the CPU's mask for the shape."""
    if not training or p == 0.0:
        return input
    kept = torch.empty(input.shape).bernoulli_(1 - p).div_(1 - p).to(input)
    return input.mul_(kept) if inplace else input * kept


def randn_like(input: Tensor) -> Tensor:
    return torch.randn(input.shape).to(input)


def rehearse() -> None:
    """Every name of a device means the CPU."""
    THERE.name = THERE.device = "cpu"
    loop.check_precision = lambda *_: None
    modules: list[Any] = [loop, launch, hyper_launch, generating, runner_module]
    for module in modules:
        module.resolve_device = lambda name, place="": torch.device("cpu")


def main_here(kind: str, part: str) -> None:
    if kind == "cpu":
        rehearse()
    F.dropout = dropout  # type: ignore[assignment]
    torch.randn_like = randn_like  # type: ignore[assignment]
    generating.open_trained = open_noted
    print(outcomes(part))


if __name__ == "__main__":
    main_here(sys.argv[1], sys.argv[2])
