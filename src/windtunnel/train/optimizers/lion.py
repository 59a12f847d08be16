"""Lion: the sign of an average of gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from windtunnel.train.optimizers.config import Betas, Groups


class Lion(Optimizer):
    """With gradient g, momentum m, rate γ and decay λ (arXiv 2302.06675, algorithm 2):

    c = β₁ m + (1 − β₁) g;  w ← w − γ (sign c + λ w);  m ← β₂ m + (1 − β₂) g

    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> w.grad = torch.tensor([3.0, -1.0])
    >>> optimizer = Lion([{"params": [w], "weight_decay": 0.0, "lr": 0.25}])
    >>> optimizer.step()
    >>> w.tolist()
    [0.75, 1.25]
    """

    def __init__(self, groups: Groups, betas: Betas = (0.9, 0.99)) -> None:
        super().__init__(groups, {"lr": 1.0, "weight_decay": 0.0, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        assert closure is None, "the loop has computed the gradient"
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for w in group["params"]:
                if w.grad is None:
                    continue
                state = self.state[w]
                if not state:
                    state["exp_avg"] = torch.zeros_like(w)
                m = state["exp_avg"]
                w.mul_(1 - lr * group["weight_decay"])
                w.sub_(m.lerp(w.grad, 1 - beta1).sign_(), alpha=lr)
                m.lerp_(w.grad, 1 - beta2)
