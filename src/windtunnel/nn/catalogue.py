"""The table of all components and their knobs, as Markdown, from the registries themselves.

``python -m windtunnel.nn.catalogue > docs/components.md`` brings the page up to date.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from windtunnel.config import Choice, Config, Ratio
from windtunnel.nn.component import REGISTRIES
from windtunnel.nn.embedding import EmbeddingConfig
from windtunnel.nn.head import HeadConfig, HeadTransformConfig
from windtunnel.nn.positions.rope_scaling import RoPEScaling
from windtunnel.nn.unified_embedding import UnifiedConfig
from windtunnel.nn.unified_linear import LinearConfig

_INTRODUCTION = """\
# Components

Every part that an architecture may name, and every knob of each. This page is made from the
registries (`python -m windtunnel.nn.catalogue`); a test keeps the two equal. A part is written
`mlp: glu` or `mlp: {type: glu, ratio: 3}`. A default of – is derived where it is a number that must
be there, and otherwise off.
"""
_TITLES = {
    "mixer": ("Mixers", "`layers[].mixer`: mixes along time."),
    "mlp": ("Feed-forwards", "`layers[].mlp`: mixes along width, each token by itself."),
    "norm": ("Norms", "`layers[].norm`, `head.norm`, and `qk_norm` of attention."),
    "residual": ("Residuals", "`layers[].residual`: x is the stream, y a branch's output."),
    "position": ("Positions of attention", "`position` of attention."),
    "embedding_position": ("Positions of the embedding", "`embedding.position`."),
}


def catalogue() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, *_section("Embedding and head", "", _ends())]
    for kind, (title, text) in _TITLES.items():
        configs: list[tuple[str, type[Config]]] = [
            (cls.Config.model_fields["type"].default, cls.Config) for cls in REGISTRIES[kind]
        ]
        if kind == "position":
            configs.append(("rope.scaling", RoPEScaling))
        parts += _section(title, text, configs)
    return "\n".join(parts)


def _ends() -> list[tuple[str, type[Config]]]:
    return [
        ("embedding", EmbeddingConfig),
        ("embedding.unified", UnifiedConfig),
        ("layers[].linear", LinearConfig),
        ("head", HeadConfig),
        ("head.transform", HeadTransformConfig),
    ]


def _section(title: str, text: str, configs: Sequence[tuple[str, type[Config]]]) -> Iterator[str]:
    yield f"## {title}\n"
    if text:
        yield f"{text}\n"
    for name, config in configs:
        yield f"### {name}\n"
        yield f"{inspect.cleandoc(config.__doc__ or '').replace('``', '`')}\n"
        rows = [_row(key, f) for key, f in config.model_fields.items() if key != "type"]
        if rows:
            yield "\n".join(
                ["| key | values | default | meaning |", "|---|---|---|---|", *rows, ""]
            )


def _row(key: str, field: FieldInfo) -> str:
    meaning = " ".join((field.description or "").split())
    assert meaning, f"{key} has no description"
    return f"| `{key}` | {_values(field)} | {_default(field)} | {meaning} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Config):
        return str(getattr(value, "type", ""))
    if isinstance(value, bool):
        return str(value).lower()
    return "–" if value is None else str(value)


def _values(field: FieldInfo) -> str:
    """What may be written: the choices, or the type and its bounds."""
    for mark in field.metadata:
        if isinstance(mark, Choice):
            return ", ".join(sorted(mark.names()))
    kind: Any = field.annotation
    if get_origin(kind) in (Union, UnionType):
        kinds = [part for part in get_args(kind) if part is not NoneType]
        return ", ".join(_of_kind(part, field.metadata) for part in kinds)
    return _of_kind(kind, field.metadata)


def _of_kind(kind: Any, metadata: list[Any]) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(str(value) for value in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Config):
        return "a mapping, see below"
    if kind == Ratio:
        return "number, fraction > 0"
    names = {int: "integer", float: "number", bool: "true, false", str: "a name"}
    if get_origin(kind) is Annotated:
        kind, mark = get_args(kind)
        metadata = mark.metadata
    return " ".join([names[kind], *_bounds(metadata)])


def _bounds(metadata: list[Any]) -> Iterator[str]:
    for mark in metadata:
        for kind, sign, name in (
            (Ge, "≥", "ge"),
            (Gt, ">", "gt"),
            (Le, "≤", "le"),
            (Lt, "<", "lt"),
        ):
            if isinstance(mark, kind):
                yield f"{sign} {getattr(mark, name)}"


if __name__ == "__main__":
    print(catalogue(), end="")
