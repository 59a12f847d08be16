"""Muon: momentum, made nearly orthogonal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from windtunnel.train.optimizers.config import Groups

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial a x + b x³ + c x⁵ (kellerjordan.github.io/posts/muon)."""
_TINY = 1e-7


def orthogonalized(x: Tensor, steps: int = 5) -> Tensor:
    """U V of the singular value decomposition U S V of x (… a b), roughly: its singular values are
    brought to between 0.7 and 1.2 by ``steps`` iterations of Newton and Schulz,
    X ← a X + (b A + c A²) X with A = X Xᵀ, from X = x / ‖x‖.

    >>> s = torch.linalg.svdvals(orthogonalized(torch.diag(torch.tensor([5.0, 2.0, 0.5]))))
    >>> bool(((s > 0.6) & (s < 1.3)).all())
    True
    """
    tall = x.shape[-2] > x.shape[-1]
    y = x.mT if tall else x
    y = y / y.norm(dim=(-2, -1), keepdim=True).clamp(min=_TINY)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = y @ y.mT
        y = a * y + (b * gram + c * gram @ gram) @ y
    turned: Tensor = y.mT if tall else y
    return turned


class Muon(Optimizer):
    """With gradient g, momentum m, rate γ, decay λ (Jordan et al. 2024; arXiv 2502.16982, 2.2):

    m ← μ m + (1 − μ) g;  u = orthogonalized(μ m + (1 − μ) g), or of m without nesterov;
    w ← w − γ λ w − γ s u,  with s = 0.2 √max(a, b) for an (a, b) matrix, or √max(1, a/b).

    torch has a Muon of its own, which this equals up to its rounding: torch iterates in bfloat16
    everywhere, this does on a GPU; on a CPU, where bfloat16 is not always faster, it iterates in
    the precision of the weights. Matrices of the same shape are iterated together.
    """

    def __init__(
        self,
        groups: Groups,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        steps: int = 5,
        adjust: str = "match_rms_adamw",
    ) -> None:
        settings = {"momentum": momentum, "nesterov": nesterov, "steps": steps, "adjust": adjust}
        super().__init__(groups, {"lr": 1.0, "weight_decay": 0.0, **settings})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        assert closure is None, "the loop has computed the gradient"
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = {}
            for w in group["params"]:
                if w.grad is not None:
                    shapes.setdefault(tuple(w.shape), []).append(w)
            for alike in shapes.values():
                self._move(alike, group)

    def _move(self, alike: list[Tensor], group: dict[str, Any]) -> None:
        momentum, lr = group["momentum"], group["lr"]
        looked = []
        for w in alike:
            state = self.state[w]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(w)
            assert w.grad is not None, "only what has a gradient is moved"
            m = state["momentum_buffer"].lerp_(w.grad, 1 - momentum)
            looked.append(w.grad.lerp(m, momentum) if group["nesterov"] else m)
        whole = torch.stack(looked)
        whole = whole.bfloat16() if whole.is_cuda else whole
        a, b = alike[0].shape
        matching = group["adjust"] == "match_rms_adamw"
        size = 0.2 * math.sqrt(max(a, b)) if matching else math.sqrt(max(1.0, a / b))
        for w, u in zip(alike, orthogonalized(whole, group["steps"]), strict=True):
            w.mul_(1 - lr * group["weight_decay"]).sub_(u.to(w.dtype), alpha=lr * size)
