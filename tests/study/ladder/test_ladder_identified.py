"""Fits that are not identified say nothing; no point estimate stands beside "cannot say"."""

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.study.ladder.laws import cells_of, made, rungs_of

from windtunnel.report.ladder import EXPLAINED, ladder_view
from windtunnel.report.ladder_page import render_ladder
from windtunnel.study.ladder.amounts import parse_target
from windtunnel.study.ladder.analyse import analyse
from windtunnel.study.ladder.cells import Measured
from windtunnel.study.ladder.complete import completed
from windtunnel.study.ladder.identify import identified

OLD = Path(__file__).parents[3] / "benchmarks" / "results" / "ladder_backtest.json"
SIX = "the fit is not identified (6 cells for 5 parameters): add sizes and budgets"
SMALL: Any = {"sizes": (1.2e5, 2.5e5, 5e5), "budgets": (5.0, 10.0), "seeds": 2}
NUMBERS = ("E", "A", "alpha", "B", "beta", "k", "gamma")


def tree_of(*arms: Measured, draws: int = 60) -> dict[str, Any]:
    """The tree of ``study.json``."""
    cells, backtest = cells_of(arms), len(arms[0].params) > 3
    return completed(
        {
            "kind": "ladder", "title": "a, b", "arms": [arm.name for arm in arms], "rule": "width",
            "lr_rule": "constant", "lr_rule_is": "lr as written", "sizes": list(arms[0].params),
            "budgets": list(dict.fromkeys(c["budget"] for c in cells)),
            "seeds": list(range(arms[0].shape[2])), "rungs": rungs_of(arms), "cells": cells,
            **analyse(arms, parse_target("10x"), with_backtest=backtest, draws=draws),
            "notes": [],
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def six() -> dict[str, Any]:
    """Three sizes, two budgets, two seeds; b is better by 0.3 everywhere."""
    first = made("a", **SMALL)
    other = made("b", seed=1, **SMALL)
    object.__setattr__(other, "losses", other.losses - 0.3)
    return tree_of(first, other)


def printed(tree: Any) -> str:
    console = Console(width=200, record=True, file=StringIO())
    console.print(ladder_view(tree))
    return console.export_text()


def page_text(tree: Any) -> str:
    page = render_ladder(tree)
    body = page[page.index("<main>") : page.index("</main>")]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)).replace("−", "-")


def test_six_cells_do_not_identify_five_parameters(six: dict[str, Any]) -> None:
    for law in six["laws"]:
        found = law["law"]
        assert (found["identified"], found["cells"], found["parameters"]) == (False, 6, 5)
        assert found["reason"] == SIX
        assert law["curve"] is None
        ends = [found[n][e] for n in NUMBERS[:5] for e in ("mean", "low", "high")]
        assert set(ends) == {None}
    for text in (printed(six), page_text(six)):
        assert SIX in text


def test_no_point_stands_beside_cannot_say(six: dict[str, Any]) -> None:
    pair = six["pairs"][0]
    assert (pair["at"]["verdict"], pair["at"]["mean"], pair["at"]["low"]) == (
        "cannot say", None, None,
    )  # fmt: skip
    assert pair["crossing"]["flops"] is pair["crossing"]["ahead"] is None
    said = six["conclusion"]
    assert f"cannot say, since {SIX.replace('fit', 'fit of a')}." in said
    assert "cannot say, by" not in said
    alike = tree_of(made("a"), made("b", seed=1))
    at = alike["pairs"][0]["at"]
    assert (at["verdict"], at["mean"]) == ("cannot say", None)
    assert at["low"] < 0 < at["high"]
    assert "cannot say: the interval [-" in alike["conclusion"]


def test_differences_and_trend_stand_in_terminal_page_json_and_conclusion(
    six: dict[str, Any],
) -> None:
    assert len(six["differences"]) == 6
    for text in (printed(six), page_text(six)):
        for row in six["differences"]:
            assert f"{row['mean']:+.3f}" in text
        assert "p (Holm)" in text
        assert "Trend of the difference to a with scale" in text
        assert "change per tenfold parameters at equal tokens per parameter" in text
    assert "b against a, as measured in 6 cells:" in six["conclusion"]
    assert "The mean over all 6 cells: b is better by 0.29" in six["conclusion"]
    assert six["conclusion"].index("as measured") < six["conclusion"].index("Extrapolated")


def test_each_table_has_its_line(six: dict[str, Any]) -> None:
    tree = tree_of(made("a"), made("b", seed=1, E=1.5))
    shown = printed(tree)
    for name in EXPLAINED.keys() - {"no_law"}:
        text = EXPLAINED[name].format(first="a", count=12)
        assert text[:60] in shown, name
        assert text[:60] in page_text(tree), name
    assert EXPLAINED["no_law"][:60] in printed(six)


def test_the_two_constants_have_two_names_and_the_difference_is_said() -> None:
    tree = tree_of(made("a"), made("b", seed=1, E=1.5))
    law = tree["laws"][0]
    assert law["law"]["identified"]
    assert law["compute_law"]["E_is"].startswith("E_C")
    assert "unlimited parameters and tokens" in law["law"]["E_is"]
    for text in (printed(tree), page_text(tree)):
        assert "E_C" in text
        assert "not the E of L(N, D)" in text


def wide(low: float, high: float, missed: int = 0) -> dict[str, Any]:
    """An answer of one arm with that interval of A, and so many misses of three."""
    span = {"mean": 1.0, "low": 0.5, "high": 2.0, "confidence": 0.95}
    law: dict[str, Any] = {"kind": "params_tokens", "cells": 12, "rms_residual": 0.0}
    law |= {**dict.fromkeys(NUMBERS[:5], span), "A": {**span, "low": low, "high": high}}
    hits = [{"arm": "a", "hits": {"0.9": False, "0.95": i >= missed}} for i in range(3)]
    tree = {"name": "a", "trouble": "", "law": law, "compute_law": None, "curve": {}}
    return {"laws": [tree], "pairs": [], "backtest": {"cells": hits}}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (wide(3.5, 3.1e14), "the interval of A spans 14 powers of ten"),
        (wide(1.0, 9e9), ""),
        (wide(1.0, 2.0, missed=1), ""),
        (wide(1.0, 2.0, missed=2), "the backtest failed: 2 of 3 losses of the largest size"),
    ],
)
def test_wide_intervals_and_a_failed_backtest_are_not_identified(
    answer: dict[str, Any], reason: str
) -> None:
    found = identified(answer)
    law = found["laws"][0]["law"]
    assert law["identified"] == (not reason)
    assert reason in law["reason"]
    assert (law["A"]["low"] is None) == bool(reason)
    assert identified(found) == found


def test_a_ladder_of_old_is_read_and_has_differences_and_a_trend() -> None:
    old = json.loads(OLD.read_bytes())
    assert "differences" not in old
    old["rungs"] = [
        {**cell, "d_model": 64, "layers": 2, "flops_per_token": 1e6, "changes": []}
        for cell in old["cells"]
        if cell["budget"] == old["budgets"][0]
    ]
    whole = completed(old)
    assert len(whole["differences"]) == 24
    assert completed(whole) == whole
    json.dumps(whole, allow_nan=False)
    for text in (printed(old), page_text(old)):
        assert "the interval of A spans 16 powers of ten" in text
        assert "lstm gains on llama with size" in text
        assert "+0.0613" not in text, "a point estimate beside cannot say"
