"""Every optimizer once more, naively: one weight at a time, in float64, from the equations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from windtunnel.train.optimizers import config as c
from windtunnel.train.optimizers.muon import COEFFICIENTS

Array = Any
Step = Callable[[Array, Array, int, float, float], Array]
"""(weight, gradient, step from 1, learning rate, decay) -> the next weight."""


def adam(config: c.AdamConfig | c.AdamWConfig) -> Step:
    (b1, b2), eps = config.betas or (0.9, 0.95), config.eps or 1e-8
    past: list[Array] = []

    def step(w: Array, g: Array, t: int, lr: float, decay: float) -> Array:
        if config.type == "adam":
            g, decay = g + decay * w, 0.0
        past.append(g)
        m = sum((1 - b1) * b1 ** (t - 1 - i) * p for i, p in enumerate(past)) / (1 - b1**t)
        v = sum((1 - b2) * b2 ** (t - 1 - i) * p * p for i, p in enumerate(past)) / (1 - b2**t)
        return w - lr * decay * w - lr * m / (np.sqrt(v) + eps)

    return step


def adagrad(config: c.AdagradConfig) -> Step:
    past: list[Array] = []

    def step(w: Array, g: Array, t: int, lr: float, decay: float) -> Array:
        past.append(g * g)
        return w - lr * decay * w - lr * g / (np.sqrt(config.initial + sum(past)) + config.eps)

    return step


def sgd(config: c.SGDConfig) -> Step:
    past: list[Array] = []

    def step(w: Array, g: Array, t: int, lr: float, decay: float) -> Array:
        past.append(g)
        b = sum(config.momentum ** (t - 1 - i) * p for i, p in enumerate(past))
        move = g + config.momentum * b if config.nesterov else b
        return w - lr * decay * w - lr * move

    return step


def rmsprop(config: c.RMSpropConfig) -> Step:
    a, past, moves = config.alpha, [], []

    def step(w: Array, g: Array, t: int, lr: float, decay: float) -> Array:
        past.append(g)
        weights = [(1 - a) * a ** (t - 1 - i) for i in range(t)]
        v = sum(k * p * p for k, p in zip(weights, past, strict=True))
        if config.centered:
            v = v - sum(k * p for k, p in zip(weights, past, strict=True)) ** 2
        moves.append(g / (np.sqrt(v) + config.eps))
        b = sum(config.momentum ** (t - 1 - i) * p for i, p in enumerate(moves))
        return w - lr * decay * w - lr * b

    return step


def adafactor(config: c.AdafactorConfig) -> Step:
    eps1, eps2 = config.eps or (np.finfo(np.float64).eps, 1e-3)
    kept: dict[str, Array] = {}

    def step(w: Array, g: Array, t: int, lr: float, decay: float) -> Array:
        new = t**config.beta2_decay
        rho = max(eps2, float(np.sqrt((w**2).mean()))) * min(lr, t**-0.5)
        for key, found in (
            ("row", (g * g).mean(-1) if g.ndim > 1 else g * g),
            ("column", (g * g).mean(-2) if g.ndim > 1 else g * g),
        ):
            kept[key] = (1 - new) * kept.get(key, 0.0) + new * found
        v = kept["row"]
        if g.ndim > 1:
            v = np.outer(kept["row"], kept["column"]) / max(kept["row"].mean(), eps1)
        u = g / np.sqrt(np.maximum(v, eps1**2))
        u = u / max(1.0, float(np.sqrt((u * u).mean())) / config.threshold)
        return w - lr * decay * w - rho * u

    return step


def lion(config: c.LionConfig) -> Step:
    b1, b2 = config.betas
    past: list[Array] = []

    def step(w: Array, g: Array, t: int, lr: float, decay: float) -> Array:
        m = sum((1 - b2) * b2 ** (t - 2 - i) * p for i, p in enumerate(past))
        past.append(g)
        return w - lr * (np.sign(b1 * m + (1 - b1) * g) + decay * w)

    return step


def muon(config: c.MuonConfig) -> Step:
    """By singular values: Newton and Schulz's polynomial acts on each of them by itself."""
    mu, past = config.momentum, []

    def step(w: Array, g: Array, t: int, lr: float, decay: float) -> Array:
        past.append(g)
        m = sum((1 - mu) * mu ** (t - 1 - i) * p for i, p in enumerate(past))
        left, s, right = np.linalg.svd(
            mu * m + (1 - mu) * g if config.nesterov else m, full_matrices=False
        )
        s = s / np.sqrt((s * s).sum())
        p, q, r = COEFFICIENTS
        for _ in range(config.steps):
            s = p * s + q * s**3 + r * s**5
        a, b = w.shape
        size = 0.2 * math.sqrt(max(a, b))
        if config.adjust == "original":
            size = math.sqrt(max(1, a / b))
        return w - lr * decay * w - lr * size * (left * s) @ right

    return step


