"""From what is written to the final architecture: the one place where numbers are derived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from windtunnel.arch.linear_maps import map_shapes
from windtunnel.arch.spec import (
    Architecture,
    ArchSpec,
    Encoder,
    EncoderSpec,
    LayerConfig,
    Layers,
    LayerSpec,
)
from windtunnel.config import Path, format_path
from windtunnel.errors import ConfigError, Problem
from windtunnel.nn.component import ComponentConfig, Scope
from windtunnel.nn.cross_attention import CrossAttentionConfig
from windtunnel.nn.embedding import EmbeddingConfig
from windtunnel.nn.head import HeadConfig
from windtunnel.nn.memory_slots import SlotsConfig
from windtunnel.nn.streams import streams_of
from windtunnel.nn.unified_linear import LinearConfig

R = TypeVar("R", ComponentConfig, CrossAttentionConfig, EmbeddingConfig, HeadConfig)
_PARTS = ("norm", "mixer", "mlp", "residual")
_MAX_LAYERS = 100_000


def resolve(spec: ArchSpec, vocab_size: int | None = None) -> Architecture:
    """The final form of ``spec``: layers unrolled, everything that can be derived filled in.

    ``vocab_size`` is the tokenizer's, used where the spec says ``auto``.

    Raises:
        ConfigError: with every part that does not fit, by its path below ``arch``.
    """
    architecture, problems = try_resolve(spec, vocab_size)
    if architecture is None:
        raise ConfigError([Problem(format_path(("arch", *path)), text) for path, text in problems])
    return architecture


def settled(spec: ArchSpec, architecture: Architecture) -> ArchSpec:
    """The spec, group by group, with every number that ``architecture`` has filled in."""
    changes: dict[str, Any] = {
        "vocab_size": architecture.vocab_size or "auto",
        "embedding": architecture.embedding,
        "head": architecture.head,
    }
    if spec.encoder is None or spec.decoder is None:
        return spec.replace(**changes, layers=_settled(spec.layers, architecture.layers))
    encoder = architecture.encoder
    assert encoder is not None, "this architecture is not of that spec"
    final = {name: getattr(encoder, name) for name in ("norm", "embedding", "vocab_size")}
    return spec.replace(
        **changes,
        encoder=spec.encoder.replace(**final, layers=_settled(spec.encoder.layers, encoder.layers)),
        decoder=spec.decoder.replace(layers=_settled(spec.decoder.layers, architecture.layers)),
    )


def _settled(groups: Layers, layers: tuple[LayerConfig, ...]) -> Layers:
    found, first = [], 0
    for group in groups:
        final = layers[first]
        found.append(group.replace(**{p: getattr(final, p) for p in (*_PARTS, "cross", "linear")}))
        first += group.repeat
    return tuple(found)


def try_resolve(
    spec: ArchSpec, vocab_size: int | None = None
) -> tuple[Architecture | None, list[tuple[Path, str]]]:
    """The architecture, or None and what does not fit: (path below ``arch``, message)."""
    for path, groups in spec.stacks:
        depth = _depth(groups)
        if depth > _MAX_LAYERS:
            return None, [(path, f"{depth:,} layers; at most {_MAX_LAYERS:,} are allowed")]
    attempts = _Attempts()
    if spec.unit_weights:
        attempts.problems += _off_the_sphere(spec)
    vocabulary = _vocabulary(spec, vocab_size, attempts.problems)
    path, groups = spec.stacks[-1]
    scope = Scope(
        d_model=spec.d_model,
        max_seq_len=spec.max_seq_len,
        vocab_size=vocabulary,
        num_layers=_depth(groups),
        causal=spec.type != "encoder",
        tie=spec.embedding.tie and spec.input == "tokens" and spec.head.type == "vocabulary",
    )
    embedding = attempts.embedding(("embedding",), spec.embedding, scope, spec.input == "tokens")
    layers = attempts.stack(path, groups, scope, crossed=spec.encoder is not None)
    head = attempts.part(("head",), spec.head, scope)
    encoder = None if spec.encoder is None else _encoder(spec, spec.encoder, scope, attempts)
    if attempts.problems or embedding is None or head is None:
        return None, attempts.problems
    resolved = Architecture(
        name=spec.name,
        type=spec.type,
        input=spec.input,
        vocab_size=vocabulary,
        max_seq_len=spec.max_seq_len,
        d_model=spec.d_model,
        embedding=embedding,
        layers=layers,
        head=head,
        unit_weights=spec.unit_weights,
        encoder=encoder,
    )
    return resolved, []


class _Attempts:
    """Resolves part by part and gathers what does not fit."""

    def __init__(self) -> None:
        self.problems: list[tuple[Path, str]] = []

    def part(self, path: Path, part: R, at: Scope) -> R | None:
        try:
            return part.resolve(at)
        except ValueError as error:
            self.problems.append((path, str(error)))
            return None

    def embedding(
        self, path: Path, part: EmbeddingConfig, at: Scope, tokens: bool
    ) -> EmbeddingConfig | None:
        """``tie`` is what the scope says: there must be something to tie to."""
        own = part.replace(tie=at.tie) if tokens else part.without_table()
        return self.part(path, own, at)

    def stack(
        self, path: Path, groups: Layers, scope: Scope, *, crossed: bool
    ) -> tuple[LayerConfig, ...]:
        """The layers of a stack, unrolled; with ``crossed`` each has cross-attention."""
        layers: list[LayerConfig] = []
        stores: dict[str, SlotsConfig] = {}
        firsts: dict[Any, int] = {}
        for group, layer in enumerate(groups):
            at = scope.at(len(layers))
            parts = {
                part: self.part((*path, group, part), getattr(layer, part), at) for part in _PARTS
            }
            cross = _cross(layer, parts["mixer"]) if crossed or layer.cross is not None else None
            if cross is not None and not scope.causal:
                self.problems.append(((*path, group, "cross"), "an encoder has no memory to read"))
            elif cross is not None:
                cross = self.part((*path, group, "cross"), cross, at)
            self._stored((*path, group), parts, stores)
            if None not in parts.values():
                final = _layer(layer, parts, cross)
                if final.linear is not None:
                    final = self._linear((*path, group, "linear"), final, final.linear, at)
                if layer.share_with is not None:
                    final = self._shared((*path, group), final, layer.share_with, layers)
                if layer.position_with is not None:
                    final = self._positioned((*path, group), final, layer.position_with, layers)
                if layer.share_position and not _learned(final):
                    self.problems.append(((*path, group, "share_position"), _NO_POSITION))
                added = _unrolled(final, len(layers), layer)
                self._first_values((*path, group, "mixer"), added, len(layers), firsts)
                layers += added
        self._as_wide(path, groups)
        return tuple(layers)

    def _first_values(
        self, path: Path, added: Sequence[LayerConfig], start: int, firsts: dict[Any, int]
    ) -> None:
        """The first layer of those whose values are mixed with its own stands alone: a module that
        serves several layers cannot tell which of them it is. All of them read all tokens."""
        for index, layer in enumerate(added, start):
            mixer: Any = layer.mixer
            if getattr(mixer, "value_residual", "none") == "none":
                continue
            if layer.depth is not None:
                text = "a layer with depth reads some tokens alone, not those of the first values"
                self.problems.append(((*path, "value_residual"), text))
                return
            first = firsts.setdefault((mixer.num_kv_heads, mixer.head_dim), index)
            if layer.share_with == first:
                text = (
                    f"layer {first} is the first of which the values go into others, so no layer "
                    "shares its parameters: set a layer of its own before those that share"
                )
                self.problems.append(((*path, "value_residual"), text))
                return

    def _stored(self, path: Path, parts: Mapping[str, Any], stores: dict[str, SlotsConfig]) -> None:
        """All parts that read a store see slots of one shape."""
        for name in ("mixer", "mlp"):
            part = parts[name]
            if not isinstance(part, SlotsConfig) or part.store is None:
                continue
            first = stores.setdefault(part.store, part)
            if part.shape != first.shape:
                (h, m, k), (other_h, other_m, other_k) = part.shape, first.shape
                text = (
                    f"{h} heads with {m} slots of {k}, but store {part.store!r} begins with "
                    f"{other_h} heads with {other_m} slots of {other_k}"
                )
                self.problems.append(((*path, name), text))

    def _linear(
        self, path: Path, layer: LayerConfig, linear: LinearConfig, at: Scope
    ) -> LayerConfig:
        """The layer with its ``linear`` filled in; some map must be there to have it."""
        if not any(linear.adds_to(shape) for shape in map_shapes(layer, at)):
            self.problems.append((path, "has no effect: the layer has no linear map that it suits"))
        return layer.replace(linear=linear.resolve(at))

    def _as_wide(self, path: Path, groups: Layers) -> None:
        """All layers of a stack have as many streams as its first."""
        first = streams_of(groups[0].residual)
        for group, layer in enumerate(groups):
            if streams_of(layer.residual) != first:
                text = (
                    f"{_streams(streams_of(layer.residual))}, but {_streams(first)} in the first "
                    "layer: all layers of a stack have as many"
                )
                self.problems.append(((*path, group, "residual"), text))

    def _shared(
        self, path: Path, layer: LayerConfig, index: int, before: list[LayerConfig]
    ) -> LayerConfig:
        """The layer, sharing with the one that owns the parameters of layer ``index``."""
        if index >= len(before):
            if not self.problems:  # else layers may be missing
                text = f"there is no layer {index} before this one"
                self.problems.append(((*path, "share_with"), text))
            return layer
        owner = before[index].share_with
        owner = index if owner is None else owner
        if layer.replace(share_with=None) != before[owner]:
            text = f"layer {owner} is configured otherwise, so its parameters cannot be shared"
            self.problems.append(((*path, "share_with"), text))
        return layer.replace(share_with=owner)

    def _positioned(
        self, path: Path, layer: LayerConfig, index: int, before: list[LayerConfig]
    ) -> LayerConfig:
        """The layer, using the learned position of the layer that owns that of layer ``index``."""
        place = (*path, "position_with")
        if index >= len(before):
            if not self.problems:  # else layers may be missing
                self.problems.append((place, f"there is no layer {index} before this one"))
            return layer
        owner = index if before[index].position_with is None else before[index].position_with
        if not _learned(layer):
            self.problems.append((place, _NO_POSITION))
        elif _positions(before[index]) != _positions(layer):
            text = f"the position of layer {index} is configured otherwise, or for other heads"
            self.problems.append((place, text))
        return layer.replace(position_with=owner)


_NO_POSITION = "has no effect: the mixer has no learned position"


def _positions(layer: LayerConfig) -> tuple[Any, ...]:
    """What decides the shape and the use of a mixer's position."""
    return tuple(getattr(layer.mixer, key, None) for key in ("position", "num_heads", "head_dim"))


