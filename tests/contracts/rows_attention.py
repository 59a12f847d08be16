"""Rows of softmax attentions and of what else mixes tokens by learned products or convolutions."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Knob = tuple[dict[str, Any], Any]

_HEADS = {"num_heads": 4}
_WINDOW = {"num_heads": 4, "window": 3}
_PAIRS = {"num_heads": 2}
_RELATIVE = {"type": "relative", "max_distance": 4}
_BUCKETS = {"type": "relative", "max_distance": 7, "buckets": 8}
_MULTIPLIED = {"type": "relative", "max_distance": 3, "mode": "multiply"}

VARIANTS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("mixer", "attention"): [
        {},
        {"num_heads": 4},
        {"num_heads": 4, "num_kv_heads": 2, "bias": True},
        {"num_heads": 4, "num_kv_heads": 1, "head_dim": 6, "bias": True, "out_bias": False},
        {"num_heads": 2, "position": "none", "out_bias": True},
        {"num_heads": 3, "num_kv_heads": 3, "head_dim": 8, "position": "alibi"},
        {"num_heads": 2, "window": 3},
        {"num_heads": 2, "window": 1, "position": "none"},
        {"num_heads": 4, "num_kv_heads": 2, "window": 4, "position": "alibi"},
        {"num_heads": 4, "num_kv_heads": 2, "softcap": 2.0, "qk_norm": "rmsnorm"},
        {"num_heads": 4, "num_kv_heads": 2, "window": 5, "softcap": 1.5, "position": "alibi"},
        {"num_heads": 2, "dropout": 0.3},
        {"num_heads": 2, "num_kv_heads": 1, "dropout": 0.2, "softcap": 3.0, "window": 4},
        {"num_heads": 2, "qk_norm": {"type": "layernorm"}, "scale": 0.9},
        {"num_heads": 4, "num_kv_heads": 2, "qk_norm": "rmsnorm", "qk_norm_over": "all_heads"},
        {"num_heads": 2, "k_norm": {"type": "scalenorm"}, "qk_norm_over": "all_heads"},
        {"num_heads": 4, "num_kv_heads": 2, "qk_norm": {"type": "cosine", "scale": "rsqrt"}},
        {"num_heads": 2, "position": {"type": "rope", "fraction": 0.5, "style": "interleaved"}},
        {"num_heads": 2, "window": 3, "dilation": 2},
        {"num_heads": 2, "window": 2, "stride": 3, "position": "alibi"},
        {"num_heads": 2, "window": 2, "global_tokens": 2},
        {"num_heads": 2, "window": 3, "dilation": 2, "global_tokens": 1, "softcap": 2.0},
        {"num_heads": 2, "window": 2, "dilation": 3, "stride": 4, "global_tokens": 3},
        {"num_heads": 4, "num_kv_heads": 2, "position": _RELATIVE},
        {"num_heads": 2, "position": _RELATIVE, "window": 3, "dropout": 0.1},
        {"num_heads": 4, "num_kv_heads": 2, "position": _BUCKETS, "scale": 1.0, "head_dim": 6},
        {"num_heads": 2, "position": _BUCKETS | {"mode": "multiply"}, "window": 5},
        {"num_heads": 4, "num_kv_heads": 2, "position": _MULTIPLIED, "softcap": 3.0},
        {"num_heads": 2, "position": _MULTIPLIED, "window": 3},
        {"num_heads": 4, "num_kv_heads": 2, "k_norm": "layernorm", "v_norm": "rmsnorm"},
        {"num_heads": 2, "v_norm": {"type": "layernorm", "affine": False, "bias": False}},
        {"num_heads": 2, "learned_scale": "head"},
        {"num_heads": 4, "num_kv_heads": 2, "learned_scale": "layer", "window": 3},
        {"num_heads": 2, "value_residual": "fixed"},
        {"num_heads": 4, "num_kv_heads": 2, "value_residual": "learned", "v_norm": "rmsnorm"},
    ],
    ("mixer", "differential_attention"): [
        {},
        {"num_heads": 4, "num_kv_heads": 2, "bias": True},
        {"num_heads": 2, "position": "alibi", "norm": "none", "lambda_init": 0.5},
        {"num_heads": 2, "num_kv_heads": 1, "window": 3, "dropout": 0.2},
        {"num_heads": 2, "window": 2, "global_tokens": 1, "softcap": 2.0, "qk_norm": "rmsnorm"},
        {"num_heads": 2, "head_dim": 3, "position": _RELATIVE, "out_bias": True},
        {"num_heads": 2, "num_kv_heads": 1, "position": _MULTIPLIED, "window": 4},
    ],
    ("mixer", "memory"): [
        {},
        {"num_slots": 5, "num_heads": 2, "bias": True},
        {"num_slots": 7, "num_heads": 3, "head_dim": 4, "scale": 0.9, "dropout": 0.2},
        {"num_slots": 6, "num_heads": 2, "lookup": "linear", "store": "facts"},
    ],
    ("mlp", "memory"): [
        {},
        {"num_slots": 5, "num_heads": 2, "bias": True, "store": "facts"},
        {"num_slots": 7, "num_heads": 3, "head_dim": 4, "scale": 0.9, "dropout": 0.2},
        {"num_slots": 6, "num_heads": 4, "lookup": "linear"},
        {"num_slots": 9, "num_heads": 2, "lookup": "linear", "dropout": 0.2, "bias": True},
    ],
    ("mixer", "latent_attention"): [
        {},
        {"num_heads": 2, "rope_dim": 4, "kv_rank": 6, "q_rank": 8},
        {"num_heads": 2, "value_dim": 14, "kv_rank": 5, "norm": "none", "scale": 0.4},
        {"num_heads": 3, "head_dim": 4, "position": "alibi", "q_rank": 7, "norm": "layernorm"},
        {"num_heads": 2, "dropout": 0.2, "value_dim": 5},
        {"num_heads": 2, "position": _RELATIVE},
        {"num_heads": 2, "position": _MULTIPLIED, "value_dim": 14},
        {"num_heads": 1, "position": "none"},
    ],
    ("mixer", "short_conv"): [
        {},
        {"kernel_size": 4, "gates": "output", "bias": True},
        {"kernel_size": 2, "gates": "none", "d_hidden": 24, "conv_bias": True},
    ],
    ("mixer", "long_conv"): [
        {"filter_width": 16},
        {"d_hidden": 8, "filter_width": 8, "filter_depth": 1, "bias": True, "kernel_size": 4},
        {"filter_width": 6, "filter_depth": 3, "filter_waves": 3, "fast_decay": 0.1},
    ],
    ("mixer", "token_mlp"): [
        {},
        {"num_heads": 4, "activation": "relu", "bias": True},
        {"d_hidden": 24, "num_heads": 2, "norm": "layernorm", "activation": "silu"},
        {"norm": "none", "activation": "relu2"},
    ],
    ("position", "relative"): [{}, _RELATIVE, _MULTIPLIED, _BUCKETS],
}

BIDIRECTIONAL: list[tuple[str, str, dict[str, Any]]] = [
    ("mixer", "attention", {"num_heads": 4, "num_kv_heads": 2}),
    ("mixer", "attention", {"num_heads": 2, "position": "alibi", "window": 3}),
    ("mixer", "attention", {"num_heads": 2, "position": "none", "softcap": 2.0, "dropout": 0.2}),
    ("mixer", "attention", {"num_heads": 2, "window": 2, "dilation": 2, "global_tokens": 1}),
    ("mixer", "attention", {"num_heads": 2, "window": 2, "stride": 3}),
    ("mixer", "attention", {"num_heads": 2, "position": _RELATIVE}),
    ("mixer", "attention", {"num_heads": 2, "position": _BUCKETS, "scale": 1.0, "head_dim": 6}),
    ("mixer", "differential_attention", {"num_heads": 2, "num_kv_heads": 1}),
    ("mixer", "memory", {"num_slots": 5}),
    ("mixer", "latent_attention", {"num_heads": 2, "q_rank": 6}),
    ("mixer", "short_conv", {"kernel_size": 4}),
    ("mixer", "short_conv", {"kernel_size": 3, "gates": "none"}),
    ("mixer", "long_conv", {"filter_width": 8}),
    ("mixer", "token_mlp", {"num_heads": 2}),
    ("position", "relative", _RELATIVE),
    ("position", "relative", _BUCKETS),
]

_SOFTMAX: dict[str, Knob] = {
    "num_heads": ({}, 4),
    "num_kv_heads": (_HEADS, 2),
    "head_dim": (_HEADS, 6),
    "position": (_HEADS, "alibi"),
    "window": (_HEADS, 3),
    "dilation": (_WINDOW, 2),
    "stride": (_WINDOW, 5),
    "global_tokens": (_WINDOW, 2),
    "qk_norm": (_HEADS, "rmsnorm"),
    "softcap": (_HEADS, 0.5),
    "scale": (_HEADS, 0.1),
    "bias": (_HEADS | {"out_bias": False}, True),
    "out_bias": (_HEADS, True),
    "dropout": (_HEADS, 0.5),
}
_SLOTS: dict[str, Knob] = {
    "num_slots": ({}, 5),
    "num_heads": ({}, 4),
    "head_dim": (_HEADS, 6),
    "lookup": ({}, "linear"),
    "scale": ({}, 0.9),
    "store": ({}, "facts"),
    "bias": ({}, True),
    "dropout": ({}, 0.5),
}
KNOBS: dict[tuple[str, str], dict[str, Knob]] = {
    ("mixer", "attention"): {
        **_SOFTMAX,
        "k_norm": (_HEADS, "rmsnorm"),
        "qk_norm_over": (_HEADS | {"qk_norm": "rmsnorm"}, "all_heads"),
        "v_norm": (_HEADS, "rmsnorm"),
        "learned_scale": (_HEADS, "head"),
        "value_residual": (_HEADS, "learned"),
    },
    ("mixer", "differential_attention"): {
        **_SOFTMAX,
        "norm": (_PAIRS, "layernorm"),
        "lambda_init": (_PAIRS, 0.7),
    },
    ("mixer", "memory"): _SLOTS,
    ("mlp", "memory"): _SLOTS,
    ("mixer", "latent_attention"): {
        "num_heads": ({}, 4),
        "head_dim": (_HEADS, 6),
        "value_dim": (_HEADS, 6),
        "rope_dim": (_HEADS, 4),
        "kv_rank": (_HEADS, 3),
        "q_rank": (_HEADS, 3),
        "norm": (_HEADS, "layernorm"),
        "position": (_HEADS, "alibi"),
        "scale": (_HEADS, 0.1),
        "dropout": (_HEADS, 0.5),
    },
    ("mixer", "short_conv"): {
        "d_hidden": ({}, 8),
        "kernel_size": ({}, 4),
        "gates": ({}, "output"),
        "conv_bias": ({}, True),
        "bias": ({}, True),
    },
    ("mixer", "long_conv"): {
        "d_hidden": ({}, 8),
        "kernel_size": ({}, 4),
        "filter_width": ({}, 8),
        "filter_depth": ({}, 3),
        "filter_waves": ({}, 4),
        "frequency": ({}, 3.0),
        "fast_decay": ({}, 0.1),
        "slow_decay": ({}, 1.0),
        "bias": ({}, True),
    },
    ("mixer", "token_mlp"): {
        "d_hidden": ({}, 8),
        "num_heads": ({}, 4),
        "activation": ({}, "relu"),
        "norm": ({}, "layernorm"),
        "bias": ({}, True),
    },
    ("position", "relative"): {
        "mode": ({}, "multiply"),
        "max_distance": ({}, 4),
        "buckets": ({"max_distance": 4}, 4),
    },
}


# references: one sequence, one query, one head, one key at a time


def _settled(case: Any, *, causal: bool | None = None) -> Any:
    """The case with its config resolved once, not at every look."""
    scope = case.scope if causal is None else replace(case.scope, causal=causal)
    return SimpleNamespace(resolved=case.resolved, scope=scope)


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = torch.stack([(row * x).sum() for row in w[f"{name}.weight"]])
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def _part(w: Weights, name: str) -> Weights:
    return {k.removeprefix(f"{name}."): v for k, v in w.items() if k.startswith(f"{name}.")}


def _norm(config: Any, w: Weights, name: str, x: Tensor) -> Tensor:
    from references import norm

    return norm(config, _part(w, name), x)


def _heads(
    case: Any, w: Weights, x: Tensor, positions: list[int], name: str, norm: Any
) -> list[list[Tensor]]:
    """Each token's heads of queries or keys, normed and turned."""
    from references import rope

    c, rows = case.resolved, []
    for token, p in zip(x, positions, strict=True):
        y = _linear(w, name, token)
        if getattr(c, "qk_norm_over", "head") == "all_heads":
            heads = list(_norm(norm, w, f"{name}_norm", y).split(c.head_dim))
        else:
            heads = [_norm(norm, w, f"{name}_norm", z) for z in y.split(c.head_dim)]
        if c.position.type == "rope":
            heads = [rope(c.position, head, p) for head in heads]
        rows.append(heads)
    return rows


