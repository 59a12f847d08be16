"""What the optimizer moves: the module's own weights, or float32 masters of bfloat16 copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from windtunnel.train.config import TrainConfig


class Weights(Protocol):
    """The weights that the optimizer moves, by parameter name; a tied one stands once."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]: ...

    def gather(self) -> None:
        """After a backward: add its gradients to those of ``parameters``."""

    def publish(self) -> None:
        """After ``parameters`` changed: let the module compute with the new values."""

    def adjust(self, change: Callable[[], None]) -> None:
        """Make a change that the model itself asks for: it is done on ``parameters``."""

    def clear(self) -> None:
        """Forget the gradients."""


class ModuleWeights:
    """Plain float32: the optimizer moves the module's own parameters, so nothing is left to do."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters: dict[str, nn.Parameter] = dict(model.named_parameters())

    def gather(self) -> None: ...

    def publish(self) -> None: ...

    def adjust(self, change: Callable[[], None]) -> None:
        change()

    def clear(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None


class MasterWeights:
    """Float32 masters for a module that computes with bfloat16 copies (arXiv 1710.03740, 3.1).

    Updates smaller than half a bfloat16 step (2⁻⁸ of a weight) would be lost on the copies; the
    masters keep them. Gradients are added up in float32 over the micro-batches. The module's
    parameters are converted in place (ties stay ties); its buffers are left as they are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._copies = dict(model.named_parameters())
        self.parameters: dict[str, nn.Parameter] = {}
        for name, copy in self._copies.items():
            self.parameters[name] = nn.Parameter(
                copy.detach().float().clone(), requires_grad=copy.requires_grad
            )
            copy.data = copy.data.to(torch.bfloat16)

    def gather(self) -> None:
        for name, copy in self._copies.items():
            if copy.grad is None:
                continue
            master = self.parameters[name]
            if master.grad is None:
                master.grad = copy.grad.float()
            else:
                master.grad.add_(copy.grad)
            copy.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        torch._foreach_copy_(list(self._copies.values()), list(self.parameters.values()))

    def adjust(self, change: Callable[[], None]) -> None:
        narrow = {name: copy.data for name, copy in self._copies.items()}
        for name, copy in self._copies.items():
            copy.data = self.parameters[name].data  # a change in place is one of the master
        try:
            change()
        finally:
            for name, copy in self._copies.items():
                self.parameters[name].data = copy.data
                copy.data = narrow[name]
        self.publish()

    def clear(self) -> None:
        for parameter in (*self.parameters.values(), *self._copies.values()):
            parameter.grad = None


def training_weights(model: nn.Module, config: TrainConfig) -> Weights:
    """The weights to optimize at the config's precision; converts the module for bfloat16."""
    return MasterWeights(model) if config.precision == "bfloat16" else ModuleWeights(model)


def gradients(weights: Weights) -> list[Tensor]:
    """The gradients there are, in the order of the parameters."""
    return [p.grad for p in weights.parameters.values() if p.grad is not None]
