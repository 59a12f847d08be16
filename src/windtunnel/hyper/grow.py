"""Larger architectures from smaller weights, so that what is computed stays the same.

Wider: every channel is copied k times, and what reads the copies sums them (Net2Net, Chen et al.
2016, arXiv 1511.05641, section 3.1, with equal shares). All channels have equally many copies, so
means and variances of layer norms do not change, and the growth is exact.

Deeper: layers between the known ones that hand on what they get. With a residual they write
nothing; without one they are maps that are nearly the identity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from windtunnel.arch import Architecture
from windtunnel.arch.spec import LayerConfig
from windtunnel.hyper.anatomy import GATES, Anatomy, Slot, anatomy_of
from windtunnel.hyper.limits import Limits
from windtunnel.nn.initialize import keyed_generator

_NOISE = 0.5
"""What breaks the symmetry of copies, over the deviation that a fresh map would have; it sums to 0
over the copies, so it changes nothing before the first step."""
_HANDED_ON = 0.25
"""The scale at which a recurrent layer hands on its input: small enough for tanh to be linear."""
_NARROWEST = 8
"""No architecture is grown from fewer channels (unless it is as narrow itself)."""
_SHUT = 4.0
"""The logit of a gate that is nearly open; its opposite nearly shuts one."""


@dataclass(frozen=True)
class Growth:
    """What lies between a known size and an architecture."""

    small: Anatomy
    """Of a size that can be predicted, with the known vocabulary and positions."""
    large: Anatomy
    copies: int
    """Of each channel of the stream, of heads and of hidden units."""
    ff_copies: int
    """Of each channel of feed-forwards."""
    q_scale: float
    """Of queries and of keys."""

    @property
    def notes(self) -> tuple[str, ...]:
        """In words."""
        found = []
        if self.copies > 1:
            found.append(f"grown from d_model {self.small.d_model} to {self.large.d_model}")
        if self.ff_copies not in (1, self.copies):
            found.append(f"feed-forwards grown from {self.small.d_ff} to {self.large.d_ff}")
        if self.small.n_layer < self.large.n_layer:
            found.append(f"grown from {self.small.n_layer} layers to {self.large.n_layer}")
        return tuple(found)


def growth_of(architecture: Architecture, limits: Limits, n_layer: int) -> Growth | None:
    """How to come to an architecture from one within the limits; None where there is no way."""
    large = anatomy_of(architecture)
    first = architecture.layers[0]
    head_dim = getattr(first.mixer, "head_dim", None) or large.d_model
    copies = _divisor(head_dim, large.d_model / limits.d_model)
    known_ff = limits.d_ff or large.d_ff  # a network without feed-forwards leaves them out
    ff_copies = _divisor(large.d_ff, large.d_ff / known_ff) if large.d_ff else 1
    if copies is None or ff_copies is None or (copies > 1 and large.d_model // copies < _NARROWEST):
        return None
    layers = min(n_layer, large.n_layer)
    if ff_copies > 1 and not _alike(architecture):
        return None
    if copies > 1 and not _can_widen(architecture, large):
        return None
    if layers < large.n_layer and not _can_deepen(architecture, large):
        return None
    changes = {"d_model": large.d_model // copies, "vocab_size": limits.vocab_size or 1}
    changes["max_seq_len"] = min(large.max_seq_len, limits.max_seq_len)
    narrow = tuple(_narrow(one, copies, ff_copies) for one in architecture.layers[:layers])
    small = architecture.replace(**changes, layers=narrow)
    q_scale = _q_scale(getattr(first.mixer, "scale", None), head_dim, copies)
    return Growth(anatomy_of(small), large, copies, ff_copies, q_scale)


def _q_scale(scale: float | None, head_dim: int, copies: int) -> float:
    """What queries and keys are multiplied by: a product of copies is so many times as large, and
    the usual scale of logits, 1/√head_dim, is smaller."""
    usual = scale is None or math.isclose(scale, head_dim**-0.5)
    return math.pow(copies, -0.25 if usual else -0.5)


def _can_widen(architecture: Architecture, large: Anatomy) -> bool:
    """Whether copies of channels compute the same: layers are alike, all parts are known, nothing
    turns pairs of channels or hangs on the width, and a tied head has something to take the sum of
    copies back."""
    first = architecture.layers[0]
    turned = getattr(getattr(first.mixer, "position", None), "type", "none") != "none"
    embedding = architecture.embedding
    scaled = embedding.scale or architecture.head.scale is not None
    if not _alike(architecture) or large.unknown or turned or scaled:
        return False
    roles = {slot.role for slot in large.slots}
    plain = embedding.norm.type == "none" and "position" not in roles
    ends = "head_norm_weight" in roles or (_recurs(large, 0) and plain)
    return not large.tied or ends


def _alike(architecture: Architecture) -> bool:
    """Whether all layers are configured alike."""
    return all(layer == architecture.layers[0] for layer in architecture.layers)


def _can_deepen(architecture: Architecture, large: Anatomy) -> bool:
    """Whether a layer can hand on what it gets: it adds to a stream that it reads through its norm,
    or it is a recurrence alone. Parts that are not known keep values of their own at any depth."""
    first = architecture.layers[0]
    if not _alike(architecture):
        return False
    if first.residual.type == "add":
        return first.placement in ("pre", "none")
    return _recurs(large, 0) and first.mlp.type == "none" and first.placement == "none"


def _divisor(size: int, least: float) -> int | None:
    """The smallest divisor of a size that is at least so much."""
    return next((k for k in range(max(1, math.ceil(least)), size + 1) if size % k == 0), None)


def _narrow(layer: LayerConfig, copies: int, ff_copies: int) -> LayerConfig:
    """A layer's config with fewer channels."""
    found: dict[str, Any] = {}
    mixer: Any = layer.mixer
    mlp: Any = layer.mlp
    for name in ("head_dim", "d_hidden"):
        if getattr(mixer, name, None):
            mixer = mixer.model_copy(update={name: getattr(mixer, name) // copies})
            found["mixer"] = mixer
    if getattr(mlp, "d_ff", None):
        found["mlp"] = mlp.model_copy(update={"d_ff": mlp.d_ff // ff_copies})
    return layer.model_copy(update=found)


def grown(weights: Mapping[str, Tensor], growth: Growth, seed: int = 0) -> dict[str, Tensor]:
    """The weights of the large architecture that compute what the small ones do.

    Vocabulary and positions stay as they are.
    """
    deep = deepened(weights, growth)
    if growth.copies == growth.ff_copies == 1:
        return deep
    return _widened(deep, growth, seed)


# Wider


def _widened(weights: Mapping[str, Tensor], growth: Growth, seed: int) -> dict[str, Tensor]:
    normed = any(slot.role == "head_norm_weight" for slot in growth.large.slots)
    found = {}
    for slot in growth.large.slots:
        if slot.name not in weights:
            continue
        value = weights[slot.name]
        writes, reads = _sides(slot)
        for dimension, axis in enumerate(slot.axes):
            copies = _copies(axis, growth)
            if dimension in writes + reads:
                value = value.repeat_interleave(copies, dim=dimension)
        for dimension in reads:
            copies = _copies(slot.axes[dimension], growth)
            value = _shared(value, dimension, copies, (seed, slot.name))
        found[slot.name] = value * _factor(slot, growth, normed=normed)
    return found


def _sides(slot: Slot) -> tuple[list[int], list[int]]:
    """The dimensions that write channels, and those that read them."""
    last = len(slot.axes) - 1
    if slot.role in ("embedding", "position"):
        return [last], []
    if slot.role == "head":
        return [], [last]
    return ([0], [last]) if last else ([0], [])


def _copies(axis: str, growth: Growth) -> int:
    if axis in ("vocab", "position"):
        return 1
    return growth.ff_copies if axis == "ff" else growth.copies


def _shared(value: Tensor, dimension: int, copies: int, key: tuple[object, ...]) -> Tensor:
    """A map that reads ``copies`` of each channel: equal shares, and noise that sums to 0."""
    if copies == 1:
        return value
    noise = torch.randn(value.shape, generator=keyed_generator(0, "grow", *key)).to(value)
    shape = noise.shape
    apart = noise.view(*shape[:dimension], -1, copies, *shape[dimension + 1 :])
    apart = apart - apart.mean(dimension + 1, keepdim=True)
    size = _NOISE * float(value.std()) / math.sqrt(copies)
    spread: Tensor = value / copies + size * apart.reshape(shape)
    return spread


def _factor(slot: Slot, growth: Growth, *, normed: bool) -> float:
    """What else a tensor is multiplied with: see each line."""
    copies = growth.copies
    if slot.role in ("q_weight", "q_bias", "k_weight", "k_bias"):
        return growth.q_scale  # a product of k times as many channels, under another scale
    if growth.large.tied:  # the embedding's copies are read as a head's, and summed
        if slot.role.startswith("head_norm"):
            return 1 / copies
        if slot.role == "embedding" and not normed:
            return 1 / copies
        first = growth.large.ops[slot.op].layer == 0
        if not normed and first and slot.role.endswith("_weight_ih"):
            return float(copies)
    return 1.0


# Deeper


def deepened(weights: Mapping[str, Tensor], growth: Growth) -> dict[str, Tensor]:
    """The weights of as many layers as the large architecture has, at the small one's widths."""
    small, layers = growth.small, growth.large.n_layer
    if small.n_layer == layers:
        return dict(weights)
    real = {(j + 1) * layers // small.n_layer - 1: j for j in range(small.n_layer)}
    found = {
        slot.name: weights[slot.name]
        for slot in small.slots
        if small.ops[slot.op].layer is None and slot.name in weights
    }
    handed_on = False
    for layer in range(layers):
        source = min(j for place, j in real.items() if place >= layer)
        copy = layer not in real
        for slot in small.slots:
            if small.ops[slot.op].layer != source or slot.name not in weights:
                continue
            value = weights[slot.name]
            if copy:
                value = _idle(slot, value, first=not handed_on)
            elif handed_on and slot.role.endswith("_weight_ih"):
                value = value / _HANDED_ON
            found[_renamed(slot.name, source, layer)] = value
        handed_on = copy and _recurs(small, source)
    return found


def _recurs(anatomy: Anatomy, layer: int) -> bool:
    """Whether a layer is a recurrence that no residual leads past."""
    own = [op for op in anatomy.ops if op.layer == layer and op.kind in GATES]
    return any(not anatomy.segments[op.segment].skipped for op in own)


def _renamed(name: str, old: int, new: int) -> str:
    return name.replace(f"layers.{old}.", f"layers.{new}.", 1)


def _idle(slot: Slot, value: Tensor, *, first: bool) -> Tensor:
    """A tensor of a layer that hands on what it gets."""
    kind = slot.role.removeprefix("glu_").partition("_")[0]
    if kind in ("out", "down"):
        return torch.zeros_like(value)
    if kind not in GATES:
        return value
    idle = torch.zeros_like(value)
    gates = idle.view(GATES[kind], -1, *idle.shape[1:])
    if slot.role.endswith("weight_ih"):
        new = gates[{"rnn": 0, "lstm": 2, "gru": 2}[kind]]
        new.copy_(torch.eye(new.shape[0]).to(value) * (_HANDED_ON if first else 1.0))
    elif slot.role.endswith("bias_ih") and kind == "lstm":
        gates[0], gates[1], gates[3] = _SHUT, -_SHUT, _SHUT
    elif slot.role.endswith("bias_ih") and kind == "gru":
        gates[1] = -_SHUT
    return idle
