"""What an architecture costs, without allocating it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

from windtunnel.arch.linear_maps import linear_maps_cost, shared_nets_params
from windtunnel.arch.model import encoder_scope, scope_of
from windtunnel.arch.spec import Architecture, Encoder, LayerConfig
from windtunnel.nn.component import Scope, filled
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.embedding import EmbeddingConfig
from windtunnel.nn.memory_slots import SlotsConfig
from windtunnel.nn.streams import streams_of


@dataclass(frozen=True)
class PartCost:
    """The cost of one part; a run of equal layers is one part, named after the first."""

    name: str
    cost: Cost
    times: int = 1


@dataclass(frozen=True)
class ArchCost:
    """The cost of an architecture at one sequence length."""

    parts: tuple[PartCost, ...]
    seq_len: int
    source_len: int = 0
    """Tokens of the memory that is read, where there is one; all costs are per target token."""

    @property
    def total(self) -> Cost:
        """All parts together; what is shared is counted once."""
        return reduce(add, (p.cost * p.times for p in self.parts))

    @property
    def train_flops_per_token(self) -> Num:
        """Forward and backward: three forwards."""
        return 3 * self.total.forward_flops


def layer_cost(layer: LayerConfig, scope: Scope, t: Num, s: Num | None = None) -> Cost:
    """The cost of one layer: mixer, cross-attention to a memory of ``s`` tokens (``t`` unless
    told), feed-forward, norms, residuals and dropout. Shared parameters, a position's among them,
    count where they are owned, and the slots of a store not here; with a mixture of depths its
    capacity is taken as the part of tokens that are read."""
    if layer.depth is None:
        total = _whole_layer_cost(layer, scope, t, s)
    else:
        inner = _whole_layer_cost(layer, scope, layer.depth.read(t), t if s is None else s)
        total = layer.depth.thinned(inner)
        total += layer.depth.cost(scope, streams_of(layer.residual))
    if layer.linear is not None:
        total += linear_maps_cost(layer, scope, t)
    if layer.share_with is not None:
        return replace(total, params=0)
    total += reduce(add, (slots * -1 for _, slots in _stored(layer)), Cost())
    if layer.position_with is not None:
        return replace(total, params=total.params - _position_params(layer, scope, t))
    return total


def _stored(layer: LayerConfig) -> Iterator[tuple[str, Cost]]:
    """The stores that the layer's parts read, by name, and what their slots cost."""
    for part in (layer.mixer, layer.mlp):
        if isinstance(part, SlotsConfig) and part.store is not None:
            yield part.store, part.slots_cost()


def _position_params(layer: LayerConfig, scope: Scope, t: Num) -> Num:
    """The parameters of the mixer's position, which another layer owns."""
    mixer: Any = layer.mixer
    inside = scope.inside(filled(mixer.num_heads), filled(mixer.head_dim))
    return mixer.position.cost(inside, t).params


def _whole_layer_cost(layer: LayerConfig, scope: Scope, t: Num, s: Num | None) -> Cost:
    branches = [layer.mixer.cost(scope, t)]
    if layer.cross is not None:
        branches.append(layer.cross.cost(scope, t, s))
    if layer.mlp.type != "none":
        branches.append(layer.mlp.cost(scope, t))
    total = Cost()
    norms = {"pre": 1, "post": 1, "sandwich": 2, "out": 1, "none": 0}[layer.placement]
    norm = layer.norm.cost(scope, t)
    if layer.placement == "post":  # which norms each stream
        streams = streams_of(layer.residual) or 1
        kept = norm.activation_values * streams
        norm = replace(norm, activation_values=kept, wide_values=norm.wide_values * streams)
    for body in branches:
        total += body + layer.residual.cost(scope, t)
        if layer.norm.type != "none":
            total += norm * norms
        if layer.dropout:
            total += Cost(activation_values=scope.d_model)
    if layer.shared_norm and layer.mlp.type != "none" and layer.placement in ("pre", "sandwich"):
        total += layer.norm.cost(scope, t) * -1
    return total


