"""An evaluation of a hypernetwork in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from windtunnel.report.terminal import open_table

_SPLITS = {"in_distribution": "in distribution", "left_out": "left-out family"}

_WIDTH, _GAP, _NAMES, _MOST_NAMES = 78, 2, 14, 32
"""Characters of a table, between columns, and at least and at most of its first one."""


def evaluation_view(summary: Mapping[str, Any]) -> RenderableType:
    """Of each split the losses by step, the gain over the strong initialisation, what is saved, and
    the ranks."""
    parts: list[RenderableType] = []
    for split, found in summary["splits"].items():
        parts += [_losses(split, found), _gains(found), _saved(found), _ranking(found["ranking"])]
    strong = ", ".join(f"{kind}: {name}" for kind, name in summary["strong"].items())
    notes = [
        f"unigram entropy {summary['unigram_entropy']:.3f} nats; strong is the best tuned of the "
        f"candidates ({strong}).",
        "gain: loss of strong minus loss, in nats, mean over architectures with a 95% bootstrap "
        "interval over them; wins: architectures with a lower loss.",
        "saved: median steps and mean seconds of strong's training that are not needed to end as "
        "low; pays after: trainings until the making of the start is paid for; overtaken: "
        "architectures whose training from strong ever comes to the start's loss at step 0.",
        "The hypernetwork has read more text than the trained models: this is amortised "
        "pretraining, and parameters cut from single trained models are its honest rival.",
    ]
    return Group(*parts, Text("\n".join(notes), style="dim"))


def _losses(split: str, found: Mapping[str, Any]) -> RenderableType:
    inits = found["inits"]
    steps = list(next(iter(inits.values()))["loss"])
    heading = f"{_SPLITS.get(split, split)}: {found['architectures']} architectures, loss by step"
    rows = [
        [init, *(_number(values["loss"][step]) for step in steps),
         f"{100 * values['below_unigram']:.0f}%"]
        for init, values in inits.items()
    ]  # fmt: skip
    return _tables(heading, ["from", *steps, "below unigram"], rows)


def _tables(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    """A table of names and figures; where it is too wide, several, each with the names."""
    widths = [max(map(cell_len, column)) + _GAP for column in zip(header, *rows, strict=True)]
    names = min(max(widths[0], _NAMES), _MOST_NAMES)
    parts: list[list[int]] = [[]]
    for column in range(1, len(header)):
        if parts[-1] and names + sum(widths[i] for i in (*parts[-1], column)) > _WIDTH:
            parts.append([])
        parts[-1].append(column)
    tables = []
    for number, part in enumerate(parts):
        columns = {header[0]: False} | {header[i]: True for i in part}
        table = open_table(title if not number else f"{title}, continued", columns)
        table.columns[0].min_width = names - _GAP
        for row in rows:
            table.add_row(row[0], *(row[i] for i in part))
        tables.append(table)
    return Group(*tables)


def _gains(found: Mapping[str, Any]) -> RenderableType:
    last = list(next(iter(found["inits"].values()))["loss"])[-1]
    rows = []
    for init, values in found["inits"].items():
        if "gain" in values:
            rows.append([f"{init} over strong", *_gain(values["gain"][last])])
        if "ghn_gain_over_it" in values:
            rows.append([f"ghn over {init}", *_gain(values["ghn_gain_over_it"][last])])
    for half, others in found.get("halves", {}).items():
        for init, gain in others.items():
            rows.append([f"ghn over {init}, {half} half", *_gain(gain[last])])
    return _tables(f"after {last} steps", ["", "gain", "95% interval", "wins"], rows)


def _saved(found: Mapping[str, Any]) -> RenderableType:
    """The steps that each start saves of strong's training, and when it has paid."""
    rows = []
    for init, values in found["inits"].items():
        if "saved" in values:
            own = values["saved"]
            even = own["break_even"]
            rows.append(
                [init, f"{100 * own['reached']:.0f}%", f"{own['steps']:,.0f}",
                 "-" if own["seconds"] is None else _seconds(own["seconds"]),
                 "-" if even is None else f"{even:,.0f} trainings",
                 f"{100 * own['strong_reaches_start']:.0f}%"]
            )  # fmt: skip
    header = ["from", "reached", "steps saved", "seconds saved", "pays after", "overtaken"]
    return _tables("what is saved, to end at strong's last loss", header, rows)


def _seconds(value: float) -> str:
    """At least two significant digits."""
    return f"{value:,.1f}" if abs(value) >= 10 or not value else f"{value:.2g}"


def _ranking(ranking: Mapping[str, Any]) -> RenderableType:
    """Kendall's τ of each guess in each part."""
    header = ["", *(f"{part} ({found['of']})" for part, found in ranking.items())]
    rows = [
        [name, *(_tau(found["tau"][name]) for found in ranking.values())]
        for name in ranking["overall"]["tau"]
    ]
    return Group(_tables("Kendall's tau with strong's last loss", header, rows), Text(""))


def _tau(told: Mapping[str, Any]) -> str:
    if told["value"] is None:
        return "-"
    return f"{told['value']:.2f} [{told['low']:.2f}, {told['high']:.2f}]"


def _gain(gain: Mapping[str, Any]) -> tuple[str, str, str]:
    if None in (gain["mean"], gain["low"], gain["high"]):
        return ("some diverged", "-", f"{gain['wins']}/{gain['of']}")
    return (
        f"{gain['mean']:+.3f}",
        f"[{gain['low']:+.3f}, {gain['high']:+.3f}]",
        f"{gain['wins']}/{gain['of']}",
    )


def _number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.3f}"
