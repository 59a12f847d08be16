"""The family of a run file: its members are that file with some of its values changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from windtunnel.config import Document, canonical_json
from windtunnel.spaces.families import Family


class Declared(Family):
    """Members of a run file: every difference is an edit of some path."""

    closed = False
    told = False
    axes = ()
    parts: ClassVar[Mapping[str, str]] = {}
    free = frozenset()

    def __init__(self, name: str, base: Document, folder: Path) -> None:
        self.name = name  # type: ignore[misc]
        self.folder = folder
        self._base = base

    def identity(self) -> Any:
        return self.name, canonical_json(self._base.tree), str(self.folder)

    def document(self, values: Mapping[str, Any]) -> Document:
        return self._base

    def params(self, values: Mapping[str, Any]) -> Any:
        raise NotImplementedError("counted from the architecture")

    def arch(self, values: Mapping[str, Any]) -> dict[str, Any]:
        arch: dict[str, Any] = self._base.tree["arch"]
        return arch

    def config(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {}
