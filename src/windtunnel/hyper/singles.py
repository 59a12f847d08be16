"""The honest rival: parameters cut out of single trained models, without any hypernetwork."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from windtunnel.arch import Architecture, build
from windtunnel.hyper.anatomy import GATES, Anatomy, Slot, anatomy_of
from windtunnel.hyper.graph import Graph
from windtunnel.hyper.limits import TABLES, Limits, corner
from windtunnel.train.batch import BatchSource
from windtunnel.train.config import TrainConfig
from windtunnel.train.loop import create_train_state, train_steps


def source_key(anatomy: Anatomy) -> str:
    """Which trained model an architecture is cut from: by its kind of layers."""
    return next((op.kind for op in anatomy.ops if op.kind in GATES), "attention")


Place: TypeAlias = tuple[str, int | None, int]
"""A role, a layer, and which one of its role it is there: a layer has several norms."""


def _placed(anatomy: Anatomy) -> list[tuple[Place, Slot]]:
    """The slots of an anatomy with the place of each; no two have the same."""
    seen: Counter[tuple[str, int | None]] = Counter()
    found = []
    for slot in anatomy.slots:
        where = (slot.role, anatomy.ops[slot.op].layer)
        found.append(((*where, seen[where]), slot))
        seen[where] += 1
    return found


class Singles(nn.Module):
    """A trained model of each kind, and parameters of other sizes cut out of it.

    A tensor is the corner of the one at the same place along the depth, times √(N / n) for maps of
    n inputs cut out of N: exactly what nested banks do to theirs, so only the training differs.
    Where the source is tied and the architecture is not, its head is the source's table too, which
    computes the same.
    """

    def __init__(self, sources: Mapping[str, Architecture]) -> None:
        super().__init__()
        self.sources = dict(sources)
        anatomies = {key: anatomy_of(architecture) for key, architecture in sources.items()}
        self.limits = Limits.of(anatomies.values())
        self._own = {key: Limits.of([anatomy]) for key, anatomy in anatomies.items()}
        self._slots = {key: dict(_placed(anatomy)) for key, anatomy in anatomies.items()}
        self._layers = {key: anatomy.n_layer for key, anatomy in anatomies.items()}
        self.models = nn.ModuleDict({key: build(a) for key, a in sources.items()})

    def reach(self, anatomy: Anatomy) -> tuple[Limits, int | None]:
        """The largest sizes that an architecture is cut from, and the layers of its source."""
        key = source_key(anatomy)
        return self._own.get(key, self.limits), self._layers.get(key)

    def weights(self, anatomy: Anatomy, graph: Graph | None = None) -> dict[str, Tensor]:
        """The tensors of an architecture at most as large, by name; none of an unknown kind."""
        key = source_key(anatomy)
        if key not in self.sources:
            return {}
        tensors = dict(self.models[key].named_parameters())
        found = {}
        for place, slot in _placed(anatomy):
            source = self._source(key, place, anatomy)
            if source is not None:
                found[slot.name] = self._cut(tensors[source.name], slot, source, key)
        return found

    def _source(self, key: str, place: Place, anatomy: Anatomy) -> Slot | None:
        role, layer, number = place
        if layer is not None:
            layer = int((layer + 0.5) / anatomy.n_layer * self._layers[key])
        found = self._slots[key].get((role, layer, number))
        if found is None and role == "head":
            found = self._slots[key].get(("embedding", None, 0))
        return found

    def _cut(self, value: Tensor, slot: Slot, source: Slot, key: str) -> Tensor:
        is_map = len(slot.shape) > 1 and slot.role not in TABLES
        scale = math.sqrt(source.shape[-1] / slot.shape[-1]) if is_map else 1.0
        if "gates" in slot.axes:
            kind = slot.role.partition("_")[0]
            value = value.view(GATES[kind], -1, *value.shape[1:])
        return corner(value[None], slot, self._own[key])[0] * scale


def train_single(
    model: nn.Module,
    batches: BatchSource,
    config: TrainConfig,
    *,
    seconds: float,
    tell: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> dict[str, Any]:
    """Trains a model for about ``seconds`` of the process's computing time; what it took.

    The number of steps follows from the time of the first ones, whose updates are thrown away. The
    model ends with the average of its weights where the recipe keeps one.

    Args:
        tell: is told each step, how many there will be, and the running mean of the loss.
    """
    kept = {name: value.detach().clone() for name, value in model.named_parameters()}
    probe = create_train_state(model, batches, config.replace(steps=12))
    times = [time.process_time() for _ in train_steps(probe)]
    step = (times[-1] - times[1]) / (len(times) - 2)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(kept[name])
    steps = max(20, int(seconds / step))
    began = time.process_time()
    state = create_train_state(model, batches, config.replace(steps=steps))
    loss = math.nan
    for info in train_steps(state):
        loss = info.loss if math.isnan(loss) else 0.98 * loss + 0.02 * info.loss
        tell(info.step, steps, loss)
    if state.ema is not None:
        state.ema.swap(state.weights.parameters)
    return {"steps": steps, "seconds": time.process_time() - began, "loss": loss}
