"""The report of a probe: a heat map with its numbers, as one file without scripts."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from windtunnel.report.page import document
from windtunnel.report.probe_matrix import Matrix, Row, Score, read_matrix
from windtunnel.report.probe_table import legend
from windtunnel.report.sections import html_table, section
from windtunnel.report.units import amount, count_text


def render_probe(result: Mapping[str, Any], *, command: str = "") -> str:
    """The whole page as text; the same results give the same text.

    Raises:
        StudyError: the results are not a probe's.
    """
    matrix = read_matrix(result)
    parts = [
        scores_section(matrix),
        _state_section(matrix),
        _tuning_section(result),
        _tasks_section(result),
        section("command", "Command", f"<pre><code>{escape(command)}</code></pre>"),
    ]
    recipe = result["recipe"]
    facts = (
        f"{amount(len(matrix.names), 'architecture')} · {amount(len(result['tasks']), 'task')} · "
        f"{amount(recipe['steps'], 'step')} of {recipe['batch_size']} · "
        f"{amount(len(recipe['seeds']), 'seed')}"
    )
    body = (
        f'<header><p class="kicker">windtunnel · probe</p><h1>{escape(matrix.question)}</h1>'
        f'<p class="facts">{escape(facts)}</p></header><main>{"".join(parts)}</main>'
        "<footer>Made by <b>windtunnel</b>. Everything on this page is in this file.</footer>"
    )
    return document(matrix.question, body, "[]", [])


def scores_section(matrix: Matrix) -> str:
    """The heat map: from chance (white) to all right (full colour), with every number."""
    rows = [_html_row(row, matrix.names) for row in matrix.rows]
    caption = "Accuracy on the tests (mean and 95% interval over seeds)"
    if matrix.text is not None:
        rows.append(_html_row(matrix.text, matrix.names))
        caption += "; the last row: validation loss on text, in nats per token"
    table = html_table(
        caption,
        ["Task", "Chance", *matrix.names],
        rows,
    )
    notes = "".join(f'<p class="note">{escape(text)}</p>' for text in legend(matrix))
    return section("scores", "Scores", table, notes)


def _html_row(row: Row, names: tuple[str, ...]) -> list[str]:
    chance = "" if row.chance is None else f"{row.chance:.3f}"
    return [escape(row.name), chance, *(_html_cell(row.scores.get(name)) for name in names)]


def _html_cell(score: Score | None) -> str:
    if score is None:
        return "–"
    if score.trouble:
        return f'<span class="chip trouble">! {escape(score.trouble)}</span>'
    share = 0 if score.level is None else round(100 * score.level)
    tint = f"background: color-mix(in srgb, var(--accent) {share * 0.55:.0f}%, transparent)"
    return (
        f'<span style="display: block; padding: .2em .4em; {tint}"><b>{escape(score.text)}</b> '
        f"<small>{escape(score.interval)}</small></span>"
    )


def _state_section(matrix: Matrix) -> str:
    rows = [
        (f"{length} tokens", *(count_text(held.get(name)) for name in matrix.names))
        for length, held in matrix.states
    ]
    params = [
        escape(count_text(low) if low == high else f"{count_text(low)} to {count_text(high)}")
        for low, high in (matrix.params.get(name, (0, 0)) for name in matrix.names)
    ]
    note = (
        '<p class="note">Numbers that a sequence’s state holds after so many tokens, from the cost '
        "model; the parameters differ from task to task by the vocabulary.</p>"
    )
    table = html_table("State", ["After", *matrix.names], [*rows, ("Parameters", *params)])
    return section("state", "State size", table, note)


def _tuning_section(result: Mapping[str, Any]) -> str:
    rows = [
        (
            escape(f"{arch} on {task}"),
            f"{cell['lr']:g}",
            "yes" if cell["at_edge"] else "no",
            escape("; ".join(_trial(trial) for trial in cell["trials"])),
        )
        for arch, cells in result["cells"].items()
        for task, cell in {**cells, **_text_cell(result, arch)}.items()
    ]
    note = (
        '<p class="note">Every cell has the same rates to choose from, and one more where the best '
        "lies at an edge. The lowest validation loss decides; these losses are not scores.</p>"
    )
    headings = ["Cell", "Learning rate", "At the edge", "Validation losses of the rates"]
    return section("tuning", "Tuning", note, html_table("Chosen rates", headings, rows))


def _text_cell(result: Mapping[str, Any], arch: str) -> dict[str, Any]:
    cell = result["text"].get(arch)
    return {"text": cell} if cell is not None and "trials" in cell else {}


def _trial(trial: Mapping[str, Any]) -> str:
    loss = trial["loss"]
    return f"{trial['lr']:g}: " + ("no loss" if loss is None else f"{loss:.4f}")


def _tasks_section(result: Mapping[str, Any]) -> str:
    rows = [
        (
            escape(name),
            escape(", ".join(f"{key} {value}" for key, value in task["source"].items())),
            f"{task['chance']:.3f}",
        )
        for name, task in result["tasks"].items()
    ]
    headings = ["Task", "Settings", "Chance"]
    return section("tasks", "Tasks", html_table("What was asked", headings, rows))