def _may_see(case: Any, p: int, past: int) -> bool:
    return past >= 0 and (past <= p or not case.scope.causal)


def _sees(case: Any, p: int, past: int) -> bool:
    c = case.resolved
    if c.window is None or not _may_see(case, p, past):
        return _may_see(case, p, past)
    near = [i * c.dilation for i in range(c.window)]
    at_stride = c.stride is not None and (p - past) % c.stride == 0
    return abs(p - past) in near or at_stride or min(p, past) < c.global_tokens


def _distance_number(case: Any, config: Any, w: Weights, head: int, p: int, past: int) -> Tensor:
    m = config.max_distance
    if config.buckets is not None:
        side = config.buckets // (1 if case.scope.causal else 2)
        n = max(p - past, 0) if case.scope.causal else abs(p - past)
        after = 0 if case.scope.causal or past <= p else side
        return w["weight"][head, after + _bucket(n, side, m)]
    if case.scope.causal:
        return w["weight"][head, min(max(p - past, 0), m)]
    return w["weight"][head, max(-m, min(p - past, m)) + m]


def _bucket(n: int, side: int, max_distance: int) -> int:
    single = side // 2
    if n < single:
        return n
    wide = math.log(n / single) / math.log(max_distance / single)
    return min(single + int(wide * (side - single)), side - 1)


