"""A probe in the terminal: one row a task, one column an architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from windtunnel.report.probe_matrix import Matrix, Row, Score, read_matrix
from windtunnel.report.terminal import open_table
from windtunnel.report.units import count_text

_WITH_INTERVALS = 3
"""So many architectures have their intervals in the table; of more they are in the report."""


def probe_view(result: Mapping[str, Any]) -> RenderableType:
    """The scores, the loss on text and the state; what the signs mean.

    Raises:
        StudyError: the results are not a probe's.
    """
    matrix = read_matrix(result)
    wide = len(matrix.names) <= _WITH_INTERVALS
    table = open_table(
        "Accuracy on the tasks' tests, 95% intervals over seeds",
        {"task": False, "chance": True, **dict.fromkeys(matrix.names, True)},
    )
    for row in matrix.rows:
        table.add_row(*_cells(row, matrix.names, wide))
    if matrix.text is not None:
        table.add_section()
        table.add_row(*_cells(matrix.text, matrix.names, wide))
    if matrix.states:
        length, held = matrix.states[-1]
        values = [count_text(held.get(name)) for name in matrix.names]
        table.add_row(f"state, {length} tokens", "", *values)
    return Group(table, Text("\n".join(legend(matrix))))


def legend(matrix: Matrix) -> list[str]:
    """What the signs in the cells mean, and what is to be known of the numbers."""
    scores = [score for row in matrix.rows for score in row.scores.values()]
    lines = [*matrix.notes]
    if any(score.at_edge and not score.trouble for score in scores):
        lines.append(
            "+: the best rate lay at the edge of those tried; a better one may lie beyond."
        )
    return lines


def _cells(row: Row, names: tuple[str, ...], wide: bool) -> list[str]:
    chance = "" if row.chance is None else f"{row.chance:.2f}"
    return [row.name, chance, *(_cell(row.scores.get(name), wide) for name in names)]


def _cell(score: Score | None, wide: bool) -> str:
    if score is None:
        return "-"
    return f"{score.text} {score.interval}".strip() if wide and not score.trouble else score.text