def _learned(layer: LayerConfig) -> bool:
    return bool(getattr(getattr(layer.mixer, "position", None), "learned", False))


def _streams(count: int | None) -> str:
    return "a single stream" if count is None else f"{count} streams"


def _cross(layer: LayerSpec, mixer: ComponentConfig | None) -> CrossAttentionConfig:
    """The layer's cross-attention, with as many heads as its mixer unless told."""
    cross = layer.cross or CrossAttentionConfig()
    heads = getattr(mixer, "num_heads", None)
    told = cross.num_heads is not None or cross.head_dim is not None
    return cross if told or not isinstance(heads, int) else cross.replace(num_heads=heads)


def _encoder(
    spec: ArchSpec, written: EncoderSpec, scope: Scope, attempts: _Attempts
) -> Encoder | None:
    """The encoder of an encoder_decoder; ``scope`` is its decoder's."""
    own = written.embedding
    vocabulary = None
    if own is not None and spec.input == "tokens":
        vocabulary = written.vocab_size or scope.vocab_size
    at = replace(
        scope,
        num_layers=_depth(written.layers),
        causal=written.causal,
        tie=False,
        vocab_size=vocabulary or scope.vocab_size,
    )
    embedding = None
    if own is not None:
        tokens = spec.input == "tokens"
        embedding = attempts.embedding(("encoder", "embedding"), own, at, tokens)
    for index, layer in enumerate(written.layers):
        if layer.cross is not None:
            place = ("encoder", "layers", index, "cross")
            attempts.problems.append((place, "an encoder has no memory to read"))
    plain = tuple(layer.replace(cross=None) for layer in written.layers)
    layers = attempts.stack(("encoder", "layers"), plain, at, crossed=False)
    norm = attempts.part(("encoder", "norm"), written.norm, at)
    if norm is None:
        return None
    return Encoder(
        layers=layers,
        norm=norm,
        causal=written.causal,
        embedding=embedding,
        vocab_size=vocabulary,
    )


