"""The matrix of a probe as rows of cells, for the terminal and the page. Plain values alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from windtunnel.errors import StudyError
from windtunnel.report.units import Estimate


@dataclass(frozen=True)
class Score:
    """One architecture on one task."""

    estimate: Estimate
    trouble: str
    """What went wrong, such as "diverged 1 of 3"; empty where nothing did."""
    at_edge: bool
    """The best rate lay at the edge of what was tried."""
    level: float | None
    """From 0 (chance) to 1 (all right); None where there is no mean."""

    @property
    def text(self) -> str:
        """The mean (two decimals at least) and a sign for an edge, or what went wrong."""
        if self.trouble:
            return self.trouble
        mean = self.estimate.mean
        return "n/a" if mean is None else f"{mean:.2f}" + "+" * self.at_edge

    @property
    def interval(self) -> str:
        """Its 95% interval; empty without one."""
        low, high = self.estimate.low, self.estimate.high
        return "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"


@dataclass(frozen=True)
class Row:
    """A task (at one length of its test), or the loss on text."""

    name: str
    chance: float | None
    scores: Mapping[str, Score]
    """By architecture; where one is missing, nothing was measured."""


@dataclass(frozen=True)
class Matrix:
    """All of a probe, ready to be shown."""

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    text: Row | None
    params: Mapping[str, tuple[int, int]]
    """By architecture: the smallest and the largest of the parameters over the tasks."""
    states: tuple[tuple[int, Mapping[str, int]], ...]
    """Numbers held after so many tokens, by architecture, for each length of the tasks."""
    notes: tuple[str, ...]
    question: str


def read_matrix(result: Mapping[str, Any]) -> Matrix:
    """The matrix of a ``study.json``.

    Raises:
        StudyError: it is not a probe's.
    """
    try:
        names = tuple(result["architectures"])
        cells = result["cells"]
        rows = tuple(row for task in result["tasks"] for row in _rows(result, task))
        found = {name: _score(cell, "score", None) for name, cell in result["text"].items()}
        params = {name: [cell["params"] for cell in cells[name].values()] for name in names}
        return Matrix(
            names=names,
            rows=rows,
            text=Row("text, loss", None, found) if found else None,
            params={name: (min(counts), max(counts)) for name, counts in params.items() if counts},
            states=_states(cells, names),
            notes=tuple(result["notes"]),
            question=result["question"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise StudyError(f"the results of the probe are damaged: {error!r}") from error


def _rows(result: Mapping[str, Any], task: str) -> list[Row]:
    about, cells = result["tasks"][task], result["cells"]
    chance = about["chance"]
    mine = {name: cells[name][task] for name in result["architectures"]}
    rows = [Row(task, chance, {name: _score(c, "score", chance) for name, c in mine.items()})]
    for length in about["lengths"][1:]:
        scores = {name: _score(cell, str(length), chance) for name, cell in mine.items()}
        rows.append(Row(f"{task} at {length}", chance, scores))
    return rows


def _score(cell: Mapping[str, Any], what: str, chance: float | None) -> Score:
    empty = {"mean": None, "low": None, "high": None}
    found = cell["score"] if what == "score" else cell["longer"].get(what, empty)
    mean = found["mean"]
    seeds = len(cell["score"].get("values", ()))
    trouble = ", ".join(
        f"{word} {cell[word]} of {seeds}" for word in ("diverged", "failed") if cell.get(word)
    )
    level = None
    if chance is not None and mean is not None:
        level = min(1.0, max(0.0, (mean - chance) / (1 - chance)))
    estimate = Estimate(mean, found["low"], found["high"])
    return Score(estimate, trouble, bool(cell.get("at_edge")), level)


def _states(
    cells: Mapping[str, Any], names: tuple[str, ...]
) -> tuple[tuple[int, Mapping[str, int]], ...]:
    found: dict[int, dict[str, int]] = {}
    for name in names:
        for cell in cells[name].values():
            found.setdefault(cell["seq_len"], {})[name] = cell["state_values"]
    return tuple(sorted(found.items()))
