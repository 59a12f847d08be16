"""An ablation on the page: the conclusion, effects as figure and table, means, interactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from windtunnel.report.effects import Ablation, Row, read_ablation
from windtunnel.report.forest import forest
from windtunnel.report.sections import SYMBOLS, estimate_html, html_table, minus, section
from windtunnel.report.units import Estimate, fixed, p_text, percent_text

MOST_INTERACTIONS_DRAWN = 30


def effects_section(tree: Mapping[str, Any]) -> str:
    """Conclusion, figure and table of the effects, and the mean loss at each level of a grid.

    Raises StudyError for an ablation of another shape.
    """
    study = read_ablation(tree)
    parts = [f'<p class="conclusion">{escape(study.conclusion)}</p>', _design(study)]
    parts.append(_figure(study.effects, study, _caption(study, "effects")))
    parts.append(_effects_table(study))
    if study.means:
        parts.append(_means_table(study))
    parts.append(_reasons(study.effects))
    return section("effects", "Effects", *parts)


def interactions_section(tree: Mapping[str, Any]) -> str:
    """Figure and table of the interactions; empty where the design has none."""
    study = read_ablation(tree)
    if not study.interactions:
        return ""
    ordered = sorted(study.interactions, key=_strength, reverse=True)
    drawn = ordered[:MOST_INTERACTIONS_DRAWN]
    caption = _caption(study, "interactions")
    if len(drawn) < len(ordered):
        caption += f" Drawn are the {len(drawn)} furthest from zero, for their noise."
    return section(
        "interactions",
        "Interactions",
        _figure(drawn, study, caption),
        _interactions_table(study, ordered),
        _reasons(study.interactions),
    )


def _caption(study: Ablation, what: str) -> str:
    """Of a figure: what a line is, and what its interval is corrected for."""
    corrected = f"95% after {study.correction_words.replace(chr(39), '’')} over all {what}"
    beyond = "" if study.margin is None else " and reaches a dashed one"
    if what == "interactions":
        return (
            "Each line is what two changes do together beyond the sum of what each does (the "
            "difference of differences), averaged over all settings of the others: below zero they "
            f"are better together. Intervals are {corrected} of this study."
        )
    return (
        f"Each line is the difference that a change makes, with its interval: {corrected} of this "
        "study. In a grid it is averaged over all settings of the other factors. An interval that "
        f"crosses the zero line{beyond} leaves the question open. Shaded: effects too small to be "
        "detected with these seeds."
    )


def _strength(row: Row) -> float:
    if row.delta is None or row.delta.mean is None or not row.mde:
        return 0.0
    return abs(row.delta.mean) / row.mde


def _design(study: Ablation) -> str:
    items = "".join(
        f"<li><b>{escape(name)}</b>: "
        + ", ".join(
            f"{escape(level)} (the baseline)" if level == baseline else escape(level)
            for level in levels
        )
        + "</li>"
        for name, levels, baseline in study.factors
    )
    left_out = "".join(
        f"<li>left out: {count} point{'s' if count > 1 else ''}, {escape(reason)}</li>"
        for reason, count in study.skipped.items()
    )
    words = "".join(
        f"<li>{escape(text)}</li>" for text in (study.looks_words, study.margin_words) if text
    )
    return f'<ul class="reasons">{items}{left_out}{words}</ul>'


def _figure(rows: Sequence[Row], study: Ablation, caption: str) -> str:
    drawn = [(row, row.delta) for row in rows if row.delta is not None]
    if not drawn:
        return ""
    plot = forest(drawn, study.unit, shade_mde=True, margin=study.margin)
    if study.margin is not None:
        caption += " Between the dashed lines: differences that do not matter, by the margin."
    return f"<figure>{plot}<figcaption>{caption}</figcaption></figure>"


def _chip(row: Row) -> str:
    return f'<span class="chip {row.verdict}">{SYMBOLS[row.verdict]} {escape(row.words)}</span>'


def _cells(row: Row, study: Ablation) -> tuple[str, ...]:
    seeds = () if study.looks is None else (str(row.seeds),)
    return (
        escape(row.name),
        _chip(row),
        *seeds,
        "–" if row.delta is None else estimate_html(row.delta, signed=True),
        escape(p_text(row.p_value)),
        escape(p_text(row.p_holm)),
        "–" if row.mde is None else "±" + minus(fixed(row.mde, 3)),
        f"{row.settings} of {row.of_settings}",
    )


def _headings(first: str, study: Ablation) -> list[str]:
    seeds = [] if study.looks is None else ["Seeds"]
    return [first, "Verdict", *seeds, "Difference", "p", "p (Holm)", "Detectable", "Settings"]


def _effects_table(study: Ablation) -> str:
    rows = (
        (*_cells(row, study), _change(row.params), _change(row.flops_per_token))
        for row in study.effects
    )
    return html_table(
        f"Effects on the validation loss, in {study.unit}",
        [*_headings("Effect", study), "Δ params", "Δ FLOP per token"],
        rows,
    )


def _change(fraction: float | None) -> str:
    return "–" if fraction is None else minus(percent_text(fraction))


def _interactions_table(study: Ablation, rows: Sequence[Row]) -> str:
    return html_table(
        f"Interactions, in {study.unit}, the furthest from zero (for its noise) first",
        _headings("Changes", study),
        (_cells(row, study) for row in rows),
    )


def _means_table(study: Ablation) -> str:
    rows = (
        (
            escape(f"{mean.factor}: {mean.level}")
            + (" (the baseline)" if mean.is_baseline else ""),
            estimate_html(Estimate(mean.loss.mean, mean.loss.low, mean.loss.high)),
            str(mean.settings),
        )
        for mean in study.means
    )
    return html_table(
        f"Mean loss at each level, in {study.unit}, over the points that have results",
        ["Level", "Loss", "Points"],
        rows,
    )


def _reasons(rows: Sequence[Row]) -> str:
    items = "".join(
        f"<li><b>{escape(row.name)}</b>: {escape(row.reason)}</li>" for row in rows if row.reason
    )
    return f'<ul class="reasons">{items}</ul>' if items else ""