def _off_the_sphere(spec: ArchSpec) -> list[tuple[Path, str]]:
    text = "unified vectors would take the matrix off the sphere that unit_weights holds it on"
    return [
        ((*path, group, "linear"), text)
        for path, groups in spec.stacks
        for group, layer in enumerate(groups)
        if layer.linear is not None and layer.linear.type == "unified"
    ]


def _depth(groups: Layers) -> int:
    return sum(group.repeat for group in groups)


def _layer(
    layer: LayerSpec, parts: dict[str, Any], cross: CrossAttentionConfig | None
) -> LayerConfig:
    written = {name: getattr(layer, name) for name in LayerConfig.model_fields}
    return LayerConfig(**(written | parts | {"cross": cross}))


def _unrolled(layer: LayerConfig, first: int, group: LayerSpec) -> list[LayerConfig]:
    """The layers of a group from index ``first`` on: those that share follow their owner, and all
    of them use the first one's position where the group says so."""
    later = layer.replace(position_with=first) if group.share_position else layer
    share, layers = group.share, list[LayerConfig]()
    for owner in range(first, first + group.repeat, share):
        own = layer if owner == first else later
        layers.append(own)
        if share > 1:
            layers += [own.replace(share_with=owner)] * (share - 1)
    return layers


def _vocabulary(spec: ArchSpec, vocab_size: int | None, problems: list[tuple[Path, str]]) -> int:
    if spec.input == "embeddings" and spec.head.type != "vocabulary":
        return 0
    if spec.vocab_size == "auto":
        if vocab_size is None:
            problems.append((("vocab_size",), "auto needs a tokenizer; write a number"))
        return vocab_size or 1
    if spec.vocab_size < 1:
        problems.append((("vocab_size",), f"must be ≥ 1, not {spec.vocab_size}"))
        return 1
    if vocab_size is not None and spec.vocab_size < vocab_size:
        text = f"{spec.vocab_size} is less than the tokenizer's {vocab_size}"
        problems.append((("vocab_size",), text))
    return spec.vocab_size
