"""Where two configs differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from windtunnel.config.path import Path, format_path


@dataclass(frozen=True)
class Difference:
    """One place where two configs differ; ``None`` stands for what one of them lacks."""

    path: str
    first: Any
    second: Any

    def __str__(self) -> str:
        return f"{self.path}: {self.first} → {self.second}"


def diff(first: Any, second: Any) -> list[Difference]:
    """Every leaf at which two configs or plain trees differ, in the order of the first.

    >>> [str(d) for d in diff({"a": 1, "b": (2, 3)}, {"a": 1, "b": (2, 4)})]
    ['b[1]: 3 → 4']
    """
    return list(_walk(_plain(first), _plain(second), ()))


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def _walk(a: Any, b: Any, path: Path) -> list[Difference]:
    if a == b and type(a) is type(b):
        return []
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [*a, *(k for k in b if k not in a)]
        return [d for k in keys for d in _walk(a.get(k), b.get(k), (*path, k))]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [d for i, (x, y) in pairs for d in _walk(x, y, (*path, i))]
    return [] if a == b else [Difference(format_path(path), a, b)]
