"""A search in the terminal: the best trials, what matters, what was confirmed, the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from windtunnel.report.terminal import open_table, verdict_view
from windtunnel.report.units import bytes_text, count_text, fixed, flops_text

MOST_TRIALS = 10
_WIDTH, _HEIGHT = 56, 12


def search_view(results: Mapping[str, Any]) -> Group:
    """What ``search`` prints at its end: readable at 80 columns and without colour."""
    found = results["search"]
    parts: list[RenderableType] = [_trials_table(found), Text(counts_text(found), style="dim")]
    parts += [Text(text, style="dim") for text in (*memory_lines(found), *notes(found))]
    if found["importance"]:
        parts.append(_importance_table(found["importance"]))
    if (plot := front_plot(found)) is not None:
        parts += [Text(""), Text(plot)]
    if "arms" in results:
        parts.append(verdict_view(results))
        parts.append(_confirmed_table(found))
        parts.append(Text(found["note"], style="dim"))
    return Group(*parts)


def _trials_table(found: Mapping[str, Any]) -> Table:
    columns = {"trial": True, "loss": True, "params": True, "FLOPs": True, "settings": False}
    table = open_table("Best trials, by the loss on the tuning seed", columns)
    table.columns[0].min_width, table.columns[0].no_wrap = None, True
    table.columns[-1].no_wrap = False
    for number in found["best"][:MOST_TRIALS]:
        trial = found["trials"][number]
        table.add_row(
            str(number),
            fixed(trial["loss"], 4),
            count_text(trial["model_params"]),
            flops_text(trial["flops"]),
            Text(settings_text(trial)),
        )
    return table


def settings_text(trial: Mapping[str, Any]) -> str:
    """What a trial chose, in short: the ends of the paths."""
    parts = [f"{short_path(path)} {value_text(value)}" for path, value in trial["params"].items()]
    if trial["micro_batch_size"]:
        parts.append(f"(micro_batch_size {trial['micro_batch_size']}: memory)")
    return ", ".join(parts)


def short_path(path: str) -> str:
    """A path without what most paths share.

    >>> short_path("arch.layers[*].mixer.num_heads"), short_path("train.lr")
    ('mixer.num_heads', 'lr')
    """
    for start in ("arch.layers[*].", "arch.", "train."):
        path = path.removeprefix(start)
    return path


def value_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        rest = ", ".join(f"{k} {value_text(v)}" for k, v in value.items() if k != "type")
        name = str(value.get("type", ""))
        return f"{name}({rest})" if rest else name
    return str(value)


def counts_text(found: Mapping[str, Any]) -> str:
    """How many trials ended how."""
    words = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in found["counts"].items())
    copies = found["copies"]
    more = f"; {copies} of them equal to an earlier one, not trained again" if copies else ""
    return f"{len(found['trials'])} trials: {words}{more}"


def notes(found: Mapping[str, Any]) -> Sequence[str]:
    """What the losses of the trials do not say; nothing in results of earlier versions."""
    told: Sequence[str] = found.get("notes", ())
    return told


def memory_lines(found: Mapping[str, Any]) -> list[str]:
    """What memory refused, and how predictions were corrected."""
    memory = found["memory"]
    lines = []
    if memory["corrections"]:
        runs = ", ".join(
            f"trial {one['trial']} with micro-batch {one['micro_batch_size']}"
            for one in memory["corrections"]
        )
        lines.append(
            f"out of memory: {runs}; predictions were multiplied by {memory['factor']:.2f} after it"
        )
    large = [t for t in found["trials"] if t["status"] == "too_large"]
    if large:
        smallest = min(t["predicted_memory_bytes"] for t in large)
        lines.append(
            f"{len(large)} not trained: predicted from {bytes_text(smallest)} on, times "
            f"{memory['factor']:.2f}; {bytes_text(memory['limit_bytes'])} are there"
        )
    return lines


def _importance_table(importance: Mapping[str, Any]) -> Table:
    table = open_table(
        importance_title(importance), {"knob": False, "share": True, "interval": True, "": False}
    )
    for path, knob in importance["knobs"].items():
        table.add_row(
            Text(short_path(path)),
            f"{knob['share']:.0%}",
            f"[{knob['low']:.0%}, {knob['high']:.0%}]",
            "#" * round(20 * knob["share"]),
        )
    return table


def importance_title(importance: Mapping[str, Any]) -> str:
    trials = importance["trials"]
    warning = "" if importance["reliable"] else f"; unreliable, from {trials} trials alone"
    return (
        f"Importance for the loss ({importance['method']}, {importance['confidence']:.0%} over "
        f"trials drawn anew){warning}"
    )


def _confirmed_table(found: Mapping[str, Any]) -> Table:
    table = open_table(
        "Searched against confirmed: a choice flatters what it chose",
        {"trial": True, "searched": True, "confirmed": True, "95%": True, "higher by": True},
    )
    for one in found["confirmed"]:
        fresh = one["confirmed"]
        known = fresh["low"] is not None
        table.add_row(
            str(one["trial"]),
            fixed(one["searched"], 4),
            fixed(fresh["mean"], 4),
            f"[{fixed(fresh['low'], 4)}, {fixed(fresh['high'], 4)}]" if known else "-",
            fixed(one["optimism"], 4, signed=True),
        )
    return table


def front_points(found: Mapping[str, Any]) -> tuple[list[tuple[float, float, int, bool]], str]:
    """(cost, loss, trial, whether on the front) of every complete trial, and the cost's name."""
    axes = found["front"]["axes"]
    cost = next(axis for axis in axes if axis != "loss")
    key = {"flops": "flops", "params": "model_params", "memory": "predicted_memory_bytes"}[cost]
    front = set(found["front"]["trials"])
    points = [
        (float(trial[key]), float(trial["loss"]), trial["number"], trial["number"] in front)
        for trial in found["trials"]
        if trial["status"] == "complete" and trial["same_as"] is None
    ]
    return points, cost


COST_TEXT = {"flops": flops_text, "params": count_text, "memory": bytes_text}


def front_plot(found: Mapping[str, Any]) -> str | None:
    """Loss against cost as text, ``o`` on the front, ``.`` beside it; None for a single point."""
    points, cost = front_points(found)
    xs = [x for x, *_ in points]
    ys = [y for _, y, *_ in points]
    if len(set(xs)) < 2 or len(set(ys)) < 2:
        return None
    rows = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for x, y, _, is_best in sorted(points, key=lambda point: point[3]):
        column = round((x - min(xs)) / (max(xs) - min(xs)) * (_WIDTH - 1))
        row = round((y - min(ys)) / (max(ys) - min(ys)) * (_HEIGHT - 1))
        rows[_HEIGHT - 1 - row][column] = "o" if is_best else "."
    return _framed(rows, (min(xs), max(xs)), (min(ys), max(ys)), cost)


def _framed(
    rows: Sequence[Sequence[str]],
    across: tuple[float, float],
    up: tuple[float, float],
    cost: str,
) -> str:
    labels = [fixed(up[1], 3), *[""] * (len(rows) - 2), fixed(up[0], 3)]
    width = max(map(len, labels))
    lines = [f"{label:>{width}} |{''.join(row)}" for label, row in zip(labels, rows, strict=True)]
    low, high = COST_TEXT[cost](across[0]), COST_TEXT[cost](across[1])
    space = max(1, _WIDTH - len(low) - len(high))
    return "\n".join(
        [f"loss against {cost}; o: no other trial is better in both", *lines,
         " " * width + " +" + "-" * _WIDTH,
         " " * (width + 2) + low + " " * space + high]
    )  # fmt: skip
