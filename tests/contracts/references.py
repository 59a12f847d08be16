"""Naive references: one token, one head, one number at a time, from the papers' formulas.

Nothing here shares code with the package. Parameters come in by name, so that gradients can be
compared; values are float64.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from rows import gathered
from torch import Tensor

Weights = dict[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = torch.stack([(row * x).sum() for row in w[f"{name}.weight"]])
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def activation(name: str, x: Tensor) -> Tensor:
    if name in ("relu", "relu2"):
        positive = torch.where(x > 0, x, torch.zeros_like(x))
        return positive if name == "relu" else positive * positive
    if name == "gelu":
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2
    if name == "gelu_tanh":
        return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if name == "silu":
        return x / (1 + torch.exp(-x))
    if name == "mish":
        return x * torch.tanh(torch.log(1 + torch.exp(x)))
    if name == "tanh":
        return (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x))
    raise AssertionError(name)


# norms: one vector


def norm(config: Any, w: Weights, x: Tensor) -> Tensor:
    d = len(x)
    if config.type == "none":
        return x
    if config.type == "layernorm":
        mean = x.sum() / d
        y = (x - mean) / (((x - mean) ** 2).sum() / d + config.eps).sqrt()
    elif config.type == "rmsnorm":
        y = x / ((x**2).sum() / d + config.eps).sqrt()
    else:
        length = (x**2).sum().sqrt()
        y = x / length if float(length.detach()) > config.eps else x / config.eps
        if config.type == "cosine":
            y = y * config.length / config.scale
        elif not config.affine:
            y = y * math.sqrt(d)
    if config.affine:
        y = y * (w["weight"] + (1 if getattr(config, "unit_offset", False) else 0))
    return y + w["bias"] if config.bias else y


# positions: one query or key


def rope(config: Any, x: Tensor, position: int) -> Tensor:
    k = len(x)
    r = config.rotary_dim or round((config.fraction or 1) * k)
    grown = getattr(config.scaling, "attention_factor", None) or 1.0
    x = torch.cat([x[:r] * grown, x[r:]])
    y = list(x)
    for i in range(r // 2):
        angle = position * frequency(config, i, r)
        a, b = (i, i + r // 2) if config.style == "half" else (2 * i, 2 * i + 1)
        y[a] = x[a] * math.cos(angle) - x[b] * math.sin(angle)
        y[b] = x[a] * math.sin(angle) + x[b] * math.cos(angle)
    return torch.stack(y)


def frequency(config: Any, i: int, r: int) -> float:
    f, scaling = config.theta ** (-2 * i / r), config.scaling
    if scaling is None:
        return f
    if scaling.type == "linear":
        return f / scaling.factor
    context = scaling.original_max_seq_len
    if scaling.type == "llama3":
        wave, low, high = 2 * math.pi / f, scaling.low_freq_factor, scaling.high_freq_factor
        if wave < context / high:
            return f
        if wave > context / low:
            return f / scaling.factor
        smooth = (context / wave - low) / (high - low)
        return (1 - smooth) * f / scaling.factor + smooth * f
    first, last = (
        r * math.log(context / (2 * math.pi * turns)) / (2 * math.log(config.theta))
        for turns in (scaling.beta_fast, scaling.beta_slow)
    )
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, r - 1)
    if first == last:
        last += 0.001
    ramp = min(max((i - first) / (last - first), 0), 1)
    return ramp * f / scaling.factor + (1 - ramp) * f


def alibi_slopes(n: int) -> list[float]:
    if math.log2(n).is_integer():
        return [2 ** (-8 / n * (i + 1)) for i in range(n)]
    power = 2 ** math.floor(math.log2(n))
    return alibi_slopes(power) + alibi_slopes(2 * power)[0::2][: n - power]


def position(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    """t h k: what the contract of positions looks at: turned, plus the mean bias of a query."""
    config = case.resolved
    rows = []
    for i, p in enumerate(positions):
        heads = []
        for j in range(case.scope.num_heads):
            y = rope(config, x[i, j], p) if config.type == "rope" else x[i, j]
            if config.type == "alibi":
                distances = [abs(p - q) for q in positions if q >= 0]
                slope = alibi_slopes(case.scope.num_heads)[j]
                y = y - slope * sum(distances) / len(distances)
            heads.append(y)
        rows.append(torch.stack(heads))
    return torch.stack(rows)


# mixers: one sequence


def recurrent(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    c = case.resolved
    n = c.d_hidden
    h = torch.zeros(n, dtype=x.dtype)
    cell = torch.zeros(n, dtype=x.dtype)
    out = []
    for token, p in zip(x, positions, strict=True):
        if p >= 0:
            a = w["weight_ih"] @ token + (w["bias_ih"] if c.bias else 0)
            b = w["weight_hh"] @ h + (w["bias_hh"] if c.bias else 0)
            if c.type == "rnn":
                h = activation(c.activation, a + b)
            elif c.type == "gru":
                r, z = (1 / (1 + torch.exp(-(a[i : i + n] + b[i : i + n]))) for i in (0, n))
                candidate = activation("tanh", a[2 * n :] + r * b[2 * n :])
                h = (1 - z) * candidate + z * h
            else:
                i, f, g, o = (a + b).split(n)
                sigma = [1 / (1 + torch.exp(-gate)) for gate in (i, f, o)]
                cell = sigma[1] * cell + sigma[0] * activation("tanh", g)
                h = sigma[2] * activation("tanh", cell)
        out.append(linear(w, "out", h) if n != case.scope.d_model else h)
    return torch.stack(out)


# the rest: one sequence, token by token


def mlp(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    c = case.resolved
    if c.type == "none":
        return torch.zeros_like(x)
    rows = []
    for token in x:
        up = linear(w, "up", token)
        if c.type == "glu" and c.fused:
            hidden = activation(c.activation, up[: c.d_ff]) * up[c.d_ff :]
        elif c.type == "glu":
            hidden = activation(c.activation, linear(w, "gate", token)) * up
        else:
            hidden = activation(c.activation, up)
        rows.append(linear(w, "down", hidden))
    return torch.stack(rows)


def norms(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    return torch.stack([norm(case.resolved, w, token) for token in x])


def embedding_position(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    c, d = case.resolved, case.scope.d_model
    rows = []
    for token, p in zip(x, positions, strict=True):
        if c.type == "learned" and p >= 0:
            token = token + w["weight"][p]
        if c.type == "sinusoidal":
            waves = [
                (math.cos if i % 2 else math.sin)(p / c.theta ** (2 * (i // 2) / d))
                for i in range(d)
            ]
            token = token + c.scale * torch.tensor(waves, dtype=x.dtype)
        rows.append(token)
    return torch.stack(rows)


def residual(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    c, y = case.resolved, x.flip(-1)
    if c.type == "add":
        return x + y
    if c.type == "none":
        return y
    if c.type == "rezero":
        return x + w["gain"] * y
    if c.type == "scaled":
        return c.stream * x + c.branch * y
    return w["alpha"] * x + w["beta"] * y


REFERENCES = {
    **{("mixer", name): recurrent for name in ("rnn", "lstm", "gru")},
    **{("mlp", name): mlp for name in ("dense", "glu", "none")},
    **{("norm", n): norms for n in ("layernorm", "rmsnorm", "scalenorm", "cosine", "none")},
    **{("position", name): position for name in ("none", "rope", "alibi")},
    **{("embedding_position", n): embedding_position for n in ("none", "learned", "sinusoidal")},
    **gathered("REFERENCES"),
    **{("residual", n): residual for n in ("add", "none", "rezero", "scaled", "learned")},
}