def soap(config: c.SOAPConfig) -> Step:
    (b1, b2), eps = config.betas, config.eps
    kept: dict[str, Array] = {}

    def step(w: Array, g: Array, t: int, lr: float, decay: float) -> Array:
        g2 = g if g.ndim == 2 else g.reshape(1, -1)
        sides = [(0, g2 @ g2.T), (1, g2.T @ g2)]
        for side, gram in sides:
            kept[f"gram{side}"] = b2 * kept.get(f"gram{side}", 0.0) + (1 - b2) * gram
            turns = g.ndim == 2 and len(gram) <= config.max_dim
            if t == 1:
                eigen = np.linalg.eigh(kept[f"gram{side}"])[1]
                kept[f"q{side}"] = eigen if turns else np.eye(len(gram))
        kept["m"] = b1 * kept.get("m", 0.0) + (1 - b1) * g2
        q0, q1 = kept["q0"], kept["q1"]
        kept["v"] = b2 * kept.get("v", 0.0) + (1 - b2) * (q0.T @ g2 @ q1) ** 2
        n = q0.T @ kept["m"] @ q1 / (1 - b1**t) / (np.sqrt(kept["v"] / (1 - b2**t)) + eps)
        moved = w - lr * decay * w - lr * (q0 @ n @ q1.T).reshape(w.shape)
        if t % config.every == 0:
            for side, gram in sides:
                if g.ndim == 2 and len(gram) <= config.max_dim:
                    kept[f"q{side}"] = np.linalg.qr(kept[f"gram{side}"] @ kept[f"q{side}"])[0]
        return moved

    return step


def schedule_free(config: c.ScheduleFreeConfig) -> Step:
    """The weights that gradients are taken at; ``step.average`` is x."""
    (b1, b2), eps = config.betas, config.eps
    kept: dict[str, Array] = {"v": 0.0, "weights": 0.0}

    def step(y: Array, g: Array, t: int, lr: float, decay: float) -> Array:
        z, x = kept.get("z", y), kept.get("x", y)
        kept["v"] = b2 * kept["v"] + (1 - b2) * g * g
        kept["z"] = z - lr * (g / (np.sqrt(kept["v"] / (1 - b2**t)) + eps) + decay * y)
        kept["weights"] += lr**2
        part = lr**2 / kept["weights"]
        kept["x"] = (1 - part) * x + part * kept["z"]
        return (1 - b1) * kept["z"] + b1 * kept["x"]

    step.kept = kept  # type: ignore[attr-defined]
    return step


REFERENCES: dict[str, Callable[[Any], Step]] = {
    "adafactor": adafactor,
    "adagrad": adagrad,
    "adam": adam,
    "adamw": adam,
    "lion": lion,
    "muon": muon,
    "rmsprop": rmsprop,
    "schedule_free_adamw": schedule_free,
    "sgd": sgd,
    "soap": soap,
}

ROWS: tuple[c.OptimizerConfig, ...] = (
    c.AdamWConfig(),
    c.AdamWConfig(betas=(0.8, 0.9), eps=1e-3),
    c.AdamConfig(),
    c.AdamConfig(l2=0.2),
    c.AdagradConfig(),
    c.AdagradConfig(initial=0.5, eps=1e-2),
    c.SGDConfig(),
    c.SGDConfig(momentum=0.0),
    c.SGDConfig(momentum=0.8, nesterov=True),
    c.RMSpropConfig(),
    c.RMSpropConfig(alpha=0.9, momentum=0.5, centered=True, eps=1e-3),
    c.AdafactorConfig(),
    c.AdafactorConfig(beta2_decay=-0.5, eps=(1e-6, 1e-2), threshold=1.5),
    c.LionConfig(),
    c.LionConfig(betas=(0.5, 0.7)),
    c.MuonConfig(),
    c.MuonConfig(nesterov=False, steps=3, momentum=0.8, adjust="original"),
    c.SOAPConfig(every=2, eps=1e-3),
    c.SOAPConfig(max_dim=4, betas=(0.8, 0.9), eps=1e-3),
    c.ScheduleFreeConfig(),
    c.ScheduleFreeConfig(betas=(0.5, 0.9), eps=1e-3),
)
"""Configs on which every contract of the registry is checked."""


def ident(config: c.OptimizerConfig) -> str:
    given = config.model_dump(exclude_unset=True)
    return "-".join([config.type, *(str(key) for key in given)])
