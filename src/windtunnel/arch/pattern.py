"""Patterns of layers: ``{repeat: 3, layers: [a, b]}`` means a b a b a b."""

from __future__ import annotations

from typing import Any

from windtunnel.config import Document, Path, format_path
from windtunnel.errors import ConfigError, Problem

_MOST = 10_000


def expand_patterns(document: Document, prefix: Path = ("arch",)) -> Document:
    """The document with every pattern under ``prefix.layers`` written out.

    Entries keep the places of the pattern's own. Patterns may hold patterns.

    Raises:
        ConfigError: a pattern that is not of the form, or far too long.
    """
    path = (*prefix, "layers")
    layers = document.get(path)
    if not isinstance(layers, list | tuple) or not any(_is_pattern(entry) for entry in layers):
        return document
    sources = _unrolled(document, layers, path)
    if len(sources) > _MOST:
        message = f"{len(sources):,} entries once written out; at most {_MOST:,} are allowed"
        raise ConfigError([Problem(format_path(path), message, document.place(path))])
    entries = tuple(document.get(source) for source in sources)
    targets = [(source, (*path, index)) for index, source in enumerate(sources)]
    return document.with_value(path, entries, document.place(path)).moved(document, targets)


def _is_pattern(entry: Any) -> bool:
    return isinstance(entry, dict) and "layers" in entry


def _unrolled(document: Document, layers: Any, path: Path) -> list[Path]:
    """The path of the entry that stands at each place once the patterns are written out."""
    found: list[Path] = []
    for index, entry in enumerate(layers):
        here = (*path, index)
        if not _is_pattern(entry):
            found.append(here)
            continue
        inner, repeat = entry["layers"], entry.get("repeat", 1)
        extra = sorted(entry.keys() - {"layers", "repeat"})
        sound = isinstance(inner, list | tuple) and inner and not extra
        if not sound or isinstance(repeat, bool) or not isinstance(repeat, int) or repeat < 1:
            what = f"; {extra[0]!r} does not belong there" if extra else ""
            message = "a pattern is {repeat: 2, layers: [one, two]}" + what
            raise ConfigError([Problem(format_path(here), message, document.place(here))])
        found += _unrolled(document, inner, (*here, "layers")) * repeat
        if len(found) > _MOST:
            break  # the caller says so
    return found
