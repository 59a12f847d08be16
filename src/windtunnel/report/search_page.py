"""A search in the report: every trial, the front, what matters, what was confirmed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from windtunnel.report.search_view import (
    counts_text,
    front_points,
    importance_title,
    memory_lines,
    notes,
    settings_text,
    short_path,
    value_text,
)
from windtunnel.report.sections import html_table, section
from windtunnel.report.units import bytes_text, count_text, fixed, flops_text

FRONT_NAMES = {
    "flops": "FLOPs of a run's training",
    "params": "parameters",
    "memory": "predicted peak memory, bytes",
}


def search_section(results: Mapping[str, Any]) -> str:
    """The section of a search; empty for other studies."""
    if "search" not in results:
        return ""
    found = results["search"]
    parts = [_front_figure(found), _trials(found), _importance(found), _confirmed(found)]
    told = [counts_text(found), *memory_lines(found), *notes(found)]
    lines = "".join(f'<p class="note">{escape(text)}</p>' for text in told)
    return section("search", "Search", lines, *parts)


def search_data(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the plots are drawn from; None for other studies."""
    if "search" not in results:
        return None
    found = results["search"]
    points, cost = front_points(found)
    trials = [
        {"number": number, "cost": x, "loss": y, "front": best,
         "settings": settings_text(found["trials"][number])}
        for x, y, number, best in points
    ]  # fmt: skip
    return {
        "cost": FRONT_NAMES[cost],
        "trials": trials,
        "knobs": [
            axis
            for path in found["question"]["space"]
            if (axis := _axis(path, [found["trials"][t["number"]] for t in trials])) is not None
        ],
    }


def _axis(path: str, trials: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A knob as an axis of parallel coordinates: of its numbers, or of the places of its words; a
    trial without the knob has a place of its own. None where it is the same in all."""
    values = [trial["params"].get(path) for trial in trials]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return {"name": short_path(path), "values": values} if len(set(values)) > 1 else None
    texts = ["–" if value is None else value_text(value) for value in values]
    labels = sorted(set(texts))
    if len(labels) < 2:
        return None
    places = [labels.index(text) for text in texts]
    return {"name": short_path(path), "values": places, "labels": labels}


def _front_figure(found: Mapping[str, Any]) -> str:
    if not front_points(found)[0]:
        return ""
    caption = (
        "Above: every complete trial by its loss on the tuning seed and its cost; the line joins "
        "those that no other beats in both. Below: what each chose, coloured by its loss; drag "
        "along an axis to select."
    )
    return (
        '<figure><div id="search-front" role="img" aria-label="Loss against cost; the values are '
        'in the table"></div><div id="search-knobs" role="img" aria-label="Settings of each '
        f'trial; the values are in the table"></div><figcaption>{caption}</figcaption></figure>'
    )


def _trials(found: Mapping[str, Any]) -> str:
    front = set(found["front"]["trials"])
    ranked = sorted(found["trials"], key=lambda t: (_rank(t), t["number"]))
    rows = (
        (str(t["number"]), _status(t, on_front=t["number"] in front), fixed(t["loss"], 4),
         count_text(t["model_params"]), flops_text(t["flops"]),
         bytes_text(t["predicted_memory_bytes"]), escape(settings_text(t)))
        for t in ranked
    )  # fmt: skip
    headings = ("Trial", "Outcome", "Loss", "Parameters", "FLOPs", "Predicted memory", "Settings")
    return html_table(
        "Every trial, the best first; losses on the tuning seed, in nats per token", headings, rows
    )


def _rank(trial: Mapping[str, Any]) -> float:
    return trial["loss"] if trial["status"] == "complete" else math.inf


def _status(trial: Mapping[str, Any], *, on_front: bool) -> str:
    words = trial["status"].replace("_", " ") + (", on the front" if on_front else "")
    if trial["same_as"] is not None:
        words += f", as trial {trial['same_as']}"
    reason = f"<small>{escape(trial['reason'])}</small>" if trial["reason"] else ""
    return f"{escape(words)} {reason}"


def _importance(found: Mapping[str, Any]) -> str:
    importance = found["importance"]
    if not importance:
        return ""
    rows = (
        (f"<code>{escape(path)}</code>", f"{knob['share']:.0%}",
         f"{knob['low']:.0%} to {knob['high']:.0%}")
        for path, knob in importance["knobs"].items()
    )  # fmt: skip
    return html_table(importance_title(importance), ("Knob", "Share", "Interval"), rows)


def _confirmed(found: Mapping[str, Any]) -> str:
    if not found["confirmed"]:
        return ""
    rows = (
        (str(one["trial"]), fixed(one["searched"], 4), fixed(one["confirmed"]["mean"], 4),
         f"{fixed(one['confirmed']['low'], 4)} to {fixed(one['confirmed']['high'], 4)}",
         fixed(one["optimism"], 4, signed=True))
        for one in found["confirmed"]
    )  # fmt: skip
    headings = ("Trial", "Searched", "Confirmed", "95%", "Higher by")
    table = html_table("Loss on the tuning seed, and the mean on fresh ones", headings, rows)
    return f'{table}<p class="note">{escape(found["note"])}</p>'
