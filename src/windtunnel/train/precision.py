"""What the optimizer moves: the module's own weights, or float32 masters of bfloat16 copies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from windtunnel.errors import UsageError
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
    if config.precision != "bfloat16" or is_sharded(model):  # FSDP keeps float32 masters itself
        return ModuleWeights(model)
    return MasterWeights(model)


def is_sharded(model: nn.Module) -> bool:
    """Whether each process holds a part of the model (FSDP)."""
    # A DTensor, not imported by name: that alone takes half a second.
    return any(hasattr(parameter, "placements") for parameter in model.parameters())


AUTOCAST = {"autocast": torch.bfloat16, "float16": torch.float16}


@contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """What a forward at the recipe's precision runs under: torch's autocast, or nothing.

    From then on the process computes what is float32 in float32.
    """
    exact_float32()
    dtype = AUTOCAST.get(precision)
    if dtype is None:
        yield
        return
    with torch.autocast(device.type, dtype):
        yield


def exact_float32() -> None:
    """On CUDA float32 has its 24 bits: torch computes convolutions and RNNs with 11 unless told."""
    # For good and the whole process: the backward comes after the forward's context, in torch's own
    # threads. Both of torch's ways to say it, which complain of each other where they differ.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = "ieee"  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision("highest")


def check_precision(precision: str, device: torch.device) -> None:
    """Raises UsageError where the device does not compute so."""
    if precision == "float16" and device.type != "cuda":
        raise UsageError(
            f"train.precision: float16 needs a CUDA GPU, and the device is {device.type}; "
            "bfloat16 and autocast take as much memory and have the range of float32"
        )


class ScaleState(Protocol):
    """Where the scale is kept from step to step, and saved."""

    loss_scale: float
    good_steps: int


class LossScaler:
    """Lifts small float16 gradients above its least number, 6·10⁻⁸ (arXiv 1710.03740, 3.2).

    The loss is multiplied by a power of two, so gradients are too. After a gradient that was not
    finite the update is skipped and the scale halved; after 2000 good updates it is doubled.
    """

    start, grow_after, least = 2.0**16, 2000, 1.0

    def __init__(self, state: ScaleState) -> None:
        self._state = state

    @property
    def scale(self) -> float:
        """The present factor of the loss."""
        return self._state.loss_scale or self.start

    @torch.no_grad()
    def unscale(self, grads: list[Tensor]) -> None:
        """Divides gradients by the scale, in place; exact, as it is a power of two."""
        torch._foreach_mul_(grads, 1.0 / self.scale)

    def update(self, grad_norm: float) -> bool:
        """After a step; whether its gradient was too large for float16, so that the scale fell."""
        state, scale = self._state, self.scale
        if math.isfinite(grad_norm):
            state.loss_scale, state.good_steps = scale, state.good_steps + 1
            if state.good_steps == self.grow_after:
                state.loss_scale, state.good_steps = scale * 2, 0
            return False
        state.loss_scale, state.good_steps = max(scale / 2, self.least), 0
        return scale > self.least


def gradients(weights: Weights) -> list[Tensor]:
    """The gradients there are, in the order of the parameters."""
    return [p.grad for p in weights.parameters.values() if p.grad is not None]
