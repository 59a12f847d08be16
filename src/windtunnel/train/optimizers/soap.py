"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from windtunnel.nn.ops.widest import exact_place
from windtunnel.train.optimizers.config import Betas, Groups


class SOAP(Optimizer):
    """With gradient g (a b), step t, rate γ, decay λ (arXiv 2409.11321, algorithms 3 and 4):

    L ← β₂ L + (1 − β₂) g gᵀ;  R ← β₂ R + (1 − β₂) gᵀ g;  m ← β₁ m + (1 − β₁) g
    v ← β₂ v + (1 − β₂) (P ⊙ P)  with P = Qₗᵀ g Qᵣ
    w ← w − γ λ w − γ Qₗ (Qₗᵀ m Qᵣ / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε)) Qᵣᵀ
    every f steps, after the update: Qₗ ← the Q of QR(L Qₗ), Qᵣ likewise.

    At the first step Qₗ and Qᵣ are the eigenvectors of its g gᵀ and gᵀ g, before the update. A side
    longer than ``max_dim`` has no Q: its own basis stays. Vectors are moved as by AdamW; of more
    dimensions than two, the last two are a matrix. Unlike in the authors' code the first step is
    taken, and columns are not sorted.
    """

    def __init__(
        self,
        groups: Groups,
        *,
        betas: Betas = (0.95, 0.95),
        eps: float = 1e-8,
        every: int = 10,
        max_dim: int = 2048,
    ) -> None:
        settings = {"betas": betas, "eps": eps, "every": every, "max_dim": max_dim}
        super().__init__(groups, {"lr": 1.0, "weight_decay": 0.0, **settings})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        assert closure is None, "the loop has computed the gradient"
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    self._move(w, w.grad, group)

    def _move(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2), lr = self.state[w], group["betas"], group["lr"]
        if not state:
            self._start(state, g, group["max_dim"])
        state["step"] += 1
        t = int(state["step"])
        for side, gram in self._sides(state, g):
            state[f"gram_{side}"].lerp_(gram, 1 - beta2)
            if t == 1:
                # Apple's GPUs have no eigh; it is needed once.
                there = state[f"gram_{side}"]
                basis = torch.linalg.eigh(there.to(exact_place(there.device)))[1]
                state[f"basis_{side}"] = basis.to(there.device).contiguous()
        state["exp_avg"].lerp_(g, 1 - beta1)
        turned = self._turned(state, g)
        state["exp_avg_sq"].lerp_(turned * turned, 1 - beta2)
        scale = (state["exp_avg_sq"] / (1 - beta2**t)).sqrt_().add_(group["eps"])
        update = self._turned(state, state["exp_avg"]).div(scale).div_(1 - beta1**t)
        w.mul_(1 - lr * group["weight_decay"])
        w.sub_(self._turned(state, update, back=True), alpha=lr)
        if t % group["every"] == 0:
            for side, _ in self._sides(state, g):
                turning = state[f"gram_{side}"] @ state[f"basis_{side}"]
                state[f"basis_{side}"] = torch.linalg.qr(turning)[0].contiguous()

    @staticmethod
    def _start(state: dict[str, Any], g: Tensor, max_dim: int) -> None:
        state["step"] = torch.zeros(())
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(g), torch.zeros_like(g)
        for side, axis in (("left", -2), ("right", -1)):
            if g.ndim >= 2 and g.shape[axis] <= max_dim:
                state[f"gram_{side}"] = g.new_zeros(*g.shape[:-2], g.shape[axis], g.shape[axis])
                state[f"basis_{side}"] = torch.zeros_like(state[f"gram_{side}"])

    @staticmethod
    def _sides(state: dict[str, Any], g: Tensor) -> list[tuple[str, Tensor]]:
        """The sides that have a basis, with their part of the preconditioner."""
        sides = []
        if "gram_left" in state:
            sides.append(("left", g @ g.mT))
        if "gram_right" in state:
            sides.append(("right", g.mT @ g))
        return sides

    @staticmethod
    def _turned(state: dict[str, Any], x: Tensor, *, back: bool = False) -> Tensor:
        """x in the eigenbasis; or, back, from there."""
        left, right = state.get("basis_left"), state.get("basis_right")
        if left is not None:
            x = (left if back else left.mT) @ x
        if right is not None:
            x = x @ (right.mT if back else right)
        return x
