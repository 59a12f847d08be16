"""The list of presets with their sizes."""

from __future__ import annotations

from typing import Any

from windtunnel.arch import ArchSpec, cost, preset_document, preset_names, resolve
from windtunnel.arch.presets import preset_summary
from windtunnel.config import decode
from windtunnel.report.units import count_text

VOCABULARY = 4096
"""The vocabulary at which the parameters of presets are listed."""


def list_presets() -> list[dict[str, Any]]:
    """Name, parameters at the default size and one line of each preset."""
    rows = []
    for name in preset_names():
        architecture = resolve(decode(preset_document(name), ArchSpec), VOCABULARY)
        params = int(cost(architecture).total.params)
        rows.append({"name": name, "params": params, "summary": preset_summary(name)})
    return rows


def print_presets(rows: list[dict[str, Any]]) -> None:
    """A table for the terminal."""
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        print(f"{row['name']:<{width}}  {count_text(row['params']):>6}  {row['summary']}")
    print(f"\nParameters at the default size with a vocabulary of {VOCABULARY}; "
          "`windtunnel new run.yaml --preset NAME` begins with one.")  # fmt: skip
