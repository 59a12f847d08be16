"""Finding components: every module of a package is imported, so a new file is all it takes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable


def import_modules(package: str, path: Iterable[str]) -> None:
    """Imports each module of ``package``, in the order of their names."""
    for name in sorted(info.name for info in pkgutil.iter_modules(path)):
        importlib.import_module(f"{package}.{name}")
