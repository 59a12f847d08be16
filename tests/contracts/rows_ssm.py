"""Delta rules, state-space models and gated linear recurrences: variants, knobs, references."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]

VARIANTS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("mixer", "delta_net"): [
        {},
        {"num_heads": 2, "chunk_size": 4},
        {"num_heads": 3, "head_dim": 4, "value_dim": 6, "conv_size": 1, "chunk_size": 3},
        {"num_heads": 2, "value_dim": 4, "conv_size": 2, "out_norm": "layernorm"},
        {"head_dim": 8, "out_norm": "none", "chunk_size": 1},
    ],
    ("mixer", "gated_delta_net"): [
        {},
        {"num_heads": 2, "chunk_size": 4, "dt_max": 2.0},
        {"num_heads": 3, "head_dim": 4, "value_dim": 8, "conv_size": 2, "chunk_size": 3},
        {"num_heads": 2, "out_norm": "none", "a_max": 1.0, "dt_min": 0.01, "conv_size": 1},
    ],
    ("mixer", "mamba"): [
        {},
        {"d_inner": 12, "d_state": 3, "dt_rank": 2, "bias": True},
        {"expand": 1.5, "conv_size": 2, "conv_bias": False, "dt_min": 0.1, "dt_max": 1.0},
        {"conv_size": 1, "d_state": 1},
        {"d_state": 4, "dt_rank": 3, "inner_norm": "rmsnorm"},
        {"d_state": 3, "inner_norm": {"type": "layernorm", "eps": 0.1}},
    ],
    ("mixer", "mamba2"): [
        {"d_state": 4},
        {"d_state": 5, "head_dim": 8, "num_groups": 2, "chunk_size": 4, "bias": True},
        {"d_inner": 12, "head_dim": 3, "d_state": 2, "chunk_size": 3, "conv_bias": False},
        {"expand": 1.0, "d_state": 3, "head_dim": 4, "conv_size": 1, "eps": 0.5, "dt_max": 2.0},
    ],
    ("mixer", "rg_lru"): [
        {},
        {"num_heads": 4, "bias": False},
        {"expand": 1.5, "num_heads": 3, "conv_size": 2, "conv_bias": False, "exponent": 2.0},
        {"d_inner": 10, "num_heads": 2, "conv_size": 1},
    ],
    ("mixer", "min_gru"): [{}, {"d_hidden": 24}, {"candidate": "linear", "bias": False}],
    ("mixer", "min_lstm"): [{}, {"d_hidden": 24}, {"candidate": "linear", "bias": False}],
}

_DELTA: dict[str, Any] = {
    "num_heads": ({}, 2),
    "head_dim": ({"num_heads": 2}, 6),
    "value_dim": ({}, 8),
    "conv_size": ({}, 3),
    "out_norm": ({}, "layernorm"),
    "chunk_size": ({}, 16),
}
_INNER: dict[str, Any] = {
    "d_inner": ({}, 24),
    "expand": ({}, 1.5),
    "conv_size": ({}, 3),
    "conv_bias": ({}, False),
}
_STEPPED: dict[str, Any] = {**_INNER, "dt_min": ({}, 0.01), "dt_max": ({}, 0.5)}
_MINIMAL: dict[str, Any] = {
    "d_hidden": ({}, 24),
    "candidate": ({}, "linear"),
    "bias": ({}, False),
}

KNOBS: dict[tuple[str, str], dict[str, Any]] = {
    ("mixer", "delta_net"): _DELTA,
    ("mixer", "gated_delta_net"): {
        **_DELTA,
        "dt_min": ({}, 0.01),
        "dt_max": ({}, 0.5),
        "a_max": ({}, 4.0),
    },
    ("mixer", "mamba"): {
        **_STEPPED,
        "d_state": ({}, 8),
        "inner_norm": ({}, "rmsnorm"),
        "dt_rank": ({}, 2),
        "bias": ({}, True),
    },
    ("mixer", "mamba2"): {
        **_STEPPED,
        "d_state": ({}, 8),
        "head_dim": ({}, 8),
        "num_groups": ({"head_dim": 8}, 2),
        "chunk_size": ({}, 16),
        "a_min": ({}, 2.0),
        "a_max": ({}, 4.0),
        "eps": ({}, 0.5),
        "bias": ({}, True),
    },
    ("mixer", "rg_lru"): {
        **_INNER,
        "expand": ({}, 2.0),
        "num_heads": ({}, 2),
        "exponent": ({}, 4.0),
        "bias": ({}, False),
    },
    ("mixer", "min_gru"): _MINIMAL,
    ("mixer", "min_lstm"): _MINIMAL,
}


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def silu(x: Tensor) -> Tensor:
    return x * sigmoid(x)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def softplus(x: Tensor) -> Tensor:
    return torch.log(1 + torch.exp(x))


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = torch.stack([(row * x).sum() for row in w[f"{name}.weight"]])
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def convolved(w: Weights, name: str, past: list[Tensor]) -> Tensor:
    """What the short convolution gives for the last of the tokens seen."""
    taps = w[f"{name}.weight"][:, 0].unbind(1)
    y = torch.zeros_like(past[-1])
    for back, tap in enumerate(reversed(taps)):
        if back < len(past):
            y = y + tap * past[-1 - back]
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def normed(config: Any, w: Weights, x: Tensor) -> Tensor:
    """The norms that the variants name, over one head."""
    if config.type == "none":
        return x
    if config.type == "rmsnorm":
        return x / ((x**2).mean() + config.eps).sqrt() * w["out_norm.weight"]
    assert config.type == "layernorm"
    x = x - x.mean()
    return x / ((x**2).mean() + config.eps).sqrt() * w["out_norm.weight"] + w["out_norm.bias"]


def delta(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    c = case.resolved
    gated = c.type == "gated_delta_net"
    past: dict[str, list[Tensor]] = {"q": [], "k": [], "v": []}
    states = [torch.zeros(c.head_dim, c.value_dim, dtype=x.dtype) for _ in range(c.num_heads)]
    eye = torch.eye(c.head_dim, dtype=x.dtype)
    out = []
    for token, p in zip(x, positions, strict=True):
        if p < 0:
            out.append(torch.zeros_like(token))
            continue
        for name, seen in past.items():
            seen.append(linear(w, name, token))
        q, k, v = (silu(convolved(w, f"{name}_conv", seen)) for name, seen in past.items())
        beta = sigmoid(linear(w, "beta", token))
        alpha = torch.ones_like(beta)
        if gated:
            step = softplus(linear(w, "alpha", token) + w["dt_bias"])
            alpha = torch.exp(-torch.exp(w["a_log"]) * step)
        read = []
        for head in range(c.num_heads):
            keys = slice(head * c.head_dim, (head + 1) * c.head_dim)
            value = v[head * c.value_dim : (head + 1) * c.value_dim]
            query = q[keys] / (q[keys] ** 2).sum().sqrt()
            key = k[keys] / (k[keys] ** 2).sum().sqrt()
            shrunk = alpha[head] * (eye - beta[head] * torch.outer(key, key))
            states[head] = shrunk @ states[head] + beta[head] * torch.outer(key, value)
            read.append(normed(c.out_norm, w, query @ states[head]))
        y = torch.cat(read)
        out.append(linear(w, "out", y * silu(linear(w, "gate", token)) if gated else y))
    return torch.stack(out)


def mamba(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    c = case.resolved
    e, n, r = c.d_inner, c.d_state, c.dt_rank
    h = torch.zeros(e, n, dtype=x.dtype)
    past: list[Tensor] = []
    out = []
    for token, p in zip(x, positions, strict=True):
        if p < 0:
            out.append(torch.zeros_like(token))
            continue
        both = linear(w, "in_proj", token)
        past.append(both[:e])
        u = silu(convolved(w, "conv", past))
        said = linear(w, "x_proj", u)
        parts = [said[:r], said[r : r + n], said[r + n :]]
        for i in range(3):
            inner = {k.replace(f"inner_norms.{i}.", "out_norm."): v for k, v in w.items()}
            parts[i] = normed(c.inner_norm, inner, parts[i])
        step, b, read = softplus(linear(w, "dt_proj", parts[0])), parts[1], parts[2]
        rows = []
        for i in range(e):
            rate = -torch.exp(w["a_log"][i])
            rows.append(torch.exp(step[i] * rate) * h[i] + step[i] * u[i] * b)
        h = torch.stack(rows)
        y = (h * read).sum(1) + w["skip"] * u
        out.append(linear(w, "out", y * silu(both[e:])))
    return torch.stack(out)


def mamba2(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    c = case.resolved
    e, n, p, g = c.d_inner, c.d_state, c.head_dim, c.num_groups
    heads = e // p
    states = [torch.zeros(n, p, dtype=x.dtype) for _ in range(heads)]
    past: list[Tensor] = []
    out = []
    for token, place in zip(x, positions, strict=True):
        if place < 0:
            out.append(torch.zeros_like(token))
            continue
        z, mixed, step = linear(w, "in_proj", token).split((e, e + 2 * g * n, heads))
        past.append(mixed)
        u, b, read = silu(convolved(w, "conv", past)).split((e, g * n, g * n))
        step = softplus(step + w["dt_bias"])
        parts = []
        for i in range(heads):
            group = i // (heads // g)
            of_group = slice(group * n, (group + 1) * n)
            value = u[i * p : (i + 1) * p]
            decay = torch.exp(-step[i] * torch.exp(w["a_log"][i]))
            states[i] = decay * states[i] + step[i] * torch.outer(b[of_group], value)
            parts.append(read[of_group] @ states[i] + w["skip"][i] * value)
        y = torch.cat(parts) * silu(z)
        y = torch.cat([part / ((part**2).mean() + c.eps).sqrt() for part in y.split(e // g)])
        out.append(linear(w, "out", y * w["norm_weight"]))
    return torch.stack(out)


def rg_lru(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    c = case.resolved
    width = c.d_inner // c.num_heads
    h = torch.zeros(c.d_inner, dtype=x.dtype)
    past: list[Tensor] = []
    out = []
    for token, p in zip(x, positions, strict=True):
        if p < 0:
            out.append(torch.zeros_like(token))
            continue
        past.append(linear(w, "recurrent", token))
        u = convolved(w, "conv", past)
        r, i = (
            sigmoid(
                torch.cat(
                    [
                        block @ weight
                        for block, weight in zip(u.split(width), w[f"{gate}.weight"], strict=True)
                    ]
                )
                + w[f"{gate}.bias"]
            )
            for gate in ("decay_gate", "input_gate")
        )
        a = sigmoid(w["decay"]) ** (c.exponent * r)
        h = a * h + (1 - a**2).sqrt() * i * u
        out.append(linear(w, "out", gelu(linear(w, "gate", token)) * h))
    return torch.stack(out)


def minimal(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    c = case.resolved
    h = torch.zeros(c.d_hidden, dtype=x.dtype)
    out = []
    for token, p in zip(x, positions, strict=True):
        if p >= 0:
            candidate = linear(w, "candidate", token)
            if c.candidate == "positive":
                candidate = torch.where(candidate >= 0, candidate + 0.5, sigmoid(candidate))
            if c.type == "min_gru":
                z = sigmoid(linear(w, "gate", token))
                h = (1 - z) * h + z * candidate
            else:
                f, i = sigmoid(linear(w, "forget", token)), sigmoid(linear(w, "enter", token))
                h = f / (f + i) * h + i / (f + i) * candidate
        out.append(linear(w, "out", h) if c.d_hidden != case.scope.d_model else h)
    return torch.stack(out)


REFERENCES = {
    ("mixer", "delta_net"): delta,
    ("mixer", "gated_delta_net"): delta,
    ("mixer", "mamba"): mamba,
    ("mixer", "mamba2"): mamba2,
    ("mixer", "rg_lru"): rg_lru,
    ("mixer", "min_gru"): minimal,
    ("mixer", "min_lstm"): minimal,
}
