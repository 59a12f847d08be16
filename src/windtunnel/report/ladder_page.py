"""The page of a ladder: one file with its tables and figures, which opens without a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from windtunnel.report.ladder import NUMBERS, estimate, flops, law_number
from windtunnel.report.page import asset, document, embedded_json, plotly_script
from windtunnel.report.sections import html_table, minus, section
from windtunnel.report.units import Estimate, amount, count_text

Tree = Mapping[str, Any]
_WORDS = {"better": "better", "worse": "worse"}


def render_ladder(tree: Tree, *, command: str = "") -> str:
    """The whole page as text; equal trees give equal text."""
    parts = {
        "answer": _answer(tree),
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
    facts = f"rule {tree['rule']} · {tree['lr_rule_is']} · {amount(len(tree['seeds']), 'seed')}"
    body = (
        f'<header><p class="kicker">windtunnel · ladder</p><h1>{escape(tree["title"])}</h1>'
        f'<p class="facts">{escape(facts)}</p><nav aria-label="Sections">{links}</nav></header>'
        f"<main>{''.join(parts.values())}</main>"
        "<footer>Made by <b>windtunnel</b>. Everything on this page is in this file.</footer>"
    )
    return document(
        tree["title"], body, embedded_json(_data(tree)), [plotly_script(), asset("ladder.js")]
    )


def _answer(tree: Tree) -> str:
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in tree["notes"])
    scope = (
        "Intervals know the noise between seeds and how far the law fits what was measured. "
        "Whether it holds beyond the largest run they do not know; the backtest is the check."
    )
    text = f'<p class="conclusion">{escape(tree["conclusion"])}</p>'
    rows = [_claim(pair) for pair in tree["pairs"]]
    claims = ""
    if rows:
        heading = (
            f"Difference to {tree['pairs'][0]['first']} at {flops(tree['at']['flops'])} FLOPs, in "
            "nats per token, and the compute at which the curves cross"
        )
        names = ["Architecture", "Verdict", "Difference", "Crossing", "FLOPs", "Range"]
        claims = html_table(heading, names, rows)
    return section("answer", "Answer", text, claims, notes, f'<p class="note">{scope}</p>')


def _claim(pair: Tree) -> tuple[str, ...]:
    found, crossing = pair["at"], pair["crossing"]
    chip = _WORDS.get(found["verdict"], "undecided")
    spot = "–"
    if crossing["verdict"] == "crosses":
        spot = f"{flops(crossing['flops'])} [{flops(crossing['low'])}, {flops(crossing['high'])}]"
    low, high = crossing["range"]
    return (
        escape(pair["other"]),
        f'<span class="chip {chip}">{escape(found["verdict"])}</span>',
        _both(found, signed=True) or escape(found["reason"]),
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
        "the best size for each compute, by the fitted law, with its 95% band.",
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
    return section("losses", "Losses", html_table(caption, names, rows()))


def _trouble(cell: Tree) -> str:
    return ", ".join(f"{kind} {cell[kind]}" for kind in ("diverged", "failed") if cell[kind])


def _laws(tree: Tree) -> str:
    def rows() -> Iterable[Sequence[str]]:
        for law in tree["laws"]:
            for kind, words in (("law", ""), ("compute_law", " (compute)")):
                numbers = law[kind]
                if numbers is None and kind == "law":
                    yield (escape(law["name"]), escape(law["trouble"]), *["–"] * len(NUMBERS))
                if numbers is not None:
                    shown = [_number(name, numbers.get(name)) for name in NUMBERS]
                    yield (escape(law["name"] + words), escape(law["trouble"]), *shown)

    caption = "L = E + A·N^−α + B·D^−β, and L = E + k·C^−γ along the cells nothing cheaper beats"
    names = ["Architecture", "Trouble", "E", "A", "α", "B", "β", "k", "γ"]
    return section("laws", "Laws", html_table(caption, names, rows()))


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
    return section("backtest", "Backtest", words, html_table("The largest size", names, rows()))


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
    return section("sizes", "Sizes", html_table("The rungs", names, rows))


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
