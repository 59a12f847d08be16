"""Ladders made from a known law, with the noise of runs: trunks share a part of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from windtunnel.study.ladder.cells import Measured

SIZES = (1.5e5, 3.3e5, 7.2e5, 1.6e6)
BUDGETS = (5.0, 10.0, 20.0)
LAW = {"E": 1.7, "A": 90.0, "alpha": 0.38, "B": 300.0, "beta": 0.36}


def true_loss(params: Any, tokens: Any, **law: float) -> Any:
    """E + A·N^-α + B·D^-β."""
    p = {**LAW, **law}
    return p["E"] + p["A"] * params ** -p["alpha"] + p["B"] * tokens ** -p["beta"]


def made(
    name: str = "made",
    *,
    seed: int = 0,
    noise: float = 0.003,
    seeds: int = 3,
    sizes: tuple[float, ...] = SIZES,
    budgets: tuple[float, ...] = BUDGETS,
    **law: float,
) -> Measured:
    """Budgets are multiples of parameters; a token costs 6N FLOPs."""
    generator = np.random.default_rng(seed)
    params = np.array(sizes)
    tokens = params[:, None] * np.array(budgets)
    shape = (len(sizes), len(budgets), seeds)
    shared = generator.standard_normal((shape[0], 1, seeds)) * 0.7**0.5
    scatter = shared + generator.standard_normal(shape) * 0.3**0.5
    means = true_loss(params[:, None], tokens, **law)
    grid = np.geomspace(sizes[0] / 2, sizes[-1] * 40, 60)
    return Measured(
        name=name,
        params=params,
        tokens=tokens,
        flops=6 * params[:, None] * tokens,
        losses=means[..., None] * np.exp(noise * scatter),
        cost_params=grid,
        cost_flops=6 * grid,
    )


def cells_of(arms: Sequence[Measured]) -> list[dict[str, Any]]:
    """Their cells as they stand in ``study.json``; budgets by the tokens of the smallest size."""
    return [
        {
            "arm": arm.name, "name": f"{arm.name}-{size:g}-{budget:g}x", "asked": float(size),
            "params": float(size), "budget": f"{budget:g}x", "tokens": float(arm.tokens[i, j]),
            "flops": float(arm.flops[i, j]), "steps": 100, "lr": 1e-3,
            "mean": float(arm.losses[i, j].mean()), "low": None, "high": None,
            "values": [float(v) if np.isfinite(v) else None for v in arm.losses[i, j]],
            "diverged": int((~np.isfinite(arm.losses[i, j])).sum()), "failed": 0,
        }
        for arm in arms
        for i, size in enumerate(arm.params)
        for j, budget in enumerate(np.round(arm.tokens[0] / arm.params[0], 6))
    ]  # fmt: skip


def rungs_of(arms: Sequence[Measured]) -> list[dict[str, Any]]:
    """Their sizes as they stand in ``study.json``."""
    return [
        {
            "arm": arm.name, "name": f"{arm.name}-{size:g}", "asked": float(size),
            "params": int(size), "d_model": 64, "layers": 2, "lr": 1e-3,
            "flops_per_token": 6 * float(size), "changes": [],
        }
        for arm in arms
        for size in arm.params
    ]  # fmt: skip
