"""Rows of what mixes along width beyond the two plain feed-forwards, and of further residuals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]

VARIANTS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("mlp", "moe"): [
        {"num_experts": 3, "expert": {"type": "dense", "d_ff": 12}},
        {"num_experts": 4, "top_k": 1, "expert": {"type": "glu", "d_ff": 8, "bias": True}},
        {"num_experts": 4, "top_k": 4, "normalize": False},
        {
            "num_experts": 4,
            "score": "sigmoid",
            "scale": 2.5,
            "shared_experts": 1,
            "balance": "loss_free",
            "noise": 0.1,
        },
        {
            "num_experts": 2,
            "top_k": 1,
            "score": "sigmoid",
            "shared_experts": 2,
            "expert": {"type": "dense", "ratio": 1.0},
            "dense": "glu",
            "balance": "loss",
        },
        {"num_experts": 1, "top_k": 1, "scale": 0.5, "shared_experts": 1},
        {"num_experts": 1, "top_k": 1, "dense": {"type": "dense", "ratio": 2.0}},
    ],
    ("residual", "mixed"): [
        {},
        {"per": "channel", "floor": 0.2, "ceiling": 3.0, "alpha": 0.9, "beta": 0.4},
        {"kind": "linear"},
        {"kind": "linear", "per": "channel", "floor": -1.0},
        {"kind": "mlp", "beta": 0.1},
        {"kind": "mlp", "per": "channel", "d_hidden": 5},
    ],
    ("residual", "slerp"): [{}, {"alpha": 0.4, "scale": 1.5}],
}

_FEW = {"num_experts": 4}
KNOBS: dict[tuple[str, str], dict[str, tuple[dict[str, Any], Any]]] = {
    ("mlp", "moe"): {
        "num_experts": ({}, 4),
        "top_k": (_FEW, 3),
        "expert": (_FEW, "dense"),
        "shared_experts": (_FEW, 1),
        "dense": (_FEW, "dense"),
        "score": ({**_FEW, "normalize": False}, "sigmoid"),
        "normalize": (_FEW, False),
        "scale": (_FEW, 2.0),
        "noise": (_FEW, 0.5),
        "balance": (_FEW, "loss"),
        "balance_rate": ({**_FEW, "balance": "loss_free"}, 0.1),
    },
    ("residual", "mixed"): {
        "kind": ({}, "linear"),
        "per": ({}, "channel"),
        "floor": ({}, 0.5),
        "ceiling": ({}, 4.0),
        "alpha": ({}, 0.5),
        "beta": ({}, 0.5),
        "d_hidden": ({"kind": "mlp"}, 3),
    },
    ("residual", "slerp"): {"alpha": ({}, 0.5), "scale": ({}, 0.5)},
}


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = torch.stack([(row * x).sum() for row in w[f"{name}.weight"]])
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def feed_forward(config: Any, w: Weights, x: Tensor) -> Tensor:
    """A dense or gated feed-forward of one token, with its usual activation."""
    up = linear(w, "up", x)
    if config.type == "dense":
        hidden = up * (1 + torch.erf(up / 2**0.5)) / 2
    else:
        gate = linear(w, "gate", x)
        hidden = gate / (1 + torch.exp(-gate)) * up
    return linear(w, "down", hidden)


def _inside(w: Weights, name: str) -> Weights:
    return {k.removeprefix(f"{name}."): v for k, v in w.items() if k.startswith(f"{name}.")}


def moe(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    c = case.resolved
    rows = []
    for token in x:
        gates = {0: torch.ones((), dtype=x.dtype)}
        if c.num_experts > 1:
            logits = torch.stack([(row * token).sum() for row in w["router"]])
            scores = 1 / (1 + torch.exp(-logits))
            if c.score == "softmax":
                scores = torch.exp(logits) / torch.exp(logits).sum()
            best = sorted(range(c.num_experts), key=lambda i: -float(scores[i].detach()))
            gates = {i: scores[i] for i in best[: c.top_k]}
            if c.normalize:
                total = sum(gates.values())
                gates = {i: gate / total for i, gate in gates.items()}
        y = torch.zeros_like(token)
        for i, gate in gates.items():
            y = y + c.scale * gate * feed_forward(c.expert, _inside(w, f"experts.{i}"), token)
        for j in range(c.shared_experts):
            y = y + feed_forward(c.expert, _inside(w, f"shared.{j}"), token)
        if c.dense.type != "none":
            y = y + feed_forward(c.dense, _inside(w, "dense"), token)
        rows.append(y)
    return torch.stack(rows)


def mixed(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    c, d = case.resolved, case.scope.d_model
    rows = []
    for token in x:
        branch = token.flip(-1)
        logits = torch.cat((w["alpha"], w["beta"]))
        if c.kind != "fixed":
            read = linear(w, "stream", token) + linear(w, "branch", branch)
            if c.kind == "mlp":
                read = read + w["hidden_bias"]
                read = linear(w, "out", read * (1 + torch.erf(read / 2**0.5)) / 2)
            logits = logits + read
        factors = c.floor + (c.ceiling - c.floor) / (1 + torch.exp(-logits))
        half = 1 if c.per == "scalar" else d
        rows.append(factors[:half] * token + factors[half:] * branch)
    return torch.stack(rows)


def slerp(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    c = case.resolved
    rows = []
    for token in x:
        stream = token / (token * token).sum().sqrt()
        branch = token.flip(-1) / (token * token).sum().sqrt()
        rate = torch.where(w["eigen_rate"] > 0, w["eigen_rate"], -w["eigen_rate"])
        moved = stream + rate * c.alpha / c.scale * (branch - stream)
        rows.append(moved / (moved * moved).sum().sqrt())
    return torch.stack(rows)


REFERENCES = {("mlp", "moe"): moe, ("residual", "mixed"): mixed, ("residual", "slerp"): slerp}
