"""A config as YAML in which every value says where it came from."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from windtunnel.config.document import Document
from windtunnel.config.path import Path

_PLAIN = re.compile(r"[A-Za-z_][\w ./+-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "none", ""}
_COLUMN = 40


def annotated_yaml(
    value: Any, document: Document | None = None, derived: Collection[Path] = ()
) -> str:
    """YAML of a config (or plain tree) that reads back as the same values.

    With its document, each leaf ends with a comment: its file and line, ``--set``, a preset, or
    ``default``; those at the paths ``derived`` say that they follow from others.

    >>> print(annotated_yaml({"train": {"lr": 0.001, "betas": (0.9, 0.95)}}), end="")
    train:
      lr: 0.001
      betas: [0.9, 0.95]
    """
    plain = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
    return "".join(line + "\n" for line in _lines(plain, (), "", _Comments(document, derived)))


class _Comments:
    """What stands behind a leaf."""

    def __init__(self, document: Document | None, derived: Collection[Path]) -> None:
        self._document = document
        self._derived = derived

    def after(self, text: str, path: Path) -> str:
        return text if self._document is None else f"{text:<{_COLUMN}} # {self._origin(path)}"

    def _origin(self, path: Path) -> str:
        assert self._document is not None
        origins = self._document.origins
        if path in self._derived:
            return "derived"
        short = path[-1] == "type" and isinstance(self._document.get(path[:-1]), str)
        return origins.get(path[:-1] if short else path, "default")


def _lines(value: Any, path: Path, indent: str, comments: _Comments) -> Iterator[str]:
    if isinstance(value, dict):
        items = [(key, f"{indent}{key}:", item, (*path, key)) for key, item in value.items()]
    else:
        items = [(i, f"{indent}-", item, (*path, i)) for i, item in enumerate(value)]
    for _, head, item, here in items:
        if _is_branch(item):
            if isinstance(value, dict):
                yield head
                yield from _lines(item, here, indent + "  ", comments)
            else:
                first, *rest = _lines(item, here, indent + "  ", comments)
                yield f"{head} {first.lstrip()}"
                yield from rest
        else:
            yield comments.after(f"{head} {_flow(item)}", here)


def _is_branch(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value)
    if not isinstance(value, list | tuple):
        return False
    return any(isinstance(item, dict | list | tuple) for item in value)


def _flow(value: Any) -> str:
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS and value == value.strip()
        return value if plain else _quoted(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, float) and "e" in repr(value) and "." not in repr(value):
        return repr(value).replace("e", ".0e")
    return json.dumps(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
