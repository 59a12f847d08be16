"""A ladder in the terminal: losses, differences, trends, laws, claims, backtest; in ASCII."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from windtunnel.report.units import (
    Estimate,
    count_text,
    duration_text,
    fixed,
    level_text,
    p_text,
)
from windtunnel.study.ladder.complete import completed
from windtunnel.study.statistics import ALPHA

Tree = Mapping[str, Any]
NUMBERS = ("E", "A", "alpha", "B", "beta", "k", "gamma")
_LAWS = {
    "params_tokens": ("L = E + A N^-alpha + B D^-beta; 95% intervals", NUMBERS[:5]),
    "compute": ("L = E_C + k C^-gamma over compute; 95% intervals", ("E", "k", "gamma")),
}
LAW_NAMES = {"params_tokens": "L(N, D)", "compute": "L(C)"}
_STYLES = {
    "better": "bold green", "worse": "bold red", "cannot say": "yellow", "undecided": "yellow",
    "crosses": "bold", "none in range": "bold",
}  # fmt: skip
EXPLAINED = {
    "losses": "What was measured. The interval is over the seeds of one cell.",
    "differences": "Below zero the architecture is better than {first}. Runs of one seed are "
    "pairs. p (Holm) is corrected for all {count} cells, and the interval is as wide as that asks "
    "for; with few seeds read the trend, which takes all cells together.",
    "trends": "All cells together, without any law. The change is that of the difference, in nats "
    "per token, when parameters (or training tokens at one size) grow tenfold; a lead holds where "
    "its interval lies within a quarter of the lead.",
    "params_tokens": "Fitted to all cells: E is the loss that unlimited parameters and tokens "
    "would leave. Factors and exponents go together, so each alone is known less well than the "
    "curve.",
    "compute": "Fitted to the cells that nothing cheaper beats. E_C is where these cells level off "
    "as compute grows with the budgets of this ladder: not the E of L(N, D), and above it where "
    "tokens or sizes were held back.",
    "no_law": "What is not identified is not told, and no larger compute is foretold by it; the "
    "differences and the trend need no law.",
    "claims": "Extrapolated by the fitted laws; the interval knows the noise and the fit, not "
    "whether the law holds so far out. Without a verdict no value is given.",
    "backtest": "Whether the fit would have foretold the largest size; its interval holds the "
    "noise of the measured mean too.",
}
"""What each table is, in a line below it."""


def ladder_view(tree: Tree) -> Group:
    """What `windtunnel ladder` prints at its end."""
    tree = completed(tree)
    parts: list[RenderableType] = [_loss_table(tree), _said("losses")]
    if tree["differences"]:
        parts += [_difference_table(tree), _said("differences", **facts(tree))]
        parts += [_trend_table(tree), _said("trends")]
    for kind, table in _law_tables(tree):
        parts += [table, _said(kind)]
    if tree["pairs"]:
        parts += [_claim_table(tree), _said("claims")]
    if tree["backtest"] and tree["backtest"]["cells"]:
        parts += [_backtest_table(tree), _said("backtest")]
    parts += [Text(note, style="dim") for note in tree["notes"]]
    parts += [Text(""), Text(tree["conclusion"], style="bold")]
    return Group(*parts)


def facts(tree: Tree) -> dict[str, Any]:
    """What the line below the differences needs."""
    return {"first": tree["arms"][0], "count": len(tree["differences"])}


def _said(what: str, **known: Any) -> Text:
    return Text(EXPLAINED[what].format(**known) + "\n", style="dim")


def estimate(tree: Tree | None, *, signed: bool = False) -> tuple[str, str]:
    """A mean and its interval, with the digits that the interval supports."""
    if tree is None or (tree["mean"] is None and tree["low"] is None):
        return "-", ""
    found = Estimate(tree["mean"], tree["low"], tree["high"])
    if tree["mean"] is None:
        return "-", found.interval_text(signed=signed)
    return found.mean_text(signed=signed), found.interval_text(signed=signed)


def sized(tree: Tree | None) -> tuple[str, str]:
    """As :func:`estimate`, for numbers of any size: three digits."""
    if tree is None or tree["mean"] is None:
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


def _difference_table(tree: Tree) -> Table:
    """Architectures and sizes down, budgets across."""
    first = tree["arms"][0]
    table = _table(
        f"Difference to {first} as measured, nats per token; same-seed pairs",
        ["architecture", "budget", "mean", "interval", "p", "p (Holm)", "verdict"],
        texts=2,
    )
    for row in tree["differences"]:
        mean, interval = gap(row)
        verdict = row["verdict"]
        table.add_row(
            Text(f"{row['arm']}-{count_text(row['params'])}"), Text(row["budget"]), mean,
            interval or "-", p_text(row["p_value"]), p_text(row["p_holm"]),
            Text(verdict, style=_STYLES[verdict]),
        )  # fmt: skip
    return table


def gap(row: Tree) -> tuple[str, str]:
    """A measured difference and its interval. The mean has three decimals at least: with few seeds
    corrected intervals are so wide that cells could not be told apart by eye."""
    found = Estimate(row["mean"], row["low"], row["high"])
    mean = fixed(row["mean"], max(3, found.decimals), signed=True)
    return mean, found.interval_text(signed=True)


def leveled(row: Tree, interval: str) -> str:
    """The interval with its level; a dash without one."""
    return f"{interval} {level_text(row['confidence'])}" if interval else "-"


def trend_rows(tree: Tree) -> list[tuple[str, str, Tree, str]]:
    """Of each trend: architecture, what is told, its estimate, and its verdict in words."""
    rows = []
    for trend in tree["trends"]:
        ahead = trend["lead"]
        leads = {"better": trend["arm"], "worse": trend["against"]}.get(ahead["verdict"])
        rows.append((trend["arm"], "mean over all cells", ahead, ahead["verdict"]))
        for name, what in (
            ("size", f"change per tenfold parameters {trend['size']['held']}"),
            ("tokens", "change per tenfold training tokens at one size"),
        ):
            verdict = trend[name]["verdict"]
            whose = f"lead of {leads} " if verdict in ("grows", "shrinks", "holds") else ""
            rows.append((trend["arm"], what, trend[name], f"{whose}{verdict}"))
    return rows


def _trend_table(tree: Tree) -> Table:
    level = level_text(1 - ALPHA / (len(tree["arms"]) - 1))
    table = _table(
        f"Trend of the difference to {tree['arms'][0]} with scale, nats per token; "
        f"{level} intervals",
        ["architecture", "what", "value", "interval", "verdict"],
        texts=2,
    )
    for name, what, found, verdict in trend_rows(tree):
        mean, interval = estimate(found, signed=True)
        table.add_row(Text(name), Text(what), mean, interval or "-", Text(verdict))
    return table


def _law_tables(tree: Tree) -> list[tuple[str, Table]]:
    """The laws over parameters and tokens, then those over compute; then what has none."""
    found: dict[str, list[tuple[str, Tree]]] = {kind: [] for kind in _LAWS}
    for name, law in told_laws(tree):
        found[law["kind"]].append((name, law))
    tables = [(kind, _law_table(kind, of)) for kind, of in found.items() if of]
    if without := silent_laws(tree):
        table = _table("No law", ["architecture", "law", "why"], texts=3)
        for name, kind, why in without:
            table.add_row(Text(name), Text(kind), Text(why, style="yellow"))
        tables.append(("no_law", table))
    return tables


def told_laws(tree: Tree) -> list[tuple[str, Tree]]:
    """The identified laws, by architecture."""
    return [
        (law["name"], law[key])
        for law in tree["laws"]
        for key in ("law", "compute_law")
        if law[key] is not None and law[key]["identified"]
    ]


def silent_laws(tree: Tree) -> list[tuple[str, str, str]]:
    """Architecture, law and reason where a law was not fitted or is not identified."""
    rows = []
    for law in tree["laws"]:
        if law["law"] is None:
            rows.append((law["name"], "-", law["trouble"] or "no law"))
        rows += [
            (law["name"], LAW_NAMES[law[key]["kind"]], law[key]["reason"])
            for key in ("law", "compute_law")
            if law[key] is not None and not law[key]["identified"]
        ]
    return rows


def _law_table(kind: str, laws: Sequence[tuple[str, Tree]]) -> Table:
    title, names = _LAWS[kind]
    headings = ["E_C" if kind == "compute" and key == "E" else key for key in names]
    table = _table(title, ["architecture", *headings])
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
        f"Extrapolated: the difference to {first} at {flops(at)} FLOPs, and the crossing",
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


def _promise(seconds: float) -> str:
    return (
        f"; about {duration_text(seconds)} on one worker, if this machine stays as fast as it was "
        "when it was measured"
    )


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
        + (_promise(seconds) if seconds is not None else ""),
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
