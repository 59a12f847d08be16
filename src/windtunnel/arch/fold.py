"""Folding a trained model: what helps only in training becomes plain weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.arch.build import build
from windtunnel.arch.linear_maps import layer_parts
from windtunnel.arch.model import Model
from windtunnel.arch.spec import LayerConfig
from windtunnel.errors import UsageError
from windtunnel.nn.fold import fold_part, under
from windtunnel.nn.unified_linear import LinearConfig, MapShape, linear_maps, plain_maps

_PARTS = ("mixer", "cross", "mlp")


def fold(model: Model) -> Model:
    """A model of the plain architecture whose logits in evaluation equal those of ``model``.

    Unified embeddings become tables, unified weights plain ones. What has no plain form stays as it
    is, and a model without foldable parts gives a copy of itself. ``model`` is left as it was.

    Raises:
        UsageError: something inside a part can be folded, but the part does not say how.
    """
    architecture = model.architecture
    layers, weights = _stack(model.layers, architecture.layers, "layers")
    changes: dict[str, Any] = {"layers": layers}
    encoder, source = architecture.encoder, getattr(model, "encoder", None)
    if encoder is not None and source is not None:
        own = {}
        own["layers"], more = _stack(source.layers, encoder.layers, "encoder.layers")
        weights |= more | under("encoder.norm", source.norm.state_dict())
        if source.embedding is not None:
            plain = fold_part(source.embedding)
            own["embedding"] = plain.config
            weights |= under("encoder.embedding", plain.weights)
        changes["encoder"] = encoder.replace(**own)
    for name in ("embedding", "head"):
        plain = fold_part(model.get_submodule(name))
        changes[name] = plain.config
        weights |= under(name, plain.weights)
    first = next(model.parameters())
    folded = build(architecture.replace(**changes), device=first.device, dtype=first.dtype)
    _load(folded, weights)
    return folded.train(model.training)


def folded_to_write(model: Model) -> Model:
    """The model as texts are made with it: folded where vectors would be made anew at every token.

    A model without unified weights or embeddings is given back as it is, and so is one with a part
    of a user's own that does not say how to fold.
    """
    parts = model.modules()
    if not any(getattr(part, "unified", None) is not None for part in parts):
        return model
    try:
        return fold(model)
    except UsageError:
        return model


def _stack(
    modules: nn.Module, configs: tuple[LayerConfig, ...], name: str
) -> tuple[tuple[LayerConfig, ...], dict[str, Tensor]]:
    """The plain configs of a stack, and the weights by their full names."""
    layers: list[LayerConfig] = []
    weights: dict[str, Tensor] = {}
    for index, config in enumerate(configs):
        if config.share_with is not None:
            layers.append(layers[config.share_with].replace(share_with=config.share_with))
            continue
        plain: dict[str, Any] = {}
        for part, module in modules.get_submodule(str(index)).named_children():
            at = f"{name}.{index}.{part}"
            if part in _PARTS:
                folded = fold_part(module)
                plain[part] = folded.config
                weights |= under(at, plain_maps(module, folded.weights))
            else:  # norms and residuals, which have no other form
                weights |= under(at, module.state_dict())
        if config.linear is not None:
            plain["linear"] = _plain_linear(config.linear, modules.get_submodule(str(index)))
        layers.append(config.replace(**plain))
    return tuple(layers), weights


def _plain_linear(linear: LinearConfig, layer: nn.Module) -> LinearConfig | None:
    """What is left of it: biases, where some map of the layer has none of its own."""
    left = linear.folded()
    if left is None or linear.type == "biased":
        return left
    maps = [pair for part in layer_parts(layer) for pair in linear_maps(part)]
    return left if any(left.adds_to(MapShape.of(own)) for _, own in maps) else None


@torch.no_grad()
def _load(model: Model, weights: dict[str, Tensor]) -> None:
    """Copies the weights; each has its place, and each place its weight."""
    places = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    target = {name: value for name, value in model.state_dict().items() if name in places}
    missing = target.keys() - weights.keys()
    assert not missing, f"folding left no value for {sorted(missing)}"
    for name, value in target.items():
        assert weights[name].shape == value.shape, f"{name} was folded to another shape"
        value.copy_(weights[name])
