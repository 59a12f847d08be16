"""torch's own optimizers; those whose decay torch adds to the gradient get a decoupled one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
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
    """Decay is decoupled and multiplied by ``lr``, not by the relative step.

    Where the paper adds ε₁ to the squared gradient, torch holds its estimate at eps[0]² or more.
    """
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


class _ClampedRMSprop(torch.optim.RMSprop):
    """torch's, but centered no variance is below 0: E[g²] − E[g]² is, by rounding, where a gradient
    stays the same, and torch takes its root."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        if not self.defaults["centered"]:
            return super().step(closure)
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    self._move(w, w.grad, group)
        return None

    def _move(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state, momentum = self.state[w], group["momentum"]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
            for key in ("square_avg", *["momentum_buffer"] * (momentum > 0), "grad_avg"):
                state[key] = torch.zeros_like(w, memory_format=torch.preserve_format)
        state["step"] += 1
        square, mean, new = state["square_avg"], state["grad_avg"], 1 - group["alpha"]
        square.mul_(group["alpha"]).addcmul_(g, g, value=new)
        mean.lerp_(g, new)
        root = square.addcmul(mean, mean, value=-1).clamp_(min=0.0).sqrt_().add_(group["eps"])
        if momentum > 0:
            moved = state["momentum_buffer"].mul_(momentum).addcdiv_(g, root)
            w.add_(moved, alpha=-group["lr"])
        else:
            w.addcdiv_(g, root, value=-group["lr"])


class RMSprop(_Decoupled, _ClampedRMSprop):
    """:class:`torch.optim.RMSprop` with decoupled decay; centered, no variance is negative."""


class Adagrad(_Decoupled, torch.optim.Adagrad):
    """:class:`torch.optim.Adagrad` with decoupled decay."""


def _fused(groups: Groups) -> bool:
    return all(p.device.type in FUSED for group in groups for p in group["params"])
