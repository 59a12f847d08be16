"""Presets: known architectures as YAML files, at a small default size.

``arch: {preset: llama, d_model: 512}`` takes the preset and changes what differs; ``set:`` edits it
by dotted path.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from windtunnel.arch.pattern import expand_patterns
from windtunnel.config import Document, format_path, parse_document, parse_path, suggestion
from windtunnel.config.path import Path
from windtunnel.errors import ConfigError, Problem


@cache
def preset_names() -> tuple[str, ...]:
    """The names of all presets, sorted."""
    files = resources.files(__name__).iterdir()
    return tuple(sorted(f.name[:-5] for f in files if f.name.endswith(".yaml")))


@cache
def preset_document(name: str) -> Document:
    """The preset's architecture, as a document whose tree is what stands under ``arch:``.

    A preset may build on another one, as a run's file does.
    """
    return expand_preset(parse_document(preset_text(name), f"preset {name}"), ())


def preset_text(name: str) -> str:
    """The YAML text of a preset, with its comments."""
    return resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def preset_summary(name: str) -> str:
    """One line: the first comment of the preset's file."""
    return preset_text(name).splitlines()[0].lstrip("# ").strip()


def preset_family(name: str) -> str:
    """The preset that a preset builds on in the end, or itself: gpt2-xl and gpt-small are gpt2."""
    base = parse_document(preset_text(name), f"preset {name}").tree.get("preset")
    return name if base is None else preset_family(base)


def expand_preset(document: Document, prefix: Path = ("arch",)) -> Document:
    """The document with presets, edits and patterns under ``prefix`` replaced by what they mean.

    Keys beside ``preset`` are laid over it: mappings key by key, everything else whole. Then the
    edits of ``set`` follow, in their order.

    Raises:
        ConfigError: an unknown preset, or an edit that fits nothing.
    """
    arch = document.get(prefix)
    if not isinstance(arch, dict) or not {"preset", "set"} & arch.keys():
        return expand_patterns(document, prefix)
    name = arch.get("preset")
    edits = arch.get("set") or {}
    if not isinstance(edits, dict):
        place = document.place((*prefix, "set"))
        message = "expected a mapping such as {d_model: 128, 'layers[*].mlp': glu}"
        raise ConfigError([Problem(format_path((*prefix, "set")), message, place)])
    over = {key: value for key, value in arch.items() if key not in ("preset", "set")}
    if name is None:
        expanded = document.without({(*prefix, "set")})
    else:
        expanded = _laid_over(document, prefix, name, over)
    expanded = expand_patterns(expanded, prefix)
    for path, value in edits.items():
        place = document.place((*prefix, "set", path))
        expanded = expanded.with_value((*prefix, *parse_path(path)), value, place)
    return expanded


def _laid_over(document: Document, prefix: Path, name: Any, over: dict[str, Any]) -> Document:
    if name not in preset_names():
        at = (*prefix, "preset")
        message = f"unknown preset {name!r}{suggestion(name, preset_names())}"
        raise ConfigError([Problem(format_path(at), message, document.place(at))])
    preset = preset_document(name)
    base = document.with_value(prefix, preset.tree, f"preset {name}")
    origins = dict(base.origins)
    origins.update({(*prefix, *path): place for path, place in preset.origins.items()})
    result = Document(base.tree, origins, document.key_places, document.source)
    for path, value in _leaves(over, prefix):
        result = result.with_value(path, value, document.place(path))
        result = result.moved(document, [(path, path)])
    return result


def _leaves(value: Any, path: Path) -> list[tuple[Path, Any]]:
    """The values to lay over a preset: mappings are gone into, a component with a type is whole."""
    if isinstance(value, dict) and "type" not in value:
        return [leaf for key, item in value.items() for leaf in _leaves(item, (*path, key))]
    return [(path, value)]
