"""Answers to tasks on the page of a study: differences as a figure, every measure in a table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from windtunnel.errors import StudyError
from windtunnel.report.forest import forest
from windtunnel.report.sections import SYMBOLS, estimate_html, html_table, minus, section
from windtunnel.report.task_table import (
    beside_measure,
    conclusion,
    estimate_of,
    has_verdicts,
    legend,
    trouble_words,
    verdicts_of,
)
from windtunnel.report.units import Estimate, amount, p_text

_UNITS = {"bits_per_byte": "bits/byte"}


@dataclass(frozen=True)
class _Row:
    """A difference as the figure draws it."""

    name: str
    verdict: str
    mde: float | None = None


def tasks_section(found: Mapping[str, Any] | None) -> str:
    """Conclusion, and figure and table of every task; empty where none was asked.

    Raises StudyError for answers of another shape.
    """
    if found is None:
        return ""
    try:
        return _section(found)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise StudyError(f"the answers to tasks are damaged: {error!r}") from error


def _section(found: Mapping[str, Any]) -> str:
    told = conclusion(found)
    parts = [f'<p class="conclusion">{_with_minus(told)}</p>' if told else ""]
    for task in found["tasks"]:
        heading = f"{task['name']}: {amount(task['items'], 'item')}"
        parts.append(f"<h3>{escape(heading)}</h3>")
        parts.append(_figure(task) if has_verdicts({"tasks": [task]}) else "")
        parts.append(_table(task))
        parts += [f'<p class="note">{escape(words)}</p>' for words in task["notes"]]
    troubles = "".join(
        f"<li><b>{escape(name)}</b>: {escape(words)}</li>" for name, words in trouble_words(found)
    )
    parts.append(f'<ul class="reasons">{troubles}</ul>' if troubles else "")
    parts += [f'<p class="note">{escape(words)}</p>' for words in legend(found)]
    return section("tasks", "Tasks", *parts)


def _with_minus(text: str) -> str:
    """Escaped, with a real minus sign in front of numbers; names stay as they are."""
    return re.sub(r"(?<=[ \[])-(?=\d)", "−", escape(text))


def _figure(task: Mapping[str, Any]) -> str:
    measure = task["deciding"]
    rows = [
        (_Row(arm, difference["verdict"]), estimate_of(difference))
        for arm, difference in verdicts_of(task)
    ]
    lower = measure == "bits_per_byte"
    ends = ("lower: better", "worse") if lower else ("worse", "higher: better")
    drawn = forest(rows, _UNITS.get(measure, measure), shade_mde=False, ends=ends)
    first = escape(task["measures"][measure][0]["arm"])
    caption = (
        f"Differences to <b>{first}</b> in {escape(measure)}, with their intervals over seeds and "
        "items at the level of confidence that stands beside them: 95% after Holm’s correction "
        "over all tasks and architectures."
    )
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def _table(task: Mapping[str, Any]) -> str:
    rows = list[tuple[str, ...]]()
    for measure, arms in task["measures"].items():
        beside = beside_measure(measure, task["chance"])
        words = escape(measure) + (f" <small>{escape(beside)}</small>" if beside else "")
        rows += [(escape(row["arm"]), words, *_cells(row)) for row in arms]
    caption = f"Answers to {task['name']}, of {amount(task['items'], 'item')}"
    return html_table(
        caption,
        ["Architecture", "Measure", "Mean", "Difference", "p", "p (Holm)", "Verdict"],
        rows,
    )


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    difference = row["difference"]
    if difference is None:
        return (_estimate(row), "–", "–", "–", "–")
    verdict = difference["verdict"]
    chip = f'<span class="chip {verdict}">{SYMBOLS[verdict]} {verdict}</span>' if verdict else "–"
    p_values = (difference.get("p_value"), difference.get("p_holm"))
    shown = (minus(p_text(p)) if p is not None else "–" for p in p_values)
    return (_estimate(row), _estimate(difference, signed=True), *shown, chip)


def _estimate(found: Mapping[str, Any], *, signed: bool = False) -> str:
    if found["mean"] is None:
        return "–"
    usual = Estimate(found["mean"], found["low"], found["high"])
    estimate = estimate_of(found) if found.get("verdict") else usual
    mark = "*" if found["of_items_only"] and found["low"] is not None else ""
    return estimate_html(estimate, signed=signed) + mark
