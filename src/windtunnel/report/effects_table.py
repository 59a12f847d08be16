"""An ablation in the terminal: effects and interactions, readable at 80 columns, without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from windtunnel.report.effects import Ablation, Mean, Row, read_ablation
from windtunnel.report.terminal import STYLES, open_table
from windtunnel.report.units import fixed, p_text, percent_text

MOST_INTERACTIONS = 12
"""Interactions that are listed besides those that are better or worse together; the report has
all."""
_ORDER = {"equivalent": 1, "undecided": 2}
"""What comes after the others."""
_NONE = "-"


def effects_view(tree: Mapping[str, Any]) -> Group:
    """What ``ablate`` prints at its end.

    Raises StudyError for an ablation of another shape.
    """
    study = read_ablation(tree)
    parts: list[RenderableType] = [_effects(study)]
    if study.means:
        parts.append(_means(study.means, study.unit))
    if study.interactions:
        parts.append(_interactions(study))
    parts += [
        Text.assemble((row.name, "bold"), f": {row.reason}")
        for row in (*study.effects, *study.interactions)
        if row.reason
        and (row.delta is None or row.verdict not in _ORDER or row.role != "interaction")
    ]
    parts += [
        Text(f"left out: {count} point{'s' if count > 1 else ''}: {reason}")
        for reason, count in study.skipped.items()
    ]
    words = (
        "interval: of the difference, and MDE: the minimum detectable effect, both after "
        f"{study.correction_words} (95% over all rows of a table) and in {study.unit}"
    )
    parts += [
        Text(text, style="dim") for text in (study.looks_words, study.margin_words, words) if text
    ]
    parts.extend((Text(""), Text(study.conclusion, style="bold")))
    return Group(*parts)


def _effects(study: Ablation) -> Table:
    title = f"Effects on the validation loss, {study.unit}; below zero is better\n"
    if study.design == "grid":
        title += f"{_plural(study.points, 'point')}, {study.seeds_words}; "
        title += "each level against the baseline, averaged over all other factors"
    else:
        title += f"{_plural(study.points, 'arm')}, {study.seeds_words}"
    columns = {"effect": False, **_columns(study), "params": True, "verdict": False}
    table = open_table(title, columns)
    for row in study.effects:
        table.add_row(
            Text(row.name),
            *_numbers(row, study),
            Text(_NONE if row.params is None else percent_text(row.params)),
            Text(row.words, style=STYLES[row.verdict]),
        )
    return table


def _columns(study: Ablation) -> dict[str, bool]:
    found = {"diff.": True, "interval": True, "p (Holm)": True, "MDE": True}
    return found if study.looks is None else {"seeds": True, **found}


def _numbers(row: Row, study: Ablation) -> tuple[Text, ...]:
    delta = row.delta
    seeds = () if study.looks is None else (Text(str(row.seeds)),)
    return (
        *seeds,
        Text(_NONE if delta is None else delta.mean_text(signed=True)),
        Text((delta.interval_text(signed=True) if delta is not None else "") or _NONE),
        Text(p_text(row.p_holm)),
        Text(fixed(row.mde, 3)),
    )


def _means(means: Sequence[Mean], unit: str) -> Table:
    table = open_table(
        f"Mean loss at each level, {unit}; *: the baseline",
        {"factor": False, "level": False, "loss": True, "95% interval": True, "points": True},
    )
    before = ""
    for mean in means:
        table.add_row(
            Text(mean.factor if mean.factor != before else ""),
            Text(mean.level + (" *" if mean.is_baseline else "")),
            Text(mean.loss.mean_text()),
            Text(mean.loss.interval_text() or _NONE),
            Text(str(mean.settings)),
        )
        before = mean.factor
    return table


def _interactions(study: Ablation) -> Table:
    ordered = sorted(study.interactions, key=lambda row: _ORDER.get(row.verdict, 0))
    found = sum(row.verdict not in _ORDER for row in ordered)
    shown = ordered[: max(found, MOST_INTERACTIONS)]
    title = (
        f"Interactions, {study.unit}: what both changes do beyond the sum of each\n"
        "below zero: better together"
    )
    if len(shown) < len(ordered):
        hidden = ordered[len(shown) :]
        words = " or ".join(sorted({row.words for row in hidden}))
        title += f"; {len(hidden)} more are {words} (see the report)"
    table = open_table(title, {"changes": False, **_columns(study), "verdict": False})
    for row in shown:
        words = row.words.replace(" together", "\ntogether")
        table.add_row(
            Text(row.name.replace("×", "x")),
            *_numbers(row, study),
            Text(words, style=STYLES[row.verdict]),
        )
    return table


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
