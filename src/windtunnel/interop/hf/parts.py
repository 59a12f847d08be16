"""Parts that several families share: rotary positions, windows, and where a value is found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from windtunnel.arch import Architecture
from windtunnel.interop.hf.family import Keys, no_counterpart
from windtunnel.nn.mixers.attention import AttentionConfig
from windtunnel.nn.positions.rope import RoPEConfig
from windtunnel.nn.positions.rope_scaling import RoPEScaling

T = TypeVar("T")

_SCALING = {
    "original_max_position_embeddings": "original_max_seq_len",
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "truncate": "truncate",
    "attention_factor": "attention_factor",
}
"""Their names of what a scaling of RoPE has, and ours."""
_WHOLE = ("original_max_seq_len", "truncate")


def read_rope(
    keys: Keys, head_dim: int, *, kind: str | None = None, partial: bool = False
) -> dict[str, Any]:
    """Our rotary positions from ``rope_parameters``, or from those of that kind of layers in it.

    Only with ``partial`` does the family turn a share of each head; the others pass over a share in
    their config, or fail on it.
    """
    values = dict(keys("rope_parameters", {}))
    if kind is not None:
        values = dict(values.get(kind) or {})
    if any(isinstance(value, dict) for value in values.values()):
        keys.refuse("rope_parameters", "other positions in each kind of layer are not known here")
        return {"type": "rope"}
    scaled = values.pop("rope_type", values.pop("type", "default"))
    values.pop("type", None)
    rope: dict[str, Any] = {"type": "rope", "theta": float(values.pop("rope_theta", 10_000.0))}
    share = values.pop("partial_rotary_factor", 1.0)
    if share != 1.0 and not partial:
        text = f"{share} cannot be expressed: {keys.model_type} turns whole heads"
        keys.refuse("rope_parameters.partial_rotary_factor", text)
    turned = int(head_dim * share)
    if turned < 2 or turned % 2:
        keys.refuse("rope_parameters.partial_rotary_factor", f"turns {turned} dimensions, not even")
        turned = 2
    rope["rotary_dim"] = turned
    if scaled == "default":
        values.pop("factor", None)
    elif scaled in ("linear", "llama3", "yarn"):
        rope["scaling"] = _read_scaling(keys, scaled, values)
    else:
        text = f"{scaled!r} cannot be expressed, only default, linear, llama3 or yarn"
        keys.refuse("rope_parameters.rope_type", text)
        return rope
    for name, value in values.items():
        if value is not None:
            keys.refuse(f"rope_parameters.{name}", f"{value!r} is not known for {scaled}")
    return rope


def _read_scaling(keys: Keys, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """Takes out of ``values`` what a scaling of that kind has."""
    scaling: dict[str, Any] = {"type": kind}
    for theirs, ours in _SCALING.items():
        value = values.pop(theirs, None)
        if value is not None and not (kind == "linear" and ours == "original_max_seq_len"):
            scaling[ours] = value if ours in _WHOLE else float(value)
    if kind == "yarn" and values.get("mscale") and values.get("mscale_all_dim"):
        text = "a factor of attention from two others is not known here; give attention_factor"
        keys.refuse("rope_parameters.mscale", text)
    return scaling


def write_rope(rope: RoPEConfig, head_dim: int, *, partial: bool = False) -> dict[str, Any]:
    """Their ``rope_parameters``; with ``partial``, the share of the dimensions that is turned."""
    values: dict[str, Any] = {"rope_type": "default", "rope_theta": rope.theta}
    if partial:
        values["partial_rotary_factor"] = (rope.rotary_dim or head_dim) / head_dim
    if isinstance(rope.scaling, RoPEScaling):
        values["rope_type"] = rope.scaling.type
        for theirs, ours in _SCALING.items():
            if getattr(rope.scaling, ours) is not None:
                values[theirs] = getattr(rope.scaling, ours)
    return values


def rope_of(mixer: AttentionConfig) -> RoPEConfig:
    """The rotary positions, or the usual ones where there are others: a check finds that."""
    return mixer.position if isinstance(mixer.position, RoPEConfig) else RoPEConfig()


def read_windows(keys: Keys, num_layers: int) -> list[int | None]:
    """The window of each layer from ``layer_types`` and ``sliding_window``."""
    window, kinds = keys("sliding_window"), keys("layer_types")
    if kinds is None:
        return [window] * num_layers
    known = {"full_attention": None, "sliding_attention": window}
    if len(kinds) != num_layers or not set(kinds) <= known.keys():
        text = f"{kinds} cannot be expressed, only {num_layers} of {' or '.join(known)}"
        keys.refuse("layer_types", text)
        return [None] * num_layers
    if "sliding_attention" in kinds and window is None:
        keys.refuse("sliding_window", "is missing, and layer_types speaks of one")
    return [known[kind] for kind in kinds]


def first_of(architecture: Architecture, part: str, kind: type[T], model_type: str) -> T:
    """The first layer's part of that kind, from which the rest of a config is read.

    Raises:
        NotExpressible: no layer has such a part.
    """
    for layer in architecture.layers:
        found = getattr(layer, part)
        if isinstance(found, kind):
            return found
    kind_of_first = getattr(architecture.layers[0], part).type
    raise no_counterpart(f"layers[0].{part}", kind_of_first, model_type)


def grouped(layers: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Layers as they are written: equal ones in a row are one with ``repeat``."""
    groups: list[dict[str, Any]] = []
    for layer in layers:
        if groups and {k: v for k, v in groups[-1].items() if k != "repeat"} == layer:
            groups[-1]["repeat"] += 1
        else:
            groups.append({**layer, "repeat": 1})
    return tuple(groups)
