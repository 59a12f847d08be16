"""Keys that are written but change nothing: told as warnings, never silent."""

from __future__ import annotations

from collections.abc import Iterator

from windtunnel.arch.spec import ArchSpec, Layers, LayerSpec
from windtunnel.nn.embedding import EmbeddingConfig
from windtunnel.nn.memory_slots import store_of


def without_effect(spec: ArchSpec) -> Iterator[tuple[str, str]]:
    """(path below ``arch``, why) of every key that was written and has no effect."""
    tokens = spec.input == "tokens"
    if spec.head.type != "vocabulary" or not tokens:
        yield from _untied("embedding", spec.embedding)
        if not tokens and spec.head.type != "vocabulary" and spec.vocab_size != "auto":
            yield "vocab_size", "has no effect: neither the input nor the head knows token ids"
    if not tokens:
        yield from _tableless("embedding", spec.embedding)
    if spec.encoder is not None and spec.encoder.embedding is not None:
        yield from _untied("encoder.embedding", spec.encoder.embedding)
        if not tokens:
            yield from _tableless("encoder.embedding", spec.encoder.embedding)
            if spec.encoder.vocab_size is not None:
                yield "encoder.vocab_size", "has no effect: the input comes as vectors"
    for path, layers in spec.stacks:
        for index, layer in enumerate(layers):
            yield from _of_layer(f"{'.'.join(path)}[{index}]", layer, spec.max_seq_len)
        yield from _stores_of_one(".".join(path), layers)


def _untied(at: str, embedding: EmbeddingConfig) -> Iterator[tuple[str, str]]:
    if embedding.tie and "tie" in embedding.model_fields_set:
        yield f"{at}.tie", "has no effect: there is no vocabulary head to be tied to"


def _tableless(at: str, embedding: EmbeddingConfig) -> Iterator[tuple[str, str]]:
    for name in ("scale", "init_std", "token_types", "unified"):
        if name in embedding.model_fields_set and getattr(embedding, name):
            yield f"{at}.{name}", "has no effect: the input comes as vectors"


def _stores_of_one(stack: str, layers: Layers) -> Iterator[tuple[str, str]]:
    """Stores that a single part of a stack reads."""
    readers: dict[str, list[str]] = {}
    for index, layer in enumerate(layers):
        for name, part in (("mixer", layer.mixer), ("mlp", layer.mlp)):
            store = store_of(part)
            if store is not None:
                own = layer.repeat // layer.share if layer.share_with is None else 0
                readers.setdefault(store, []).extend([f"{stack}[{index}].{name}.store"] * own)
    for paths in readers.values():
        if len(paths) == 1:
            yield paths[0], "has no effect: nothing else reads this store"


def _of_layer(at: str, layer: LayerSpec, max_seq_len: int) -> Iterator[tuple[str, str]]:
    if layer.placement == "none" and "norm" in layer.model_fields_set and layer.norm.type != "none":
        yield f"{at}.norm", "has no effect: placement is none"
    if layer.parallel and layer.mlp.type == "none":
        yield f"{at}.parallel", "has no effect: there is no feed-forward"
    if layer.shared_norm and layer.placement in ("none", "out"):
        yield f"{at}.shared_norm", f"has no effect: placement is {layer.placement}"
    if layer.share_position and layer.repeat == 1:
        yield f"{at}.share_position", "has no effect: the layer is not repeated"
    window = getattr(layer.mixer, "window", None)
    if window is not None and window >= max_seq_len:
        yield (
            f"{at}.mixer.window",
            f"has no effect up to max_seq_len = {max_seq_len}: it is not shorter",
        )
