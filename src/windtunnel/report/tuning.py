"""What tuning gave each arm, and what it cost: a table in the terminal, a section in the page."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from rich.table import Table

from windtunnel.report.sections import html_table, section
from windtunnel.report.terminal import open_table
from windtunnel.report.units import count_text, duration_text

_SPENT = {"tune": "tuning", "compare": "comparison"}


def tuning_table(results: Mapping[str, Any]) -> Table | None:
    """One row an arm: what was chosen, from how many runs; None where nothing was tuned."""
    if "tuning" not in results:
        return None
    table = open_table(
        "Tuning, chosen on validation with seeds of its own",
        {"architecture": False, "chosen": False, "edge": False, "runs": True, "tokens": True,
         "time": True},
    )  # fmt: skip
    for name, arm in results["tuning"].items():
        cost = results["spent"][name].get("tune", {})
        table.add_row(
            name,
            _chosen(arm),
            "at the edge" if arm["at_edge"] else "-",
            str(cost.get("runs", 0)),
            count_text(cost.get("tokens")),
            duration_text(cost.get("seconds")),
        )
    return table


def tuning_section(results: Mapping[str, Any]) -> str:
    """Every point that was tried, what was chosen, and what each arm was given; empty where nothing
    was tuned."""
    if "tuning" not in results:
        return ""
    tuned = results["tuning"]
    note = (
        '<p class="note">Every arm has the same grid, extended where its best point lay at an end. '
        "The point of the lowest validation loss was chosen, with seeds that no comparison uses; "
        "the losses here are those of the choice, and so a little too low to be compared.</p>"
    )
    chosen = html_table(
        "Chosen for each architecture",
        ["Architecture", "Chosen", "At the edge", "Points tried"],
        (
            (escape(name), escape(_chosen(arm)), "yes" if arm["at_edge"] else "no",
             escape("; ".join(_trial(trial) for trial in _in_order(arm["trials"]))))
            for name, arm in tuned.items()
        ),
    )  # fmt: skip
    spent = html_table(
        "Spent on each architecture, as recorded",
        ["Architecture", "For", "Runs", "Tokens", "FLOPs", "Training time"],
        (
            (escape(name), _SPENT.get(kind, kind), str(cost["runs"]), count_text(cost["tokens"]),
             f"{cost['flops']:.3g}", duration_text(cost["seconds"]))
            for name, kinds in results["spent"].items()
            for kind, cost in kinds.items()
        ),
    )  # fmt: skip
    return section("tuning", "Tuning", note, chosen, spent)


def _chosen(arm: Mapping[str, Any]) -> str:
    names = [path.rpartition(".")[2] for path in arm["paths"]]
    pairs = zip(names, arm["chosen"], strict=True)
    return ", ".join(f"{name} {_value(value)}" for name, value in pairs)


def _trial(trial: Mapping[str, Any]) -> str:
    values = ", ".join(map(_value, trial["values"]))
    loss = trial["loss"]
    return f"{values}: {'no loss' if loss is None else f'{loss:.4f}'}"


def _in_order(trials: list[Any]) -> list[Any]:
    try:
        return sorted(trials, key=lambda trial: trial["values"])
    except TypeError:  # words beside numbers have no order
        return trials


def _value(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if is_number else str(value)
