"""Statistics of gradients, weights, updates and activations of one step. They change no bit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.train.distributed.world import ALONE, World, whole_tensor

LAYER = re.compile(r"((?:encoder\.|decoder\.)?layers\.\d+)(?:\.(\w+))?")
"""What stands for itself among a model's modules and parameters: each part of each layer."""


def part_of(name: str) -> str:
    """The part of a model that a parameter is counted to.

    >>> part_of("layers.3.mixer.q.weight"), part_of("embedding.weight"), part_of("gate")
    ('layers.3.mixer', 'embedding', 'gate')
    """
    layer = LAYER.match(name)
    if layer is not None:
        return layer[0] if "." in name[layer.end() :] else layer[1]
    return name.partition(".")[0]


class Watch:
    """One step, looked at: use it around the forward and backward, then around the update.

    Of several processes all look at the same steps, and each gets the values of all together.
    """

    def __init__(self, model: nn.Module, world: World = ALONE) -> None:
        self._model = model
        self._world = world
        self._squares: dict[str, list[tuple[Tensor, int]]] = {}
        """By module, in the order of modules: the sum of squares and how many numbers, per call."""
        self._hooks: list[Any] = []
        self._before: dict[str, Tensor] = {}
        self._parts: dict[str, dict[str, float | None]] = {}

    def __enter__(self) -> Watch:
        for name, module in self._model.named_modules():
            layer = LAYER.fullmatch(name)
            if (layer is not None and layer[2] is None) or (name and "." not in name):
                self._squares[name] = []
                self._hooks.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def begin_anew(self) -> None:
        """Forgets what the modules gave so far: an attempt at the step has failed."""
        for calls in self._squares.values():
            calls.clear()

    def _hook(self, name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                square = output.detach().float().square().sum()
                self._squares[name].append((square, output.numel()))

        return look

    @torch.no_grad()
    def before_update(self, parameters: Mapping[str, Tensor]) -> None:
        """Looks at the gradients, before they are cut, and keeps the weights."""
        for part, names in _by_part(parameters).items():
            grads = [g for name in names if (g := parameters[name].grad) is not None]
            self._parts[part] = {"grad_norm": _norm(grads)}
        self._before = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def after_update(self, parameters: Mapping[str, Tensor]) -> None:
        """Compares the weights with those before."""
        for part, names in _by_part(parameters).items():
            weight = _norm([self._before[name] for name in names])
            update = _norm([parameters[name] - self._before[name] for name in names])
            ratio = update / weight if weight else None
            self._parts[part] |= {"weight_norm": weight, "update_ratio": ratio}
        self._before = {}

    def values(self) -> dict[str, Any]:
        """``parts``: the norm of gradient and weights, and the update's norm over the weights', of
        each part; ``activations``: the root mean square of what each layer gives, by its name."""
        seen = self._squares.values()
        # Each process has seen its own rows of the batch.
        totals = torch.tensor(
            [[sum(float(s) for s, _ in calls), sum(n for _, n in calls)] for calls in seen],
            dtype=torch.float64,
        )
        self._world.add(totals)
        activations = {
            name: (square / count) ** 0.5
            for name, (square, count) in zip(self._squares, totals.tolist(), strict=True)
            if count
        }
        return {"parts": self._parts, "activations": activations}


def _by_part(parameters: Mapping[str, Tensor]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for name in parameters:
        parts.setdefault(part_of(name), []).append(name)
    return parts


def _norm(tensors: list[Tensor]) -> float:
    return float(whole_tensor(torch.nn.utils.get_total_norm(tensors))) if tensors else 0.0
