"""Keys that are written but change nothing: told as warnings, never silent."""

from __future__ import annotations

from collections.abc import Iterator

from windtunnel.arch.spec import ArchSpec


def without_effect(spec: ArchSpec) -> Iterator[tuple[str, str]]:
    """(path below ``arch``, why) of every key that was written and has no effect."""
    for index, layer in enumerate(spec.layers):
        written = layer.model_fields_set
        at = f"layers[{index}]"
        if layer.placement == "none" and "norm" in written and layer.norm.type != "none":
            yield f"{at}.norm", "has no effect: placement is none"
        window = getattr(layer.mixer, "window", None)
        if window is not None and window >= spec.max_seq_len:
            yield (
                f"{at}.mixer.window",
                f"has no effect up to max_seq_len = {spec.max_seq_len}: it is not shorter",
            )
