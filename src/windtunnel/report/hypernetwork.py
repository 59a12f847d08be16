"""An evaluation of a hypernetwork in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from windtunnel.report.terminal import open_table

_SPLITS = {"in_distribution": "in distribution", "left_out": "left-out family"}


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
        "low; pays after: trainings until the making of the start is paid for.",
        "The hypernetwork has read more text than the trained models: this is amortised "
        "pretraining, and parameters cut from single trained models are its honest rival.",
    ]
    return Group(*parts, Text("\n".join(notes), style="dim"))


def _losses(split: str, found: Mapping[str, Any]) -> RenderableType:
    inits = found["inits"]
    steps = list(next(iter(inits.values()))["loss"])
    heading = f"{_SPLITS.get(split, split)}: {found['architectures']} architectures, loss by step"
    table = open_table(
        heading, {"from": False, **dict.fromkeys(steps, True), "below unigram": True}
    )
    for init, values in inits.items():
        row = [_number(values["loss"][step]) for step in steps]
        table.add_row(init, *row, f"{100 * values['below_unigram']:.0f}%")
    return table


def _gains(found: Mapping[str, Any]) -> RenderableType:
    last = list(next(iter(found["inits"].values()))["loss"])[-1]
    table = open_table(
        f"after {last} steps", {"": False, "gain": True, "95% interval": True, "wins": True}
    )
    for init, values in found["inits"].items():
        if "gain" in values:
            table.add_row(f"{init} over strong", *_gain(values["gain"][last]))
        if "ghn_gain_over_it" in values:
            table.add_row(f"ghn over {init}", *_gain(values["ghn_gain_over_it"][last]))
    for half, others in found.get("halves", {}).items():
        for init, gain in others.items():
            table.add_row(f"ghn over {init}, {half} half", *_gain(gain[last]))
    return table


def _saved(found: Mapping[str, Any]) -> RenderableType:
    """The steps that each start saves of strong's training, and when it has paid."""
    columns = {
        "to strong's last loss": False, "reached": True, "steps saved": True,
        "seconds saved": True, "pays after": True, "strong reaches its start": True,
    }  # fmt: skip
    table = open_table("what is saved", columns)
    for init, values in found["inits"].items():
        if "saved" in values:
            own = values["saved"]
            even = own["break_even"]
            table.add_row(
                init, f"{100 * own['reached']:.0f}%", f"{own['steps']:,.0f}",
                "-" if own["seconds"] is None else f"{own['seconds']:,.1f}",
                "-" if even is None else f"{even:,.0f} trainings",
                f"{100 * own['strong_reaches_start']:.0f}%",
            )  # fmt: skip
    return table


def _ranking(ranking: Mapping[str, Any]) -> RenderableType:
    """Kendall's τ of each guess in each part."""
    columns = {f"{part} ({found['of']})": True for part, found in ranking.items()}
    table = open_table("Kendall's tau with strong's last loss", {"": False, **columns})
    for name in ranking["overall"]["tau"]:
        table.add_row(name, *(_tau(found["tau"][name]) for found in ranking.values()))
    return Group(table, Text(""))


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
