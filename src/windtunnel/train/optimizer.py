"""AdamW, and which parameters decay."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from windtunnel.train.config import TrainConfig

FUSED = ("cpu", "cuda", "mps")
NO_DECAY = re.compile(r"norm|embed|position|bias|a_log")


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay acts on a parameter: on matrices only.

    Not on vectors and scalars, nor on what a part of its dotted name calls a norm, an embedding
    (a tied head is one), a position, a bias or the logarithm of a decay rate, `a_log`.

    >>> matrix = torch.ones(4, 2)
    >>> decays("layers.0.mlp.up.weight", matrix), decays("embedding.weight", matrix)
    (True, False)
    """
    return parameter.ndim >= 2 and not NO_DECAY.search(name.lower())


def group_names(parameters: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """The names of the parameters that decay and of those that do not; together, all of them."""
    decayed = [name for name, parameter in parameters.items() if decays(name, parameter)]
    rest = [name for name, parameter in parameters.items() if not decays(name, parameter)]
    assert sorted(decayed + rest) == sorted(parameters), "a parameter is in no group, or in two"
    return decayed, rest


def build_optimizer(
    config: TrainConfig, parameters: Mapping[str, torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101) over the given parameters, fused where the device has it.

    Decay is decoupled and multiplied by the learning rate, as in PyTorch. The learning rate is set
    before each step by the loop.
    """
    decayed, rest = group_names(parameters)
    groups: list[dict[str, Any]] = [
        {"params": [parameters[name] for name in names], "weight_decay": decay}
        for names, decay in ((decayed, config.weight_decay), (rest, 0.0))
        if names
    ]
    fused = all(parameter.device.type in FUSED for parameter in parameters.values())
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def ordered_names(parameters: Mapping[str, Tensor]) -> list[str]:
    """The parameters' names in the optimizer's order: those that decay first."""
    decayed, rest = group_names(parameters)
    return decayed + rest
