"""Answers to tasks in the terminal: one table a task, one section a measure, one row an arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from windtunnel.report.terminal import STYLES, open_table
from windtunnel.report.units import Estimate, amount, fixed

_NONE = "-"
_OF_ITEMS = "*"
_LOWER_IS_BETTER = ("bits_per_byte",)
_GUESSED = ("accuracy", "accuracy_per_byte", "right_probability")
"""Measures for which a guess comes to chance."""


def task_view(found: Mapping[str, Any]) -> RenderableType:
    """The tables of all tasks, and what is to be known of the numbers."""
    troubles = {arm["name"]: _troubles(arm) for arm in found["arms"]}
    parts: list[RenderableType] = []
    for task in found["tasks"]:
        parts.append(_table(task, troubles))
        parts += [Text(f"{task['name']}: {words}", style="dim") for words in task["notes"]]
    parts += [Text(words, style="dim") for words in legend(found)]
    for arm in found["arms"]:
        if words := troubles[arm["name"]]:
            rest = "its figures are of its other runs alone" if arm["runs"] else "it has no figures"
            parts.append(Text(f"{arm['name']}: {words}; {rest}", style=STYLES["worse"]))
    return Group(*parts)


def legend(found: Mapping[str, Any]) -> list[str]:
    """What the intervals are of, in words."""
    rows = [row for task in found["tasks"] for rows in task["measures"].values() for row in rows]
    every = [*rows, *(row["difference"] for row in rows if row["difference"])]
    lines = [
        "interval: 95%, of the seeds and the items together, without a correction for the number "
        "of comparisons; diff.: to the first arm, item by item"
    ]
    if any(one["of_items_only"] and one["low"] is not None for one in every):
        lines.append(
            f"{_OF_ITEMS} of one seed: the interval is of the items alone, and another seed may "
            "differ by more"
        )
    reasons = dict.fromkeys(
        one["reason"] for one in every if one["mean"] is not None and one["low"] is None
    )
    lines += [f"{_NONE} no interval: {reason}" for reason in reasons]
    fewer = [row for row in rows if row["difference"] and _fewer(row["difference"])]
    for name in dict.fromkeys(row["arm"] for row in fewer):
        seeds = next(row["difference"]["seeds"] for row in fewer if row["arm"] == name)
        lines.append(
            f"{name}: its difference is of the {amount(seeds, 'seed')} that both arms have"
        )
    unpaired = [row["arm"] for row in rows if _has_no_partner(row, rows)]
    if unpaired:
        names = ", ".join(dict.fromkeys(unpaired))
        lines.append(f"{names}: no difference, since the first arm has none of its seeds")
    return lines


def _fewer(difference: Mapping[str, Any]) -> bool:
    return bool(difference["seeds"] < difference["of_seeds"])


def _has_no_partner(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    first = rows[0]
    known = row["mean"] is not None and first["mean"] is not None
    return known and row["difference"] is None and row["arm"] != first["arm"]


def _table(task: Mapping[str, Any], troubles: Mapping[str, str]) -> Table:
    what = amount(task["items"], {"choice": "choice item"}.get(task["kind"], task["kind"]))
    columns = {"measure": False, "mean": True, "interval": True, "diff.": True}
    table = open_table(
        escape(f"Task {task['name']}: {what}"), {**columns, "interval of diff.": True}
    )
    for measure, rows in task["measures"].items():
        if table.row_count:
            table.add_section()
        beside = Text(_beside(measure, task["chance"]), style="dim")
        table.add_row(Text(measure, style="bold"), "", beside)
        for row in rows:
            table.add_row(*_cells(row, troubles[row["arm"]]))
    return table


def _beside(measure: str, chance: float | None) -> str:
    if measure in _LOWER_IS_BETTER:
        return "lower is better"
    return f"chance {fixed(chance, 3)}" if chance and measure in _GUESSED else ""


def _cells(row: Mapping[str, Any], troubles: str) -> list[Text]:
    name = Text(f"  {row['arm']}")
    if troubles:
        name.append(" !", style=STYLES["worse"])
    return [name, *_estimate(row, signed=False), *_estimate(row["difference"], signed=True)]


def _estimate(found: Mapping[str, Any] | None, *, signed: bool) -> list[Text]:
    if found is None or found["mean"] is None:
        return [Text(_NONE), Text(_NONE)]
    estimate = Estimate(mean=found["mean"], low=found["low"], high=found["high"])
    interval = estimate.interval_text(signed=signed) or _NONE
    mark = _OF_ITEMS if found["of_items_only"] and interval != _NONE else ""
    return [Text(estimate.mean_text(signed=signed)), Text(interval + mark)]


def _troubles(arm: Mapping[str, Any]) -> str:
    return ", ".join(f"seed {seed} {what}" for seed, what in arm["troubles"].items())
