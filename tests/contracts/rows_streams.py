"""Rows of residuals of several streams. Their input is t n d, one row of streams for each token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]

VARIANTS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("residual", "hyper"): [
        {},
        {"dynamic": False},
        {"streams": 3},
        {"streams": 1},
        {"streams": 2, "dynamic": False},
    ],
    ("residual", "manifold_hyper"): [{}, {"streams": 2, "iterations": 3}, {"streams": 3}],
}

KNOBS: dict[tuple[str, str], dict[str, tuple[dict[str, Any], Any]]] = {
    ("residual", "hyper"): {"streams": ({}, 3), "dynamic": ({}, False)},
    ("residual", "manifold_hyper"): {"streams": ({}, 3), "iterations": ({}, 1)},
}


def _tanh(x: Tensor) -> Tensor:
    return (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x))


def _sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def _normed(x: Tensor) -> Tensor:
    return x / ((x * x).sum() / len(x) + 1e-6).sqrt()


def _joined(x: list[Tensor], read: list[Any], write: list[Any], mix: list[list[Any]]) -> Tensor:
    """``mix[i][j]``: how much of stream i goes to stream j. The branch turns what it reads."""
    n = len(x)
    y = sum(read[i] * x[i] for i in range(n)).flip(-1)
    rows = [sum(mix[i][j] * x[i] for i in range(n)) + write[j] * y for j in range(n)]
    return torch.stack(rows)


def hyper(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    n = case.resolved.streams
    out = []
    for streams in x:
        write, read = list(w["write"]), list(w["read_from"])
        mix = [[w["mix"][i * n + j] for j in range(n)] for i in range(n)]
        if case.resolved.dynamic:
            s_beta, s_alpha = w["scale"]
            for i in range(n):
                said = [_tanh((row * _normed(streams[i])).sum()) for row in w["predict"]]
                write[i] = write[i] + s_beta * said[0]
                read[i] = read[i] + s_alpha * said[1]
                for j in range(n):
                    mix[i][j] = mix[i][j] + s_alpha * said[2 + j]
        out.append(_joined(list(streams), read, write, mix))
    return torch.stack(out)


def manifold_hyper(case: Any, w: Weights, x: Tensor, positions: list[int]) -> Tensor:
    n = case.resolved.streams
    out = []
    for streams in x:
        normed = _normed(torch.cat(list(streams)))
        z = [(row * normed).sum() for row in w["predict"]]
        a_read, a_write, a_mix = w["scale"]
        read = [_sigmoid(a_read * z[i] + w["bias"][i]) for i in range(n)]
        write = [2 * _sigmoid(a_write * z[n + i] + w["bias"][n + i]) for i in range(n)]
        grid = torch.stack(
            [torch.exp(a_mix * z[k] + w["bias"][k]) for k in range(2 * n, n * (n + 2))]
        ).view(n, n)
        for _ in range(case.resolved.iterations):
            grid = grid / grid.sum(0, keepdim=True)
            grid = grid / grid.sum(1, keepdim=True)
        mix = [[grid[j, i] for j in range(n)] for i in range(n)]
        out.append(_joined(list(streams), read, write, mix))
    return torch.stack(out)


REFERENCES = {("residual", "hyper"): hyper, ("residual", "manifold_hyper"): manifold_hyper}
