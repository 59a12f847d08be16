"""Rows of the mixers that are linear in time: linear attentions and decaying recurrences."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]

VARIANTS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("mixer", "favor"): [
        {},
        {"num_heads": 2, "bias": True},
        {"num_heads": 4, "head_dim": 6, "nb_features": 20, "out_bias": True},
        {"num_heads": 2, "position": "rope", "nb_features": 1},
        {"num_heads": 2, "kernel": "generalized"},
        {"num_heads": 2, "kernel": "generalized", "kernel_fn": "relu2", "epsilon": 0.1},
        {"num_heads": 2, "kernel": "generalized", "kernel_fn": "softplus"},
        {"num_heads": 2, "kernel": "generalized", "kernel_fn": "sigmoid", "epsilon": 0.5},
    ],
    ("mixer", "linear_attention"): [
        {},
        {"num_heads": 4, "bias": True, "out_bias": False},
        {"num_heads": 2, "head_dim": 6, "position": "rope"},
    ],
    ("mixer", "retnet"): [
        {},
        {"num_heads": 2, "bias": True},
        {"num_heads": 4, "head_dim": 6, "value_dim": 3, "position": "none", "decay_exponent": 1.5},
        {"num_heads": 2, "norm": "rmsnorm", "activation": "gelu", "out_bias": True},
        {"num_heads": 2, "value_dim": 8, "activation": "relu", "norm": "layernorm"},
    ],
    ("mixer", "gla"): [
        {},
        {"num_heads": 2, "bias": True, "gate_rank": 3, "temperature": 1.0},
        {"num_heads": 2, "head_dim": 6, "value_dim": 5, "activation": "relu"},
        {"num_heads": 1, "norm": {"type": "layernorm", "affine": False, "bias": False}},
    ],
    ("mixer", "rwkv"): [
        {},
        {"num_heads": 2, "mix_rank": 3, "decay_rank": 5},
        {"num_heads": 3, "head_dim": 4, "norm": "rmsnorm", "activation": "relu"},
    ],
}

BIDIRECTIONAL: list[tuple[str, str, dict[str, Any]]] = [
    ("mixer", "favor", {"num_heads": 2, "bias": True}),
    ("mixer", "favor", {"num_heads": 2, "kernel": "generalized", "position": "rope"}),
    ("mixer", "linear_attention", {"num_heads": 2}),
]

_HEADS = {"num_heads": 2}
_SHARED: dict[str, tuple[dict[str, Any], Any]] = {
    "num_heads": ({}, 2),
    "head_dim": (_HEADS, 6),
    "bias": (_HEADS | {"out_bias": False}, True),
    "out_bias": (_HEADS, True),
}
_GENERALIZED = _HEADS | {"kernel": "generalized"}

KNOBS: dict[tuple[str, str], dict[str, tuple[dict[str, Any], Any]]] = {
    ("mixer", "favor"): {
        **_SHARED,
        "position": (_HEADS, "rope"),
        "nb_features": (_HEADS, 12),
        "kernel": (_HEADS, "generalized"),
        "kernel_fn": (_GENERALIZED, "softplus"),
        "epsilon": (_GENERALIZED, 0.5),
        "feature_redraw_interval": (_HEADS, 1),
        "auto_check_redraw": (_HEADS | {"feature_redraw_interval": 1}, False),
    },
    ("mixer", "linear_attention"): {**_SHARED, "position": (_HEADS, "rope")},
    ("mixer", "retnet"): {
        **_SHARED,
        "position": (_HEADS, "none"),
        "value_dim": (_HEADS, 8),
        "decay_exponent": (_HEADS, 1.0),
        "norm": (_HEADS, "rmsnorm"),
        "activation": (_HEADS, "relu"),
    },
    ("mixer", "gla"): {
        "num_heads": ({}, 2),
        "head_dim": ({}, 6),
        "value_dim": ({}, 6),
        "gate_rank": ({}, 4),
        "temperature": ({}, 1.0),
        "norm": ({}, "layernorm"),
        "activation": ({}, "relu"),
        "bias": ({}, True),
    },
    ("mixer", "rwkv"): {
        "num_heads": ({}, 2),
        "head_dim": (_HEADS, 6),
        "mix_rank": ({}, 4),
        "decay_rank": ({}, 4),
        "norm": ({}, "rmsnorm"),
        "activation": ({}, "relu"),
    },
}


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = torch.stack([(row * x).sum() for row in w[f"{name}.weight"]])
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def function(name: str, x: Tensor) -> Tensor:
    sigma = 1 / (1 + torch.exp(-x))
    positive = torch.where(x > 0, x, torch.zeros_like(x))
    return {
        "relu": positive,
        "relu2": positive * positive,
        "softplus": torch.log(1 + torch.exp(x)),
        "sigmoid": sigma,
        "silu": x * sigma,
        "gelu": x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    }[name]


def head_norm(config: Any, w: Weights, x: Tensor) -> Tensor:
    n = len(x)
    mean = x.sum() / n if config.type == "layernorm" else torch.zeros((), dtype=x.dtype)
    y = (x - mean) / (((x - mean) ** 2).sum() / n + config.eps).sqrt()
    y = y * w["norm.weight"] if config.affine else y
    return y + w["norm.bias"] if config.bias else y


def turned(config: Any, x: Tensor, position: int) -> Tensor:
    if config.type == "none":
        return x
    half = len(x) // 2
    y = list(x)
    for i in range(half):
        angle = position / config.theta ** (i / half)
        y[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
        y[i + half] = x[i] * math.sin(angle) + x[i + half] * math.cos(angle)
    return torch.stack(y)


def phi(c: Any, w: Weights, x: Tensor) -> Tensor:
    if c.type == "linear_attention":
        return torch.where(x > 0, x + 1, torch.exp(x))
    x = x / len(x) ** 0.25
    projected = torch.stack([(row * x).sum() for row in w["projection"]])
    if c.kernel == "generalized":
        return function(c.kernel_fn, projected) + c.epsilon
    return torch.exp(projected - (x * x).sum() / 2) / len(projected) ** 0.5


def positive(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    c = case.resolved
    q, k = (
        [
            [
                phi(c, w, turned(c.position, head, p))
                for head in linear(w, name, row).split(c.head_dim)
            ]
            for row, p in zip(x, positions, strict=True)
        ]
        for name in ("q", "k")
    )
    v = [linear(w, "v", row).split(c.head_dim) for row in x]
    out = []
    for i, p in enumerate(positions):
        read = []
        for head in range(c.num_heads):
            total, weight = torch.zeros(c.head_dim, dtype=x.dtype), torch.zeros((), dtype=x.dtype)
            for j, past in enumerate(positions):
                if past < 0 or p < 0 or (case.scope.causal and past > p):
                    continue
                a = (q[i][head] * k[j][head]).sum()
                total, weight = total + a * v[j][head], weight + a
            read.append(total / weight if p >= 0 else total)
        out.append(linear(w, "out", torch.cat(read)))
    return torch.stack(out)


def retnet(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    c = case.resolved
    q, k = (
        [
            [turned(c.position, head, p) for head in linear(w, name, row).split(c.head_dim)]
            for row, p in zip(x, positions, strict=True)
        ]
        for name in ("q", "k")
    )
    v = [linear(w, "v", row).split(c.value_dim) for row in x]
    out = []
    for i, p in enumerate(positions):
        read = []
        for head in range(c.num_heads):
            gamma = 1 - 2 ** (-c.decay_exponent - head)
            total = torch.zeros(c.value_dim, dtype=x.dtype)
            for j, past in enumerate(positions):
                if 0 <= past <= p:
                    score = (q[i][head] * k[j][head]).sum() / math.sqrt(c.head_dim)
                    total = total + gamma ** (p - past) * score * v[j][head]
            read.append(head_norm(c.norm, w, total))
        gate = function(c.activation, linear(w, "gate", x[i]))
        out.append(linear(w, "out", gate * torch.cat(read)))
    return torch.stack(out)


def gla(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    c = case.resolved
    states = [torch.zeros(c.head_dim, c.value_dim, dtype=x.dtype) for _ in range(c.num_heads)]
    out = []
    for row, p in zip(x, positions, strict=True):
        q, k = (linear(w, name, row).split(c.head_dim) for name in ("q", "k"))
        v = linear(w, "v", row).split(c.value_dim)
        forget = linear(w, "forget_up", linear(w, "forget_down", row))
        alpha = ((1 / (1 + torch.exp(-forget))) ** (1 / c.temperature)).split(c.head_dim)
        read = []
        for i in range(c.num_heads):
            if p >= 0:
                states[i] = alpha[i][:, None] * states[i] + torch.outer(k[i], v[i])
            y = torch.stack([(column * q[i]).sum() for column in states[i].T])
            read.append(head_norm(c.norm, w, y / math.sqrt(c.head_dim)))
        gate = function(c.activation, linear(w, "gate", row))
        out.append(linear(w, "out", gate * torch.cat(read)))
    return torch.stack(out)


def rwkv(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    c = case.resolved
    k = c.head_dim
    states = [torch.zeros(k, k, dtype=x.dtype) for _ in range(c.num_heads)]
    last = torch.zeros_like(x[0])
    out = []
    for row, p in zip(x, positions, strict=True):
        delta = last - row
        low = torch.tanh(linear(w, "mix_down", row + delta * w["mu"])).split(c.mix_rank)
        x_w, x_k, x_v, x_r, x_g = (
            row + delta * (w["lam"].view(5, -1)[i] + (w["mix_up"][i] * low[i]).sum(1))
            for i in range(5)
        )
        low_decay = torch.tanh(linear(w, "decay_down", x_w))
        speed = w["decay_bias"] + (w["decay_up"] * low_decay).sum(1)
        decay = torch.exp(-torch.exp(speed)).split(k)
        keys, values, r = (
            linear(w, name, token).split(k)
            for name, token in zip("kvr", (x_k, x_v, x_r), strict=True)
        )
        read = []
        for i in range(c.num_heads):
            added = torch.outer(keys[i], values[i])
            seen = states[i] + w["bonus"].view(-1, k)[i][:, None] * added
            read.append(head_norm(c.norm, w, (seen * r[i][:, None]).sum(0)))
            if p >= 0:
                states[i] = decay[i][:, None] * states[i] + added
        if p >= 0:
            last = row
        gate = function(c.activation, linear(w, "gate", x_g))
        out.append(linear(w, "out", gate * torch.cat(read)))
    return torch.stack(out)


REFERENCES = {
    ("mixer", "favor"): positive,
    ("mixer", "linear_attention"): positive,
    ("mixer", "retnet"): retnet,
    ("mixer", "gla"): gla,
    ("mixer", "rwkv"): rwkv,
}
