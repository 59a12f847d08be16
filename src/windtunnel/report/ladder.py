"""A ladder in the terminal: losses, laws, claims and the backtest, in ASCII."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from windtunnel.report.units import Estimate, count_text, duration_text

Tree = Mapping[str, Any]
NUMBERS = ("E", "A", "alpha", "B", "beta", "k", "gamma")
_LAWS = {
    "params_tokens": ("L = E + A N^-alpha + B D^-beta; 95% intervals", NUMBERS[:5]),
    "compute": ("L = E + k C^-gamma over compute; 95% intervals", ("E", "k", "gamma")),
}
_STYLES = {
    "better": "bold green", "worse": "bold red", "cannot say": "yellow", "crosses": "bold",
    "none in range": "bold",
}  # fmt: skip


def ladder_view(tree: Tree) -> Group:
    """What `windtunnel ladder` prints at its end."""
    parts: list[RenderableType] = [_loss_table(tree), *_law_tables(tree)]
    if tree["pairs"]:
        parts.append(_claim_table(tree))
    if tree["backtest"] and tree["backtest"]["cells"]:
        parts.append(_backtest_table(tree))
    parts += [Text(note, style="dim") for note in tree["notes"]]
    parts += [Text(""), Text(tree["conclusion"], style="bold")]
    return Group(*parts)


def estimate(tree: Tree | None, *, signed: bool = False) -> tuple[str, str]:
    """A mean and its interval, with the digits that the interval supports."""
    if tree is None or tree["mean"] is None:
        return "-", ""
    found = Estimate(tree["mean"], tree["low"], tree["high"])
    return found.mean_text(signed=signed), found.interval_text(signed=signed)


def sized(tree: Tree | None) -> tuple[str, str]:
    """As :func:`estimate`, for numbers of any size: three digits."""
    if tree is None:
        return "-", ""
    mean = f"{tree['mean']:.3g}"
    if tree["low"] is None:
        return mean, ""
    return mean, f"[{tree['low']:.2g}, {tree['high']:.2g}]"


def flops(value: float | None) -> str:
    """``1.5e+13``: computes are read by their powers."""
    return "-" if value is None else f"{value:.2g}"


def law_number(name: str, tree: Tree | None) -> tuple[str, str]:
    """A number of a law: factors have any size."""
    return sized(tree) if name in ("A", "B", "k") else estimate(tree)


def _table(title: str, columns: Sequence[str], texts: int = 1) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False,
        collapse_padding=True,
    )  # fmt: skip
    for place, heading in enumerate(columns):
        left = place < texts
        table.add_column(
            heading, justify="left" if left else "right", overflow="fold",
            min_width=12 if left else None,
        )  # fmt: skip
    return table


def _loss_table(tree: Tree) -> Table:
    """Sizes down, budgets across: the mean loss, and below it its interval over seeds."""
    seeds = len(tree["seeds"])
    table = _table(
        f"Validation loss, nats per token; mean of {seeds} seed{'s' * (seeds > 1)} (95% interval)",
        ["architecture", "params", *tree["budgets"]],
    )
    for rung in tree["rungs"]:
        cells = [
            c for c in tree["cells"] if c["arm"] == rung["arm"] and c["asked"] == rung["asked"]
        ]
        table.add_row(
            Text(rung["arm"]),
            count_text(rung["params"]),
            *(_loss(cell) for cell in cells),
        )
    return table


def _loss(cell: Tree) -> Text:
    if cell["mean"] is None:
        troubles = [f"{kind} {cell[kind]}" for kind in ("diverged", "failed") if cell[kind]]
        return Text(", ".join(troubles), style="bold red")
    mean, interval = estimate(cell)
    return Text.assemble(mean, ("\n" + interval if interval else "", "dim"))


def _law_tables(tree: Tree) -> list[Table]:
    """The laws over parameters and tokens, then those over compute; a table each."""
    laws = {
        kind: [
            (law["name"], found)
            for law in tree["laws"]
            for found in (law["law"], law["compute_law"])
            if found is not None and found["kind"] == kind
        ]
        for kind in _LAWS
    }
    tables = [_law_table(kind, of) for kind, of in laws.items() if of]
    for law in tree["laws"]:
        if law["law"] is None:
            table = _table("No law", ["architecture", "why"], texts=2)
            table.add_row(Text(law["name"]), Text(law["trouble"] or "no law", style="yellow"))
            tables.append(table)
    return tables


def _law_table(kind: str, laws: Sequence[tuple[str, Tree]]) -> Table:
    title, names = _LAWS[kind]
    table = _table(title, ["architecture", *names])
    for name, numbers in laws:
        shown = [law_number(key, numbers[key]) for key in names]
        table.add_row(
            Text(name), *(Text.assemble(mean, ("\n" + part, "dim")) for mean, part in shown)
        )
    return table


def _claim_table(tree: Tree) -> Table:
    first = tree["pairs"][0]["first"]
    at = tree["at"]["flops"]
    table = _table(
        f"Against {first}: the difference at {flops(at)} FLOPs, and where the curves cross",
        ["architecture", "difference", "interval", "verdict", "crossing, FLOPs", "interval"],
    )
    for pair in tree["pairs"]:
        mean, interval = estimate(pair["at"], signed=True)
        crossing = pair["crossing"]
        spot = flops(crossing["flops"]) if crossing["verdict"] == "crosses" else crossing["verdict"]
        ends = f"[{flops(crossing['low'])}, {flops(crossing['high'])}]" * (
            crossing["verdict"] == "crosses"
        )
        verdict = pair["at"]["verdict"]
        table.add_row(
            Text(pair["other"]), mean, interval or "-",
            Text(verdict, style=_STYLES[verdict]), Text(spot), ends or "-",
        )  # fmt: skip
    return table


def _backtest_table(tree: Tree) -> Table:
    told = tree["backtest"]
    levels = list(told["hits"])
    hits = ", ".join(f"{told['hits'][x]} of {told['count']} in {float(x):.0%}" for x in levels)
    table = _table(
        f"Backtest: the largest size, predicted from the smaller ones; {hits}",
        ["architecture", "budget", "predicted", "95% interval", "measured", "inside"],
    )
    for cell in told["cells"]:
        low, high = cell["intervals"][levels[-1]]
        found = Estimate(cell["predicted"], low, high)
        table.add_row(
            Text(cell["arm"]), tree["budgets"][cell["budget"]], found.mean_text(),
            found.interval_text(), f"{cell['measured']:.{found.decimals}f}",
            "yes" if cell["hits"][levels[-1]] else "no",
        )  # fmt: skip
    return table


def plan_lines(tree: Tree, seconds: float | None) -> list[str]:
    """What will be trained, said before anything starts."""
    cost, seeds = tree["cost"], len(tree["seeds"])
    saved = cost["flops_without_branching"] / cost["flops"]
    count = "parameters" if tree["count"] == "total" else "parameters without embeddings"
    lines = [
        f"ladder: {tree['title']}",
        f"  rule {tree['rule']}, {count}; {tree['lr_rule']}: {tree['lr_rule_is']}",
        f"  {cost['runs']} runs ({seeds} seed{'s' * (seeds > 1)}), {cost['flops']:.3g} FLOPs"
        + (f", {saved:.2f} times as many without branching" if saved > 1.001 else "")
        + (f"; about {duration_text(seconds)} on one worker" if seconds is not None else ""),
    ]
    for rung in tree["rungs"]:
        heads = f", {rung['num_heads']} heads" if rung["num_heads"] else ""
        budgets = ", ".join(
            f"{name} ({count_text(tokens)} tokens, {steps:,} steps, {flops(c)} FLOPs)"
            for name, tokens, steps, c in zip(
                tree["budgets"], rung["tokens"], rung["steps"], rung["flops"], strict=True
            )
        )
        lines.append(
            f"  {rung['name']}: {rung['params']:,} ({rung['params'] / rung['asked'] - 1:+.1%}), "
            f"d_model {rung['d_model']}, {rung['layers']} layers{heads}, lr {rung['lr']:.3g}: "
            f"{budgets}"
        )
    return lines
