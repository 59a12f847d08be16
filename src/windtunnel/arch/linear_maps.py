"""What ``layers[].linear`` gives to the linear maps of a stack, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import torch
from torch import nn

from windtunnel.arch.spec import LayerConfig
from windtunnel.nn.component import Scope, build_component
from windtunnel.nn.cost import Cost, Num
from windtunnel.nn.cross_attention import CrossAttention
from windtunnel.nn.unified_linear import (
    LinearConfig,
    MapShape,
    SharedNet,
    UnifiedVectors,
    linear_maps,
)

_PARTS = ("mixer", "cross", "mlp")


def equip(stack: nn.ModuleList, layers: Iterable[LayerConfig]) -> nn.ModuleList | None:
    """Gives the linear maps of a built stack what their layers say; the networks that they share,
    one dictionary for each config that needs some, or None."""
    found: dict[LinearConfig, nn.ModuleDict] = {}
    for module, layer in zip(stack, layers, strict=True):
        if layer.linear is None or layer.share_with is not None:
            continue
        nets = found.setdefault(layer.linear, nn.ModuleDict())
        for _, linear in (pair for part in layer_parts(module) for pair in linear_maps(part)):
            shape = MapShape.of(linear)
            if layer.linear.type == "biased":
                if layer.linear.adds_to(shape):
                    linear.bias = nn.Parameter(torch.empty(linear.out_features))
                continue
            for name, widths in layer.linear.nets([shape]).items():
                if name not in nets:
                    nets[name] = SharedNet(*widths)
            if layer.linear.adds_to(shape):
                linear.unified = UnifiedVectors(layer.linear, shape, nets)
    needed = [nets for nets in found.values() if len(nets)]
    return nn.ModuleList(needed) if needed else None


def layer_parts(layer: nn.Module) -> Iterator[nn.Module]:
    """The parts of a built layer whose linear maps ``linear`` is about."""
    for name, part in layer.named_children():
        if name in _PARTS:
            yield part


def map_shapes(layer: LayerConfig, scope: Scope) -> tuple[MapShape, ...]:
    """The linear maps of a layer. They are counted where they are: in the parts, built without
    memory."""
    alone = LayerConfig(mixer=layer.mixer, cross=layer.cross, mlp=layer.mlp)
    at = scope.at(0)
    return tuple(shape for shapes in _shapes(alone, at) for shape in shapes)


@lru_cache(maxsize=256)
def _shapes(layer: LayerConfig, scope: Scope) -> tuple[tuple[MapShape, ...], ...]:
    """Those of the mixer, the cross-attention and the feed-forward."""
    with torch.device("meta"):
        parts: list[nn.Module | None] = [
            build_component("mixer", layer.mixer, scope),
            None if layer.cross is None else CrossAttention(layer.cross, scope),
            None if layer.mlp.type == "none" else build_component("mlp", layer.mlp, scope),
        ]
    return tuple(
        () if part is None else tuple(MapShape.of(linear) for _, linear in linear_maps(part))
        for part in parts
    )


def linear_maps_cost(layer: LayerConfig, scope: Scope, t: Num) -> Cost:
    """What ``linear`` adds to a layer, without the parameters of shared networks.

    Vectors are made once a call, so their FLOPs are shared out among ``t`` tokens, and decoding
    pays them for each one: fold first. Every map is called once; the keys and values of
    cross-attention are not made again while decoding. What is kept for the backward grows with no
    token: a copy of each matrix for every product with a vector.
    """
    assert layer.linear is not None, "there is nothing to be counted"
    total = Cost()
    for shape in map_shapes(layer, scope):
        total += layer.linear.map_cost(shape)
    decode = total.decode_flops
    if layer.cross is not None:
        with_memory = _shapes_of_memory(layer, scope)
        decode -= sum(layer.linear.map_cost(shape).decode_flops for shape in with_memory)
    return Cost(
        params=total.params,
        forward_flops=total.forward_flops / t,
        decode_flops=decode,
        shared_values=total.shared_values,
    )


def _shapes_of_memory(layer: LayerConfig, scope: Scope) -> list[MapShape]:
    with torch.device("meta"):
        assert layer.cross is not None, "there is no memory to be read"
        cross = CrossAttention(layer.cross, scope)
    return [MapShape.of(cross.k), MapShape.of(cross.v)]


def shared_nets_params(layers: Iterable[LayerConfig], scope: Scope) -> int:
    """Parameters of the networks that the layers of a stack share."""
    shapes: dict[LinearConfig, list[MapShape]] = {}
    for layer in dict.fromkeys(layers):
        if layer.linear is not None and layer.linear.type == "unified":
            shapes.setdefault(layer.linear, []).extend(map_shapes(layer, scope))
    return sum(linear.net_params(own) for linear, own in shapes.items())
