"""The table of `windtunnel check`: what an architecture costs, part by part, before it is built.

The input is a plain tree, in numbers:

    {"name": "llama-small", "seq_len": 256,
     "parts": [{"part": "embedding", "kind": "tied", "params": ..., "forward_flops": ...,
                "training_flops": ..., "decode_flops": ..., "state_bytes": ...,
                "activation_bytes": ...},
               {"part": "layers.0", "kind": "attention + glu", ...}, ...],
     "memory": {"weights": bytes, "gradients": bytes, ...}}

FLOPs, state and activation bytes are per token; a part may have `fixed_state_bytes` too, its state
per sequence whatever the length (a recurrence). The total is always the sum of the parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from windtunnel.report.units import bytes_text, count_text
from windtunnel.trace.collapse import ranges

MEASURES = {
    "params": "params",
    "forward_flops": "forward",
    "training_flops": "training",
    "decode_flops": "decode",
    "state_bytes": "state",
    "activation_bytes": "activations",
}
"""Key in a part -> heading of its column."""

_FIXED_STATE = "fixed_state_bytes"

_NUMBERED = re.compile(r"^(?P<stem>.*?)\.?(?P<index>\d+)$")


def cost_view(cost: Mapping[str, Any]) -> Group:
    """The table of parts, then the predicted peak memory of training with its terms.

    Layers that cost the same are one row that holds their sum. Readable at 80 columns.
    """
    tables = [_parts_table(cost)]
    if cost.get("memory"):
        tables.append(_memory_table(cost["memory"]))
    return Group(*tables)


def cost_json(cost: Mapping[str, Any]) -> dict[str, Any]:
    """The same as plain JSON: the tree as given, with `total` and `memory_bytes` added."""
    memory = cost.get("memory") or {}
    return dict(cost) | {"total": total(cost["parts"]), "memory_bytes": sum(memory.values())}


def total(parts: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The sum of every measure over the parts."""
    listed = list(parts)
    summed = {measure: sum(part[measure] for part in listed) for measure in MEASURES}
    return summed | {_FIXED_STATE: sum(part.get(_FIXED_STATE, 0) for part in listed)}


def grouped(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Numbered parts of equal kind and equal cost become one, with their sum.

    A hybrid's layers are grouped too, wherever they stand: ``layers 0-1,3-4 (x4)``.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for part in parts:
        match = _NUMBERED.match(part["part"])
        stem = match["stem"] if match else part["part"]
        costs = (*(part[measure] for measure in MEASURES), part.get(_FIXED_STATE, 0))
        key = (bool(match), stem, part.get("kind", ""), *costs)
        groups.setdefault(key, []).append(part)
    return [_group(key[1], members) for key, members in groups.items()]


def _group(stem: str, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if len(members) == 1:
        return dict(members[0])
    indices = [int(match["index"]) for m in members if (match := _NUMBERED.match(m["part"]))]
    name = f"{stem} {ranges(indices)} (x{len(members)})"
    return {"part": name, "kind": members[0].get("kind", ""), **total(members)}


def _parts_table(cost: Mapping[str, Any]) -> Table:
    seq_len = cost.get("seq_len")
    context = f" at {seq_len} tokens" if seq_len else ""
    caption = "forward, training, decode: FLOP. A row of several layers holds their sum."
    fixed = total(cost["parts"])[_FIXED_STATE]
    if fixed:
        caption += f"\nA sequence of any length holds {bytes_text(fixed)} of state besides."
    table = Table(
        title=Text(f"{cost.get('name') or 'architecture'}{context}; all but params is per token"),
        title_style="bold",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        caption=caption,
        caption_justify="left",
    )
    table.add_column("part", overflow="fold", min_width=10)
    for heading in MEASURES.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for part in grouped(cost["parts"]):
        label = Text(part["part"])
        if part.get("kind"):
            label.append(f"\n  {part['kind']}", style="dim")
        table.add_row(label, *_cells(part))
    table.add_section()
    table.add_row(Text("total"), *_cells(total(cost["parts"])), style="bold")
    return table


def _cells(row: Mapping[str, Any]) -> list[Text]:
    return [
        Text((bytes_text if measure.endswith("bytes") else count_text)(row[measure]))
        for measure in MEASURES
    ]


def _memory_table(memory: Mapping[str, float]) -> Table:
    table = Table(
        title="Predicted peak memory of training",
        min_width=40,
        title_style="bold",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("term", overflow="fold")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    peak = sum(memory.values())
    for term, size in memory.items():
        share = f"{100 * size / peak:.0f}%" if peak else "-"
        table.add_row(Text(term), Text(bytes_text(size)), Text(share))
    table.add_section()
    table.add_row(Text("peak"), Text(bytes_text(peak)), Text(""), style="bold")
    return table
