"""The page of a ladder: one file with its tables and figures, which opens without a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from windtunnel.report.ladder import (
    EXPLAINED,
    NUMBERS,
    estimate,
    facts,
    flops,
    gap,
    law_number,
    leveled,
    silent_laws,
    told_laws,
    trend_rows,
)
from windtunnel.report.page import asset, document, embedded_json, plotly_script
from windtunnel.report.sections import SYMBOLS, html_table, minus, section
from windtunnel.report.units import Estimate, amount, count_text, p_text
from windtunnel.study.ladder.complete import completed

Tree = Mapping[str, Any]


def render_ladder(tree: Tree, *, command: str = "") -> str:
    """The whole page as text; equal trees give equal text."""
    tree = completed(tree)
    parts = {
        "answer": _answer(tree),
        "differences": _differences(tree),
        "trend": _trends(tree),
        "extrapolation": _claims(tree),
        "figures": _figures(),
        "losses": _losses(tree),
        "laws": _laws(tree),
        "backtest": _backtest(tree),
        "sizes": _sizes(tree),
        "command": section("command", "Command", f"<pre><code>{escape(command)}</code></pre>")
        if command
        else "",
    }
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name, p in parts.items() if p)
    about = f"rule {tree['rule']} · {tree['lr_rule_is']} · {amount(len(tree['seeds']), 'seed')}"
    body = (
        f'<header><p class="kicker">windtunnel · ladder</p><h1>{escape(tree["title"])}</h1>'
        f'<p class="facts">{escape(about)}</p><nav aria-label="Sections">{links}</nav></header>'
        f"<main>{''.join(parts.values())}</main>"
        "<footer>Made by <b>windtunnel</b>. Everything on this page is in this file.</footer>"
    )
    return document(
        tree["title"], body, embedded_json(_data(tree)), [plotly_script(), asset("ladder.js")]
    )


def _answer(tree: Tree) -> str:
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in tree["notes"])
    text = f'<p class="conclusion">{escape(tree["conclusion"])}</p>'
    return section("answer", "Answer", text, notes)


def _said(what: str, **known: Any) -> str:
    """The line that says what a table is."""
    return f'<p class="note">{escape(EXPLAINED[what].format(**known))}</p>'


def _differences(tree: Tree) -> str:
    if not tree["differences"]:
        return ""

    def rows() -> Iterable[Sequence[str]]:
        for row in tree["differences"]:
            mean, interval = gap(row)
            yield (
                escape(f"{row['arm']}-{count_text(row['params'])} {row['budget']}"),
                _chip(row["verdict"], row["verdict"]),
                f"<b>{minus(mean)}</b>",
                minus(leveled(row, interval)),
                escape(p_text(row["p_value"])),
                escape(p_text(row["p_holm"])),
                escape(row["reason"]) or "–",
            )

    caption = f"Difference to {tree['arms'][0]} as measured, nats per token; same-seed pairs"
    names = ["Cell", "Verdict", "Difference", "Interval", "p", "p (Holm)", "Remark"]
    table = html_table(caption, names, rows())
    return section("differences", "Differences", _said("differences", **facts(tree)), table)


def _trends(tree: Tree) -> str:
    if not tree["trends"]:
        return ""

    def rows() -> Iterable[Sequence[str]]:
        for name, what, found, verdict in trend_rows(tree):
            mean, interval = estimate(found, signed=True)
            yield (
                escape(name),
                escape(what),
                _chip(found["verdict"], verdict),
                f"<b>{minus(mean)}</b>",
                minus(leveled(found, interval)),
                escape(found["reason"]) or "–",
            )

    words = "".join(f'<p class="note">{escape(one["words"])}</p>' for one in tree["trends"])
    caption = f"Trend of the difference to {tree['arms'][0]} with scale, nats per token"
    names = ["Architecture", "What", "Verdict", "Value", "Interval", "Remark"]
    table = html_table(caption, names, rows())
    return section("trend", "Trend", _said("trends"), table, words)


def _chip(verdict: str, words: str) -> str:
    """A verdict with a symbol, so that the colour is never alone."""
    kind = verdict if verdict in ("better", "worse") else "undecided"
    if verdict in ("undecided", "cannot say") or kind != "undecided":
        return f'<span class="chip {kind}">{SYMBOLS[kind]} {escape(words)}</span>'
    return f'<span class="chip reference">{escape(words)}</span>'


def _claims(tree: Tree) -> str:
    if not tree["pairs"]:
        return ""
    heading = (
        f"Extrapolated: the difference to {tree['pairs'][0]['first']} at "
        f"{flops(tree['at']['flops'])} FLOPs, in nats per token, and the compute at which the "
        "curves cross"
    )
    names = ["Architecture", "Verdict", "Difference", "Crossing", "FLOPs", "Range"]
    table = html_table(heading, names, [_claim(pair) for pair in tree["pairs"]])
    return section("extrapolation", "Extrapolation", _said("claims"), table)


def _claim(pair: Tree) -> tuple[str, ...]:
    found, crossing = pair["at"], pair["crossing"]
    spot = "–"
    if crossing["verdict"] == "crosses":
        spot = f"{flops(crossing['flops'])} [{flops(crossing['low'])}, {flops(crossing['high'])}]"
    low, high = crossing["range"]
    shown = _both(found, signed=True)
    if found["mean"] is None:
        interval = estimate(found, signed=True)[1]
        shown = f"{minus(interval)} {escape(found['reason'])}".strip()
    return (
        escape(pair["other"]),
        _chip(found["verdict"], found["verdict"]),
        shown,
        escape(crossing["verdict"]),
        minus(spot),
        minus(f"{flops(low)} to {flops(high)}"),
    )


def _both(tree: Tree | None, *, signed: bool = False) -> str:
    mean, interval = estimate(tree, signed=signed)
    return "" if mean == "-" else f"<b>{minus(mean)}</b> <small>{minus(interval)}</small>"


def _figures() -> str:
    captions = {
        "compute": "Loss over training FLOPs. Dots: means of measured cells. Lines: the loss of "
        "the best size for each compute, by the fitted law, with its 95% band, where the fit is "
        "identified.",
        "isoflop": "Iso-FLOP curves: at one compute, the loss over the size, with its parabola. "
        "Empty where fewer than three sizes reach a common compute.",
        "backtest": "The largest size: predicted from the smaller ones (line: 95% prediction "
        "interval) over measured. On the diagonal both agree.",
    }
    figures = "".join(
        f'<figure><div id="{name}" role="img" aria-label="{escape(text)}"></div>'
        f"<figcaption>{escape(text)}</figcaption></figure>"
        for name, text in captions.items()
    )
    without = "<noscript><p>The figures need JavaScript; the tables do not.</p></noscript>"
    return section("figures", "Figures", figures, without)


def _losses(tree: Tree) -> str:
    def rows() -> Iterable[Sequence[str]]:
        for rung in tree["rungs"]:
            cells = [
                c for c in tree["cells"] if c["arm"] == rung["arm"] and c["asked"] == rung["asked"]
            ]
            yield (escape(rung["name"]), *(_both(cell) or _trouble(cell) for cell in cells))

    names = ["Rung", *tree["budgets"]]
    caption = "Validation loss, nats per token: mean over seeds and 95% interval"
    return section("losses", "Losses", _said("losses"), html_table(caption, names, rows()))


def _trouble(cell: Tree) -> str:
    return ", ".join(f"{kind} {cell[kind]}" for kind in ("diverged", "failed") if cell[kind])


def _laws(tree: Tree) -> str:
    """A table for each kind of law, each with its line, and one for those that are not told."""
    parts = []
    for kind, caption, names in (
        ("params_tokens", "L = E + A·N^−α + B·D^−β", NUMBERS[:5]),
        ("compute", "L = E_C + k·C^−γ along the cells nothing cheaper beats", _COMPUTE),
    ):
        rows = [
            (escape(name), *(_number(key, law[key]) for key in names))
            for name, law in told_laws(tree)
            if law["kind"] == kind
        ]
        if rows:
            headings = ["E_C" if (kind, key) == ("compute", "E") else _GREEK.get(key, key)
                        for key in names]  # fmt: skip
            parts += [_said(kind), html_table(caption, ["Architecture", *headings], rows)]
    if without := silent_laws(tree):
        silent = [tuple(escape(text) for text in row) for row in without]
        parts += [_said("no_law"), html_table("No law", ["Architecture", "Law", "Why"], silent)]
    troubles = [f"{law['name']}: {law['trouble']}" for law in tree["laws"] if law["trouble"]]
    parts += [f'<p class="note">{escape(text)}</p>' for text in troubles]
    return section("laws", "Laws", *parts)


_COMPUTE = ("E", "k", "gamma")
_GREEK = {"alpha": "α", "beta": "β", "gamma": "γ"}


def _number(name: str, tree: Tree | None) -> str:
    mean, interval = law_number(name, tree)
    return "–" if mean == "-" else f"<b>{minus(mean)}</b> <small>{minus(interval)}</small>"


def _backtest(tree: Tree) -> str:
    told = tree["backtest"]
    if not told or not told["cells"]:
        return ""
    levels = list(told["hits"])

    def rows() -> Iterable[Sequence[str]]:
        for cell in told["cells"]:
            low, high = cell["intervals"][levels[-1]]
            found = Estimate(cell["predicted"], low, high)
            yield (
                escape(f"{cell['arm']} {tree['budgets'][cell['budget']]}"),
                f"<b>{found.mean_text()}</b> <small>{found.interval_text()}</small>",
                f"{cell['measured']:.{found.decimals}f}",
                *("inside" if cell["hits"][level] else "<b>outside</b>" for level in levels),
            )

    names = ["Cell", "Predicted", "Measured", *(f"{float(x):.0%}" for x in levels)]
    hits = ", ".join(f"{told['hits'][x]} of {told['count']} inside {float(x):.0%}" for x in levels)
    ranks = told["ranks"]
    order = f"; {ranks['right']} of {ranks['pairs']} pairs in the measured order"
    words = f'<p class="note">{escape(hits + order * bool(ranks["pairs"]))}</p>'
    table = html_table("The largest size", names, rows())
    return section("backtest", "Backtest", _said("backtest"), words, table)


def _sizes(tree: Tree) -> str:
    rows = (
        (
            escape(rung["name"]),
            f"{rung['params']:,}",
            str(rung["d_model"]),
            str(rung["layers"]),
            f"{rung['lr']:.3g}",
            count_text(rung["flops_per_token"]),
            escape("; ".join(rung["changes"]) or "as written"),
        )
        for rung in tree["rungs"]
    )
    names = ["Rung", "Parameters", "d_model", "Layers", "lr", "FLOP per token", "What the rule set"]
    said = '<p class="note">What was built for each size, and its learning rate by the rule.</p>'
    return section("sizes", "Sizes", said, html_table("The rungs", names, rows))


def _data(tree: Tree) -> list[dict[str, Any]]:
    """What the figures are drawn from, by architecture."""
    told = tree["backtest"] or {"cells": []}
    found = []
    for law in tree["laws"]:
        cells = [c for c in tree["cells"] if c["arm"] == law["name"] and c["mean"] is not None]
        found.append(
            {
                "name": law["name"],
                "curve": law["curve"],
                "cells": [
                    {"flops": c["flops"], "loss": c["mean"], "text": c["name"]} for c in cells
                ],
                "isoflop": law["isoflop"],
                "backtest": [
                    {
                        "predicted": c["predicted"],
                        "measured": c["measured"],
                        "interval": c["intervals"][list(told["hits"])[-1]],
                        "text": tree["budgets"][c["budget"]],
                    }
                    for c in told["cells"]
                    if c["arm"] == law["name"]
                ],
            }
        )
    return found
