"""The list of presets with their sizes."""

from __future__ import annotations

from typing import Any

from windtunnel.arch import ArchSpec, cost, preset_document, preset_names, resolve
from windtunnel.arch.presets import preset_family, preset_summary
from windtunnel.config import decode, suggestion
from windtunnel.errors import UsageError
from windtunnel.report.units import count_text

VOCABULARY = 4096
"""The vocabulary at which the parameters of presets are listed that have none of their own."""


_FRAMEWORK_SIZES = ("small", "default", "large")


def list_presets(containing: str = "") -> list[dict[str, Any]]:
    """Each preset whose name, family or line contains the text: name, family, size, parameters.

    The size is ``published`` where the preset has a vocabulary, ``small``, ``default`` or
    ``large`` for those of the experiment framework, and ``small`` for all others.

    Raises:
        UsageError: no preset contains the text.
    """
    wanted = containing.casefold()
    rows = [row for row in map(_row, preset_names()) if wanted in _searched(row)]
    if not rows:
        raise UsageError(f"no preset contains {containing!r}{suggestion(containing, _names())}")
    for row in rows:
        architecture = resolve(decode(preset_document(row["name"]), ArchSpec), VOCABULARY)
        row["vocab_size"] = architecture.vocab_size
        row["params"] = int(cost(architecture).total.params)
    return rows


def _names() -> list[str]:
    return sorted({preset_family(name) for name in preset_names()})


def _row(name: str) -> dict[str, Any]:
    ending = name.rpartition("-")[2]
    size = ending if ending in _FRAMEWORK_SIZES else "small"
    if isinstance(preset_document(name).tree.get("vocab_size"), int):
        size = "published"
    summary = preset_summary(name)
    return {"name": name, "family": preset_family(name), "size": size, "summary": summary}


def _searched(row: dict[str, Any]) -> str:
    return " ".join((row["name"], row["family"], row["summary"])).casefold()


def print_presets(rows: list[dict[str, Any]]) -> None:
    """A table for the terminal."""
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        print(f"{row['name']:<{width}}  {count_text(row['params']):>6}  {row['summary']}")
    print(f"\nParameters at the published vocabulary, or at {VOCABULARY} where a preset is small; "
          "`windtunnel new run.yaml --preset NAME` begins with one.")  # fmt: skip