def cost(
    architecture: Architecture, seq_len: int | None = None, *, source_len: int | None = None
) -> ArchCost:
    """The cost by part at ``seq_len`` tokens (the architecture's ``max_seq_len`` unless told).

    Where a memory is read it has ``source_len`` tokens, as many as the target unless told. The
    encoder's cost is shared out among the target's tokens; while decoding it has run before.

    >>> from windtunnel.arch import ArchSpec, resolve
    >>> spec = ArchSpec(d_model=64, vocab_size=100, layers=({"mixer": "lstm"},))
    >>> cost(resolve(spec)).total.params
    88832
    """
    t = seq_len or architecture.max_seq_len
    s = source_len or t
    scope = scope_of(architecture)
    parts = [PartCost("embedding", _embedding_cost(architecture, architecture.embedding, scope, t))]
    if architecture.encoder is not None:
        parts += _encoder_parts(architecture, architecture.encoder, t, s)
    parts += _layer_parts("layers", architecture.layers, scope, t, s)
    parts += _nets_part("linear_nets", architecture.layers, scope)
    parts.append(PartCost("head", architecture.head.cost(scope, t)))
    if architecture.type == "encoder":
        parts = [replace(part, cost=_not_decoding(part.cost)) for part in parts]
    return ArchCost(tuple(parts), t, s if architecture.reads_memory else 0)


def _embedding_cost(
    architecture: Architecture, config: EmbeddingConfig, scope: Scope, t: Num
) -> Cost:
    if architecture.input == "tokens":
        return config.cost(scope, t)
    return config.cost_without_table(scope, t)


def _encoder_parts(architecture: Architecture, encoder: Encoder, t: Num, s: Num) -> list[PartCost]:
    """The parts of an encoder that reads ``s`` tokens, per token of the ``t`` of the target."""
    scope = encoder_scope(architecture)
    own = encoder.embedding
    embedding = _embedding_cost(architecture, own or architecture.embedding, scope, s)
    parts = [
        PartCost("encoder.embedding", embedding if own else replace(embedding, params=0)),
        *_layer_parts("encoder.layers", encoder.layers, scope, s, None),
        *_nets_part("encoder.linear_nets", encoder.layers, scope),
        PartCost("encoder.norm", encoder.norm.cost(scope, s)),
    ]
    return [replace(p, cost=_shared_out(_not_decoding(p.cost), s / t)) for p in parts]


def _not_decoding(cost: Cost) -> Cost:
    return replace(cost, decode_flops=0, state_values=0, state_values_per_token=0)


def _shared_out(cost: Cost, share: Num) -> Cost:
    return replace(
        cost,
        forward_flops=cost.forward_flops * share,
        activation_values=cost.activation_values * share,
        wide_values=cost.wide_values * share,
        working_values=cost.working_values * share,
    )


def _layer_parts(
    name: str, layers: tuple[LayerConfig, ...], scope: Scope, t: Num, s: Num | None
) -> list[PartCost]:
    parts = [
        PartCost(f"{name}.{first}", layer_cost(layer, scope.at(first), t, s), last - first + 1)
        for first, last, layer in _groups(layers)
    ]
    stores = {store: slots for layer in layers for store, slots in _stored(layer)}
    at = name.removesuffix("layers") + "stores"
    return [PartCost(f"{at}.{store}", slots) for store, slots in stores.items()] + parts


def _nets_part(name: str, layers: tuple[LayerConfig, ...], scope: Scope) -> list[PartCost]:
    """The parameters of networks that all layers share; each layer has the FLOPs of its own use."""
    params = shared_nets_params(layers, scope)
    return [PartCost(name, Cost(params=params))] if params else []


def _groups(layers: tuple[LayerConfig, ...]) -> Iterator[tuple[int, int, LayerConfig]]:
    """Runs of equal layers: (first, last, layer)."""
    start = 0
    for index in range(1, len(layers) + 1):
        if index == len(layers) or (
            layers[index] is not layers[start] and layers[index] != layers[start]
        ):
            yield start, index - 1, layers[start]
            start = index
