"""From what is written to the final architecture: the one place where numbers are derived."""

from __future__ import annotations

from typing import Any, TypeVar

from windtunnel.arch.spec import Architecture, ArchSpec, LayerConfig, LayerSpec
from windtunnel.config import Path, format_path
from windtunnel.errors import ConfigError, Problem
from windtunnel.nn.component import ComponentConfig, Scope
from windtunnel.nn.embedding import EmbeddingConfig
from windtunnel.nn.head import HeadConfig

R = TypeVar("R", ComponentConfig, EmbeddingConfig, HeadConfig)
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
    layers, first = [], 0
    for group in spec.layers:
        final = architecture.layers[first]
        layers.append(group.replace(**{part: getattr(final, part) for part in _PARTS}))
        first += group.repeat
    return spec.replace(
        vocab_size=architecture.vocab_size,
        embedding=architecture.embedding,
        head=architecture.head,
        layers=tuple(layers),
    )


def try_resolve(
    spec: ArchSpec, vocab_size: int | None = None
) -> tuple[Architecture | None, list[tuple[Path, str]]]:
    """The architecture, or None and what does not fit: (path below ``arch``, message)."""
    problems: list[tuple[Path, str]] = []
    vocabulary = _vocabulary(spec, vocab_size, problems)
    depth = sum(layer.repeat for layer in spec.layers)
    if depth > _MAX_LAYERS:
        return None, [(("layers",), f"{depth:,} layers; at most {_MAX_LAYERS:,} are allowed")]
    scope = Scope(
        d_model=spec.d_model,
        max_seq_len=spec.max_seq_len,
        vocab_size=vocabulary,
        num_layers=depth,
        tie=spec.embedding.tie,
    )

    def attempt(path: Path, part: R, at: Scope) -> R | None:
        try:
            return part.resolve(at)
        except ValueError as error:
            problems.append((path, str(error)))
            return None

    embedding = attempt(("embedding",), spec.embedding, scope)
    layers: list[LayerConfig] = []
    for group, layer in enumerate(spec.layers):
        at = scope.at(len(layers))
        parts = {
            part: attempt(("layers", group, part), getattr(layer, part), at) for part in _PARTS
        }
        if None not in parts.values():
            layers += [_layer(layer, parts)] * layer.repeat
    head = attempt(("head",), spec.head, scope)
    if problems or embedding is None or head is None:
        return None, problems
    resolved = Architecture(
        name=spec.name,
        type=spec.type,
        vocab_size=vocabulary,
        max_seq_len=spec.max_seq_len,
        d_model=spec.d_model,
        embedding=embedding,
        layers=tuple(layers),
        head=head,
    )
    return resolved, []


def _layer(layer: LayerSpec, parts: dict[str, Any]) -> LayerConfig:
    return LayerConfig(**parts, placement=layer.placement, dropout=layer.dropout)


def _vocabulary(spec: ArchSpec, vocab_size: int | None, problems: list[tuple[Path, str]]) -> int:
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