def _logit(case: Any, w: Weights, q: Tensor, k: Tensor, head: int, p: int, past: int) -> Tensor:
    c = case.resolved
    z = (q * k).sum() * c.scale
    if c.softcap is not None:
        z = c.softcap * torch.tanh(z / c.softcap)
    return _placed(case, w, z, head, p, past)


def _placed(case: Any, w: Weights, z: Tensor, head: int, p: int, past: int) -> Tensor:
    """A logit after what the position adds to it or multiplies it with."""
    from references import alibi_slopes

    c = case.resolved
    if c.position.type == "alibi":
        z = z - alibi_slopes(c.num_heads)[head] * abs(p - past)
    if c.position.type == "relative":
        number = _distance_number(case, c.position, _part(w, "position"), head, p, past)
        z = z * number if c.position.mode == "multiply" else z + number
    return z


def _softmax(logits: list[Tensor]) -> list[Tensor]:
    top = max(float(z.detach()) for z in logits)
    powers = [(z - top).exp() for z in logits]
    return [power / sum(powers) for power in powers]


def attention(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    case = _settled(case)
    c = case.resolved
    h, g = c.num_heads, c.num_kv_heads
    q = _heads(case, w, x, positions, "q", c.qk_norm)
    k_norm = c.qk_norm if c.k_norm.type == "none" else c.k_norm
    k = _heads(case, w, x, positions, "k", k_norm)
    v = [
        [_norm(c.v_norm, w, "v_norm", z) for z in _linear(w, "v", token).split(c.head_dim)]
        for token in x
    ]
    if c.value_residual == "learned":
        v = [[w["value_mix"][0] * z + w["value_mix"][1] * z for z in heads] for heads in v]
    out = []
    for i, p in enumerate(positions):
        read = [torch.zeros(c.head_dim, dtype=x.dtype)] * h
        for head in range(h if p >= 0 else 0):
            group = head // (h // g)
            query = q[i][head]
            if c.learned_scale != "none":
                query = query * w["log_scale"][head if c.learned_scale == "head" else 0].exp()
            seen = [j for j, past in enumerate(positions) if _sees(case, p, past)]
            logits = [_logit(case, w, query, k[j][group], head, p, positions[j]) for j in seen]
            weights = _softmax(logits)
            read[head] = sum(a * v[j][group] for a, j in zip(weights, seen, strict=True))
        out.append(_linear(w, "out", torch.cat(read)))
    return torch.stack(out)


def differential_attention(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    case = _settled(case)
    c = case.resolved
    h, g = c.num_heads, c.num_kv_heads
    start = 0.8 - 0.6 * math.exp(-0.3 * case.scope.layer)
    start = start if c.lambda_init is None else c.lambda_init
    q = _heads(case, w, x, positions, "q", c.qk_norm)
    k = _heads(case, w, x, positions, "k", c.qk_norm)
    v = [_linear(w, "v", token).split(2 * c.head_dim) for token in x]
    one, other = ((w[f"lambda_q{i}"] * w[f"lambda_k{i}"]).sum().exp() for i in (1, 2))
    factor = one - other + start
    out = []
    for i, p in enumerate(positions):
        read = [torch.zeros(2 * c.head_dim, dtype=x.dtype)] * h
        for head in range(h if p >= 0 else 0):
            group = head // (h // g)
            seen = [j for j, past in enumerate(positions) if _sees(case, p, past)]
            maps = []
            for n in (0, 1):
                query = q[i][head + n * h]
                maps.append(
                    _softmax(
                        [
                            _logit(case, w, query, k[j][group + n * g], head, p, positions[j])
                            for j in seen
                        ]
                    )
                )
            y = sum((a - factor * b) * v[j][group] for a, b, j in zip(*maps, seen, strict=True))
            read[head] = (1 - start) * _norm(c.norm, w, "norm", y)
        out.append(_linear(w, "out", torch.cat(read)))
    return torch.stack(out)


def memory(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    case = _settled(case)
    c, rows = case.resolved, []
    at = "" if c.store is None else "slots."
    for token in x:
        read = []
        for head, q in enumerate(_linear(w, "q", token).split(c.head_dim)):
            weights = [(q * key).sum() * c.scale for key in w[f"{at}keys"][head]]
            if c.lookup == "softmax":
                weights = _softmax(weights)
            read.append(sum(a * v for a, v in zip(weights, w[f"{at}values"][head], strict=True)))
        rows.append(_linear(w, "out", torch.cat(read)))
    return torch.stack(rows)


def relative(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    """t h k: what the contract of positions looks at: the mean number of a query."""
    case = _settled(case)
    rows = []
    for token, p in zip(x, positions, strict=True):
        real = [past for past in positions if past >= 0]
        means = [
            sum(_distance_number(case, case.resolved, w, head, p, past) for past in real)
            / len(real)
            for head in range(case.scope.num_heads)
        ]
        rows.append(torch.stack([z + mean for z, mean in zip(token, means, strict=True)]))
    return torch.stack(rows)


def latent_attention(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    from references import rope

    case = _settled(case)
    c = case.resolved
    h, k = c.num_heads, c.head_dim

    def turned(z: Tensor, p: int) -> Tensor:
        return rope(c.position, z, p) if c.position.type == "rope" else z

    queries, keys, values = [], [], []
    for token, p in zip(x, positions, strict=True):
        low = token
        if c.q_rank is not None:
            low = _norm(c.norm, w, "q_norm", _linear(w, "q_down", token))
        heads = _linear(w, "q", low).split(k + c.rope_dim)
        queries.append([torch.cat((q[:k], turned(q[k:], p))) for q in heads])
        down = _linear(w, "down", token)
        latent = _norm(c.norm, w, "norm", down[: c.kv_rank])
        shared = turned(down[c.kv_rank :], p)
        keys.append([torch.cat((z, shared)) for z in _linear(w, "k", latent).split(k)])
        values.append(_linear(w, "v", latent).split(c.value_dim))
    out = []
    for i, p in enumerate(positions):
        read = [torch.zeros(c.value_dim, dtype=x.dtype)] * h
        for head in range(h if p >= 0 else 0):
            seen = [j for j, q in enumerate(positions) if _may_see(case, p, q)]
            weights = _softmax(
                [
                    _placed(case, w, (queries[i][head] * keys[j][head]).sum() * c.scale, head, p, q)
                    for j, q in ((j, positions[j]) for j in seen)
                ]
            )
            read[head] = sum(a * values[j][head] for a, j in zip(weights, seen, strict=True))
        out.append(_linear(w, "out", torch.cat(read)))
    return torch.stack(out)


# references: one sequence, one token, one channel at a time


def _real(rows: list[Tensor], positions: list[int]) -> list[tuple[int, Tensor]]:
    return [(p, row) for p, row in zip(positions, rows, strict=True) if p >= 0]


def _convolved(case: Any, w: Weights, name: str, rows: list[Tensor], positions: list[int]) -> Any:
    """A short convolution of each channel over the real tokens; zeros at pads."""
    kernel, size = w[f"{name}.weight"], w[f"{name}.weight"].shape[2]
    ahead = 0 if case.scope.causal else (size - 1) // 2
    table = dict(_real(rows, positions))
    out = []
    for row, p in zip(rows, positions, strict=True):
        y = torch.zeros_like(row)
        if p >= 0:
            for i in range(size):
                y = y + kernel[:, 0, i] * table.get(p + ahead - (size - 1 - i), 0 * row)
            y = y + w.get(f"{name}.bias", 0 * row)
        out.append(y)
    return out


def short_conv(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    case = _settled(case)
    n, gates = case.resolved.d_hidden, {"both": 2, "output": 1, "none": 0}[case.resolved.gates]
    parts = [_linear(w, "up", token).split(n) for token in x]
    inputs = [part[0] * (part[1] if gates == 2 else 1) for part in parts]
    mixed = _convolved(case, w, "conv", inputs, positions)
    rows = [z * (part[-1] if gates else 1) for z, part in zip(mixed, parts, strict=True)]
    return torch.stack([_linear(w, "out", row) for row in rows])


def _taps(case: Any, w: Weights, distance: int) -> Tensor:
    c, length = case.resolved, case.scope.max_seq_len
    place, n = distance / length, case.resolved.d_hidden
    waves = [2 * math.pi * i * place for i in range(1, c.filter_waves + 1)]
    features = [place, *(math.cos(a) for a in waves), *(math.sin(a) for a in waves)]
    z = torch.tensor(features, dtype=w["skip"].dtype)
    for layer in range(c.filter_depth):
        z = torch.sin(c.frequency * _linear(w, f"filter.hidden.{layer}", z))
    taps = _linear(w, "filter.out", z)
    slow, fast = (math.log(100) / share for share in (c.slow_decay, c.fast_decay))
    rates = [slow + (fast - slow) * i / max(1, n - 1) for i in range(n)]
    window = [math.sqrt(2 * a / length) * math.exp(-a * place) for a in rates]
    return taps * torch.tensor(window * (len(taps) // n), dtype=taps.dtype)


def long_conv(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    case = _settled(case)
    n = case.resolved.d_hidden
    causal = _settled(case, causal=True)
    short = _convolved(causal, w, "short", [_linear(w, "up", z) for z in x], positions)
    inputs = [row[:n] * row[n : 2 * n] for row in short]
    out = []
    for row, z, p in zip(short, inputs, positions, strict=True):
        y = w["skip"] * z
        for past, other in _real(inputs, positions) if p >= 0 else []:
            if past <= p:
                y = y + _taps(case, w, p - past)[:n] * other
            elif not case.scope.causal:
                y = y + _taps(case, w, past - p)[n:] * other
        out.append(_linear(w, "out", row[2 * n :] * y))
    return torch.stack(out)


def token_mlp(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    from references import activation

    case = _settled(case)
    c = case.resolved
    n = c.d_hidden // c.num_heads
    hidden = [activation(c.activation, _linear(w, "up", token)).split(c.d_hidden) for token in x]
    inputs = [_norm(c.norm, w, "norm", z) for _, z in hidden]
    out = []
    for (u, _), p in zip(hidden, positions, strict=True):
        heads = []
        for head in range(c.num_heads):
            place = max(p, 0)
            y = w["place_bias"][head, place].expand(n)
            for past, z in _real(inputs, positions):
                if case.scope.causal and past > p:
                    continue
                weight = w["weight"][head]
                factor = weight[p * (p + 1) // 2 + past] if case.scope.causal else weight[p, past]
                y = y + factor * z[head * n : (head + 1) * n]
            heads.append(y)
        out.append(_linear(w, "out", u * torch.cat(heads)))
    return torch.stack(out)


REFERENCES = {
    ("mixer", "latent_attention"): latent_attention,
    ("mixer", "short_conv"): short_conv,
    ("mixer", "long_conv"): long_conv,
    ("mixer", "token_mlp"): token_mlp,
    ("mixer", "attention"): attention,
    ("mixer", "differential_attention"): differential_attention,
    ("mixer", "memory"): memory,
    ("mlp", "memory"): memory,
    ("position", "relative"): relative,
}
