"""Writing a layer as a block; :mod:`windtunnel.arch.block` reads it."""

from __future__ import annotations

import json
from typing import Any

from windtunnel.arch.spec import LayerConfig
from windtunnel.config import Config


def short_form(layer: LayerConfig) -> str | None:
    """The block of a layer, or None where the grammar cannot write it.

    Keys that stand beside ``block:``, such as ``repeat`` and ``dropout``, are not looked at.

    >>> from windtunnel.arch.spec import LayerSpec
    >>> short_form(LayerSpec.model_validate("norm > attention(num_heads=4) | glu > +"))
    'rmsnorm > attention(num_heads=4) | glu > +'
    """
    placement, norm = layer.placement, layer.norm
    if (placement == "none") != (norm.type == "none"):
        return None
    if layer.residual.type == "none" and (
        layer.cross is not None or layer.mlp.type != "none" or placement == "post"
    ):
        return None
    parts = [_written(layer.mixer)]
    if layer.cross is not None:
        parts.append(f"cross{_listed(layer.cross)}")
    if layer.mlp.type != "none":
        parts.append(_written(layer.mlp))
    if layer.parallel and (layer.cross is not None or len(parts) != 2):
        return None
    if layer.shared_norm and placement not in ("pre", "sandwich"):
        return None
    stands = {"pre": "n p", "post": "p", "sandwich": "n p n", "out": "p n", "none": "p"}[placement]
    join = "+" if layer.residual.type == "add" else _written(layer.residual)
    ends = [] if layer.residual.type == "none" else [join]
    ends += [_written(norm)] if placement == "post" else []
    branches = [[_written(norm) if s == "n" else part for s in stands.split()] for part in parts]
    if layer.shared_norm:
        branches[1] = branches[1][1:]
    if layer.parallel:
        return " > ".join([" | ".join(" > ".join(b) for b in branches), *ends])
    return " > ".join(step for branch in branches for step in [*branch, *ends])


def _written(part: Any) -> str:
    """A part as a step: its name, and what differs from its defaults."""
    return f"{part.type}{_listed(part)}"


def _listed(part: Any) -> str:
    changed = {
        name: value
        for name, field in type(part).model_fields.items()
        if name != "type"
        and (value := getattr(part, name)) != field.get_default(call_default_factory=True)
    }
    texts = [f"{key}={_told(value)}" for key, value in changed.items()]
    return f"({', '.join(texts)})" if texts else ""


def _told(value: Any) -> str:
    if isinstance(value, Config):
        return f"{value.type}{_listed(value) or '()'}"  # type: ignore[attr-defined]
    return value if isinstance(value, str) else json.dumps(value)
