"""torch's own optimizers; those whose decay torch adds to the gradient get a decoupled one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from windtunnel.train.optimizers.config import Betas, Groups

FUSED = ("cpu", "cuda", "mps")


def adamw(groups: Groups, betas: Betas, eps: float) -> Optimizer:
    """Decay is decoupled and multiplied by the learning rate."""
    return torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=eps, fused=_fused(groups))


def adam(groups: Groups, betas: Betas, eps: float) -> Optimizer:
    """The decay of a group is an L2 penalty."""
    return torch.optim.Adam(groups, lr=1.0, betas=betas, eps=eps, fused=_fused(groups))


def adafactor(
    groups: Groups, beta2_decay: float, eps: tuple[float | None, float], threshold: float
) -> Optimizer:
    """Decay is decoupled and multiplied by ``lr``, not by the relative step."""
    return torch.optim.Adafactor(groups, lr=1.0, beta2_decay=beta2_decay, eps=eps, d=threshold)


class _Decoupled:
    """Decays before the step, and hides the decay from torch, which would add it to the gradient.

    Mixed in before a class of torch.
    """

    param_groups: list[dict[str, Any]]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        assert closure is None, "the loop has computed the gradient"
        decays = [group["weight_decay"] for group in self.param_groups]
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if group["weight_decay"] and moved:
                torch._foreach_mul_(moved, 1 - group["lr"] * group["weight_decay"])
            group["weight_decay"] = 0.0
        try:
            return super().step()  # type: ignore[misc]
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay


class SGD(_Decoupled, torch.optim.SGD):
    """:class:`torch.optim.SGD` with decoupled decay."""


class RMSprop(_Decoupled, torch.optim.RMSprop):
    """:class:`torch.optim.RMSprop` with decoupled decay."""


class Adagrad(_Decoupled, torch.optim.Adagrad):
    """:class:`torch.optim.Adagrad` with decoupled decay."""


def _fused(groups: Groups) -> bool:
    return all(p.device.type in FUSED for group in groups for p in group["params"])
