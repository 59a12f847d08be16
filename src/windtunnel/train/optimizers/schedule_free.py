"""Schedule-free AdamW: an average of the weights in place of a falling learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from windtunnel.train.optimizers.config import Betas, Groups

TRAINED = "trained"
"""The state's key of the weights y while the parameters hold the average x."""


class ScheduleFreeAdamW(Optimizer):
    """The parameters are y, at which gradients g are taken; z takes the steps, x is their average
    (arXiv 2405.15682, algorithm 1):

    v ← β₂ v + (1 − β₂) g²;  u = g / (√(v / (1 − β₂ᵗ)) + ε) + λ y
    z ← z − γ u;  x ← (1 − c) x + c z  with c = γ² / Σ γ²;  y = (1 − β₁) z + β₁ x

    x is not kept: it is (y − (1 − β₁) z) / β₁. :meth:`average` puts it into the parameters, to be
    evaluated or saved, and :meth:`train` puts y back, to the bit.
    """

    def __init__(self, groups: Groups, *, betas: Betas = (0.9, 0.999), eps: float = 1e-8) -> None:
        if betas[0] == 0:
            raise ValueError("schedule_free_adamw needs a first beta above 0")
        super().__init__(groups, {"lr": 1.0, "weight_decay": 0.0, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        assert closure is None, "the loop has computed the gradient"
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for y in group["params"]:
                if y.grad is None:
                    continue
                state = self.state[y]
                if not state:
                    state["step"], state["weight_sum"] = torch.zeros(()), 0.0
                    state["z"], state["exp_avg_sq"] = y.clone(), torch.zeros_like(y)
                assert TRAINED not in state, "call train() before a step"
                state["step"] += 1
                state["weight_sum"] += lr**2
                z, v = state["z"], state["exp_avg_sq"]
                v.lerp_(y.grad * y.grad, 1 - beta2)
                scale = (v / (1 - beta2 ** int(state["step"]))).sqrt_().add_(group["eps"])
                u = y.grad / scale + group["weight_decay"] * y
                c = lr**2 / state["weight_sum"]
                # y' = β₁ ((1 − c) x + c z') + (1 − β₁) z', with β₁ x = y − (1 − β₁) z
                y.lerp_(z, c).sub_(u, alpha=lr * (1 - beta1 * (1 - c)))
                z.sub_(u, alpha=lr)

    @torch.no_grad()
    def average(self) -> None:
        """The parameters become x; y is kept in the state."""
        for group in self.param_groups:
            beta1 = group["betas"][0]
            for y in group["params"]:
                state = self.state.get(y)
                if state and TRAINED not in state:
                    state[TRAINED] = y.clone()
                    y.lerp_(state["z"], 1 - 1 / beta1)

    @torch.no_grad()
    def train(self) -> None:
        """The parameters become y again."""
        for state_of, state in self.state.items():
            if TRAINED in state:
                state_of.copy_(state.pop(TRAINED))
