"""What tests on a GPU measure: numbers by table and row."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

FILE = "WINDTUNNEL_GPU_FIGURES"
"""Names a file in which they are kept too, each as soon as it is there."""


class Figures:
    """Told at the end of the session."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, dict[str, float | str]]] = {}

    def add(self, table: str, row: str, **values: float | str) -> None:
        self.tables.setdefault(table, {}).setdefault(row, {}).update(values)
        if path := os.environ.get(FILE):
            text = json.dumps(self.tables, indent=1) + "\n"
            Path(path).write_text(text, encoding="utf-8")

    def lines(self) -> Iterator[str]:
        for table, rows in self.tables.items():
            yield ""
            yield table
            width = max(map(len, rows))
            for row, values in rows.items():
                told = (f"{name} {short(value)}" for name, value in values.items())
                yield f"  {row:{width}}  {', '.join(told)}"


def short(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


FIGURES = Figures()
