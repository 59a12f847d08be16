"""Answers to tasks in the terminal: one table a task, one section a measure, one row an arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from windtunnel.report.terminal import STYLES, open_table
from windtunnel.report.units import Estimate, amount, fixed, level_text

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
    for name, words in trouble_words(found):
        parts.append(Text(f"{name}: {words}", style=STYLES["worse"]))
    told = conclusion(found)
    return Group(*parts, *([Text(""), Text(told, style="bold")] if told else []))


def trouble_words(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Arms of which runs have no answers, and what that means."""
    told = [(arm, _troubles(arm)) for arm in found["arms"]]
    return [
        (
            arm["name"],
            f"{words}; "
            + ("its figures are of its other runs alone" if arm["runs"] else "it has no figures"),
        )
        for arm, words in told
        if words
    ]


def conclusion(found: Mapping[str, Any]) -> str:
    """What is decided, in words; empty where nothing could be."""
    if not has_verdicts(found):
        return ""
    decided, undecided = list[str](), list[str]()
    for task in found["tasks"]:
        first = task["measures"][task["deciding"]][0]["arm"]
        for arm, difference in verdicts_of(task):
            shown = estimate_of(difference)
            by = f"{shown.mean_text(signed=True)} {shown.interval_text(signed=True)}".strip()
            if difference["verdict"] == "undecided":
                told, how = undecided, f"{arm} against {first} is undecided"
            else:
                told, how = decided, f"{arm} is {difference['verdict']} than {first}"
            told.append(f"{task['name']}: {how}, {task['deciding']} {by}.")
    return " ".join([*decided, *undecided])


def verdicts_of(task: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Arms with their differences by the deciding measure, where there are any."""
    rows = task["measures"][task["deciding"]][1:]
    return [(row["arm"], row["difference"]) for row in rows if row["difference"] is not None]


def has_verdicts(found: Mapping[str, Any]) -> bool:
    """Whether anything could be decided: not of single seeds."""
    return any(
        not difference["of_items_only"]
        for task in found["tasks"]
        for _, difference in verdicts_of(task)
    )


def estimate_of(found: Mapping[str, Any]) -> Estimate:
    """A mean with its interval."""
    return Estimate(found["mean"], found["low"], found["high"], found.get("confidence"))


def legend(found: Mapping[str, Any]) -> list[str]:
    """What the intervals are of, in words."""
    rows = [row for task in found["tasks"] for rows in task["measures"].values() for row in rows]
    differences = [row["difference"] for row in rows if row["difference"]]
    lines = ["interval: 95%, of the seeds and the items together"]
    if differences:
        lines[0] += "; diff.: to the first arm, item by item"
    lines += _verdict_words(found)
    every = [*rows, *differences]
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


def _verdict_words(found: Mapping[str, Any]) -> list[str]:
    """What verdicts are corrected for, and why some could not be given."""
    if not has_verdicts(found):
        return []
    every = [pair for task in found["tasks"] for pair in verdicts_of(task)]
    levels = dict.fromkeys(
        level_text(one["confidence"]) for _, one in every if one["confidence"] is not None
    )
    looks = " and for looks" if any(arm["looks"] for arm in found["arms"]) else ""
    words = f"verdict: corrected for {amount(len(every), 'comparison')} (Holm){looks}"
    if levels.keys() - {"95%"}:
        words += f"; beside it stands the interval behind it, of {' or '.join(levels)}"
    reasons = dict[str, list[str]]()
    for arm, one in every:
        if one["why"] and one["why"] != one["reason"]:
            reasons.setdefault(one["why"], []).append(arm)
    return [words, *(f"{', '.join(dict.fromkeys(arms))}: {why}" for why, arms in reasons.items())]


def _fewer(difference: Mapping[str, Any]) -> bool:
    return bool(difference["seeds"] < difference["of_seeds"])


def _has_no_partner(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    first = rows[0]
    known = row["mean"] is not None and first["mean"] is not None
    return known and row["difference"] is None and row["arm"] != first["arm"]


def _table(task: Mapping[str, Any], troubles: Mapping[str, str]) -> Table:
    what = amount(task["items"], {"choice": "choice item"}.get(task["kind"], task["kind"]))
    columns = {"measure": False, "mean": True, "interval": True}
    several = len(task["measures"][task["deciding"]]) > 1
    judged = has_verdicts({"tasks": [task]})
    if several:
        columns |= {"diff.": True, "its interval": True}
    if judged:
        columns |= {"verdict": False}
    table = open_table(escape(f"Task {task['name']}: {what}"), columns)
    for measure, rows in task["measures"].items():
        if table.row_count:
            table.add_section()
        beside = Text(beside_measure(measure, task["chance"]), style="dim")
        table.add_row(Text(measure, style="bold"), "", beside)
        for row in rows:
            cells = _cells(row, troubles[row["arm"]])
            table.add_row(*cells[: 5 if several else 3], *cells[5 : 6 if judged else 5])
    return table


def beside_measure(measure: str, chance: float | None) -> str:
    """What is to be known of a measure: which way is better, what a guess comes to."""
    if measure in _LOWER_IS_BETTER:
        return "lower is better"
    return f"chance {fixed(chance, 3)}" if chance and measure in _GUESSED else ""


def _cells(row: Mapping[str, Any], troubles: str) -> list[Text]:
    name = Text(f"  {row['arm']}")
    if troubles:
        name.append(" !", style=STYLES["worse"])
    verdict = (row["difference"] or {}).get("verdict")
    return [
        name,
        *_estimate(row, signed=False),
        *_estimate(row["difference"], signed=True),
        Text(verdict or "", style=STYLES.get(verdict or "", "")),
    ]


def _estimate(found: Mapping[str, Any] | None, *, signed: bool) -> list[Text]:
    if found is None or found["mean"] is None:
        return [Text(_NONE), Text(_NONE)]
    estimate = estimate_of(found)
    interval = estimate.interval_text(signed=signed) or _NONE
    mark = _OF_ITEMS if found["of_items_only"] and interval != _NONE else ""
    return [Text(estimate.mean_text(signed=signed)), Text(interval + mark)]


def _troubles(arm: Mapping[str, Any]) -> str:
    return ", ".join(f"seed {seed} {what}" for seed, what in arm["troubles"].items())
