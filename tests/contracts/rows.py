"""Rows of further components: every ``rows_*.py`` beside this file adds its own.

Such a module has ``VARIANTS`` (variants to check), ``KNOBS`` (how to change each knob) and
``REFERENCES`` (a naive float64 reference), each by (kind, name), as in ``cases.py``,
``test_knobs.py`` and ``references.py``; and ``BIDIRECTIONAL``: (kind, name, values) to check
without causality, where that is allowed.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

MODULES: list[ModuleType] = [
    importlib.import_module(path.stem) for path in sorted(Path(__file__).parent.glob("rows_*.py"))
]


def gathered(name: str) -> dict[tuple[str, str], Any]:
    """The table ``name`` of all modules together; a component has its rows in one place."""
    table: dict[tuple[str, str], Any] = {}
    for module in MODULES:
        rows = getattr(module, name, {})
        assert not table.keys() & rows.keys(), f"{module.__name__}.{name}: rows that are there"
        table.update(rows)
    return table


def bidirectional() -> list[tuple[str, str, dict[str, Any]]]:
    """What is checked without causality besides."""
    return [row for module in MODULES for row in getattr(module, "BIDIRECTIONAL", ())]
