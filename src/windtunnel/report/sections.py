"""The parts of the HTML page that hold text and tables. Every text from outside is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from windtunnel.report.forest import forest
from windtunnel.report.study_report import Difference, StudyReport
from windtunnel.report.units import (
    Estimate,
    bytes_text,
    count_text,
    fixed,
    flops_text,
    level_text,
    p_text,
)
from windtunnel.report.verdicts import BUDGETS, UNITS, Arm, Verdicts

SYMBOLS = {"better": "✓", "worse": "✕", "undecided": "?", "reference": "●", "equivalent": "="}
_BUDGET_NAMES = {"tokens": "tokens", "flops": "FLOPs", "params": "params", "seconds": "time"}


def minus(text: str) -> str:
    """Escaped, with a real minus sign in front of numbers."""
    return escape(text).replace("-", "−")


def section(anchor: str, heading: str, *parts: str) -> str:
    """A section of the page with its heading."""
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}-heading">'
        f'<h2 id="{anchor}-heading">{escape(heading)}</h2>{"".join(parts)}</section>'
    )


def html_table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column heads each row; cells are HTML, headings are text."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def verdict_section(study: Verdicts) -> str:
    """The verdict: a conclusion in words, the table, and the reasons."""
    conclusion = f'<p class="conclusion">{escape(study.conclusion)}</p>' if study.conclusion else ""
    notes = [
        text for text in (study.design_words, study.pairing_words, *study.note.splitlines()) if text
    ]
    note = "".join(f'<p class="note">{escape(text)}</p>' for text in notes)
    headings = ["Architecture", "Verdict", "Loss", "Difference", "Bits per byte"]
    headings += ["Difference", "p", "p (Holm)", "Detectable"]
    table = html_table(
        f"Validation loss (nats per token) and bits per byte; p and detectable "
        f"({study.mde_words.replace(chr(39), '’')}): in {UNITS[study.metric]}",
        headings,
        (_verdict_row(study, arm) for arm in study.arms),
    )
    reasons = "".join(
        f"<li><b>{escape(arm.name)}</b>: {escape(arm.reason)}</li>"
        for arm in study.arms
        if arm.reason
    )
    listed = f'<ul class="reasons">{reasons}</ul>' if reasons else ""
    return section("verdict", "Verdict", conclusion, table, listed, note)


def _verdict_row(study: Verdicts, arm: Arm) -> tuple[str, ...]:
    first = arm.is_reference
    nats = arm.delta if study.in_nats else None  # a token is not the same thing in each arm
    bits = arm.delta_bits_per_byte
    return (
        escape(arm.name),
        chip(arm),
        estimate_html(arm.loss),
        "–" if nats is None else estimate_html(nats, signed=True),
        estimate_html(arm.bits_per_byte),
        "–" if bits is None else estimate_html(bits, signed=True),
        "–" if first else escape(p_text(arm.p_value)),
        "–" if first else escape(p_text(arm.p_holm)),
        "–" if first else "±" + minus(fixed(arm.mde, 3)),
    )


def chip(arm: Arm) -> str:
    """The verdict as a coloured word with a symbol, so that the colour is never alone."""
    words = f'<span class="chip {arm.verdict}">{SYMBOLS[arm.verdict]} {arm.verdict}</span>'
    return words + "".join(
        f' <span class="chip trouble">! {trouble}</span>' for trouble in arm.troubles
    )


def estimate_html(estimate: Estimate, *, signed: bool = False) -> str:
    mean = minus(estimate.mean_text(signed=signed))
    interval = minus(estimate.interval_text(signed=signed))
    if interval and estimate.confidence is not None:
        interval += f" {level_text(estimate.confidence)}"
    return f"<b>{mean}</b> <small>{interval}</small>" if interval else f"<b>{mean}</b>"


def forest_section(study: Verdicts) -> str:
    """Differences to the first architecture with their intervals; in nats, then bits per byte."""
    nats = [(arm, arm.delta) for arm in study.arms if arm.delta is not None and study.in_nats]
    bits = [
        (arm, arm.delta_bits_per_byte) for arm in study.arms if arm.delta_bits_per_byte is not None
    ]
    if not (nats or bits):
        return ""
    reference = escape(study.arms[0].name)
    rows = {"loss": (nats, "nats/token"), "bits_per_byte": (bits, "bits/byte")}
    # What the verdict is about comes first.
    shown = {name: rows[name] for name in sorted(rows, key=lambda name: name != study.metric)}
    shown = {name: row for name, row in shown.items() if row[0]}
    margins = {study.metric: study.margin}
    plots = "".join(
        _panel(
            name,
            forest(*row, shade_mde=name == study.metric, margin=margins.get(name)),
            hidden=i > 0,
        )
        for i, (name, row) in enumerate(shown.items())
    )
    if len(shown) > 1:
        plots = radios("forest-unit", "Unit", {name: UNITS[name] for name in shown}) + plots
    caption = (
        f"Each line is the difference to <b>{reference}</b> with its interval, at the level of "
        "confidence that stands beside it (95% if none does): 95% after Holm’s correction. An "
        "interval that crosses the zero line leaves the question open. Shaded: differences too "
        f"small to be detected with these seeds, {study.mde_words.replace(chr(39), '’')}."
    )
    if study.margin is not None:
        caption += " Between the dashed lines: differences that do not matter, by the margin."
    return section(
        "differences",
        "Differences",
        f"<figure>{plots}<figcaption>{caption}</figcaption></figure>",
    )


def _panel(name: str, content: str, *, hidden: bool) -> str:
    return f'<div data-forest="{name}"{" hidden" if hidden else ""}>{content}</div>'


def radios(name: str, legend: str, choices: Mapping[str, str]) -> str:
    """A group of radio buttons, the first one chosen."""
    items = "".join(
        f'<label><input type="radio" name="{name}" value="{value}"'
        f"{' checked' if i == 0 else ''}><span>{escape(label)}</span></label>"
        for i, (value, label) in enumerate(choices.items())
    )
    return f'<fieldset class="choice"><legend>{escape(legend)}</legend>{items}</fieldset>'


def cost_section(study: Verdicts) -> str:
    """What each architecture cost, and how far the budgets that were not matched differ."""
    others = [b for b in BUDGETS if any(b in arm.mismatch for arm in study.arms)]
    headings = ["Architecture", "Parameters", "Tokens", "FLOP per token", "Tokens/s", "Peak memory"]
    headings += [
        f"Δ {_BUDGET_NAMES[b]}" + (" (matched)" if b == study.match else "") for b in others
    ]
    rows = (
        (
            escape(arm.name),
            count_text(arm.params),
            count_text(arm.tokens),
            flops_text(arm.flops_per_token),
            arm.speed_text,
            bytes_text(arm.peak_memory_bytes),
            *(minus(arm.mismatch_text(b)) for b in others),
        )
        for arm in study.arms
    )
    words = f'<p class="note">{escape(study.time_words)}</p>' if study.time_words else ""
    return section("cost", "Cost", html_table("Cost of each architecture", headings, rows), words)


def reading_box() -> str:
    """How to read the page, for a reader who has never seen one."""
    points = {
        "Loss": "is the mean cross-entropy on held-out text, in nats per token. Lower is better. "
        "Bits per byte is the same thing counted per byte of text: it compares across tokenizers.",
        "Brackets": "hold a confidence interval over seeds: 95%, or the level beside it, which is "
        "95% after Holm's correction when several architectures are compared. Value and interval "
        "are rounded alike, to what the interval supports.",
        "Better, worse": "is said only when the difference is significant after Holm's "
        "correction for the number of comparisons.",
        "Undecided": "means that these runs cannot tell the two apart; it does not mean that they "
        "are equal. A difference smaller than “detectable” would mostly be missed.",
        "Equivalent": "is said, where a margin was given, when the interval lies within it.",
        "Matched": "names the one budget that was held equal. The other budgets differ by the "
        "percentages given; weigh them.",
        "Scope": "is this data, this size and this recipe. Rankings can change with scale.",
    }
    items = "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in points.items())
    return (
        '<details class="reading" open><summary>How to read this</summary>'
        f"<dl>{items}</dl></details>"
    )


def config_section(report: StudyReport, names: Sequence[str]) -> str:
    """Every architecture's config, and how it differs from the first one's."""
    known = [name for name in names if name in report.configs]
    if not known:
        return ""
    parts = [_config(report, name, is_first=name == names[0]) for name in known]
    return section("configs", "Configs", *parts)


def _config(report: StudyReport, name: str, *, is_first: bool) -> str:
    diff = report.diffs.get(name, ())
    if is_first:
        summary, table = "the reference", ""
    elif not diff:
        summary, table = "the same as the first", ""
    else:
        summary = f"{len(diff)} difference{'s' if len(diff) > 1 else ''} to the first"
        headings = ("Setting", "First", "This one")
        table = html_table(f"{name}: differences to the first", headings, map(_diff_row, diff))
    return (
        f'<details class="config"><summary><b>{escape(name)}</b> <small>{summary}</small></summary>'
        f"{table}<pre><code>{escape(report.configs[name])}</code></pre></details>"
    )


def _diff_row(difference: Difference) -> tuple[str, ...]:
    path, first, this = difference
    return (
        f"<code>{escape(path)}</code>",
        f"<del>{escape(plain(first))}</del>",
        f"<ins>{escape(plain(this))}</ins>",
    )


def plain(value: object) -> str:
    """A value for readers: text as it stands, the rest as JSON, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def samples_section(report: StudyReport, names: Sequence[str]) -> str:
    """What each architecture wrote for the same prompts, side by side."""
    if not report.samples:
        return ""
    parts = []
    for prompt, texts in report.samples.items():
        ordered = [name for name in names if name in texts]
        ordered += [name for name in texts if name not in names]
        cards = "".join(
            f"<article><h4>{escape(name)}</h4><p>{escape(texts[name])}</p></article>"
            for name in ordered
        )
        parts.append(f'<h3 class="prompt">{escape(prompt)}</h3><div class="cards">{cards}</div>')
    return section("samples", "Samples", *parts)


def environment_section(report: StudyReport) -> str:
    """Where and how the numbers were made."""
    command = f"<pre><code>{escape(report.command)}</code></pre>" if report.command else ""
    items = "".join(
        f"<div><dt>{escape(path)}</dt><dd>{escape(text)}</dd></div>"
        for path, text in flattened(report.environment)
    )
    if not command and not items:
        return ""
    listed = f'<dl class="environment">{items}</dl>' if items else ""
    return section("environment", "Environment", command, listed)


def flattened(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted paths and their values, in the tree's order."""
    rows = []
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += flattened(value, f"{path}.")
        else:
            rows.append((path, plain(value)))
    return rows
