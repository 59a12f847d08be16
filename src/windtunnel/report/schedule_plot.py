"""A schedule, or any series, as one line of text, or as a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from windtunnel.report.page import asset, document, embedded_json, plotly_script

MOST_POINTS = 5000
"""Updates of one run that are drawn."""

_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each update of a run, and a line that describes them."""

    rates: Sequence[float]
    text: str


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """The values as blocks from zero (or their minimum, when below) to their maximum.

    More values than `width` are averaged in equal groups. Raises ValueError for a value that is
    not finite: a schedule has none.

    >>> sparkline([0.0, 0.5, 1.0, 0.5])
    '▁▅█▅'
    """
    if not all(math.isfinite(value) for value in values):
        raise ValueError("sparkline: every value must be finite")
    count = min(width, len(values))
    edges = [i * len(values) // count for i in range(count + 1)] if count else []
    means = [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    floor = min(low, 0.0)
    span = (high - floor) or 1.0
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[math.floor((mean - floor) / span * top + 0.5)] for mean in means)


def render_schedules(curves: Mapping[str, Schedule]) -> str:
    """A page that plots learning rates over the steps, a line for each run, as text.

    It carries all it needs and loads nothing, as the report of a study does.
    """
    described = "".join(
        f"<li><b>{escape(name)}</b>: {escape(curve.text)}</li>" for name, curve in curves.items()
    )
    body = (
        "<header><p class=kicker>Windtunnel</p><h1>Learning rate</h1></header><main><section>"
        '<figure><div id="plot"></div></figure>'
        f'<ul class="reasons">{described}</ul></section></main>'
    )
    data = [{"name": name, **_drawn(curve.rates)} for name, curve in curves.items()]
    scripts = [plotly_script(), asset("schedule.js")]
    return document("Learning rate", body, embedded_json(data), scripts)


def _drawn(rates: Sequence[float]) -> dict[str, list[float]]:
    """The rates with their steps; of very many, evenly spaced ones, the last included."""
    count = min(len(rates), MOST_POINTS)
    steps = [round(i * (len(rates) - 1) / max(1, count - 1)) for i in range(count)]
    return {"steps": list(steps), "rates": [rates[step] for step in steps]}
