"""An ablation in the terminal and on the page, from a tree made by hand, with hostile names."""

import io
from typing import Any

import pytest
from rich.console import Console
from tests.report import samples

from windtunnel.errors import StudyError
from windtunnel.report.effects import read_ablation
from windtunnel.report.effects_section import effects_section, interactions_section
from windtunnel.report.effects_table import effects_view
from windtunnel.report.page import render_html
from windtunnel.report.study_report import StudyReport


def effect(name: str, verdict: str, mean: float, **changes: Any) -> dict[str, Any]:
    ends = {"low": mean - 0.01, "high": mean + 0.01, "low_95": mean - 0.008}
    return {
        "role": "main", "name": name, "factors": ["a"], "levels": ["x"], "against": ["y"],
        "delta": {"mean": mean, **ends, "high_95": mean + 0.008, "confidence": 0.975},
        "p_value": 0.004, "p_holm": 0.008, "mde": 0.01, "mde_corrected": 0.02,
        "verdict": verdict, "reason": "",
        "settings": 4, "of_settings": 4, "params": 0.031, "flops_per_token": 0.05, **changes,
    }  # fmt: skip


def tree(**changes: Any) -> dict[str, Any]:
    hostile = samples.HOSTILE
    beside = {"role": "interaction", "params": None, "flops_per_token": None}
    return {
        "design": "grid", "metric": "loss", "seeds": [0, 1, 2],
        "factors": [{"name": hostile, "written": "", "baseline": "y",
                     "levels": [{"label": "x", "value": 1}, {"label": "y", "value": 2}]}],
        "points": [{"arm": "one", "settings": {}}] * 4,
        "skipped": [{"settings": {}, "reason": "does not divide"}] * 2,
        "effects": [
            effect(f"{hostile}: x against y", "better", -0.05),
            effect("b: z against w", "undecided", 0.001, p_holm=0.5),
            effect("c: never", "worse", 0.0, delta=None, p_value=None, p_holm=None,
                   mde_corrected=None,
                   reason="diverged at 1 of 4 settings where the other level did not"),
        ],
        "interactions": [
            effect("a x × b z", "better together", -0.04, **beside),
            *(effect(f"pair {i}", "undecided", 0.001, p_holm=1.0, **beside) for i in range(40)),
        ],
        "means": [{"factor": hostile, "level": "y", "settings": 2,
                   "loss": {"mean": 3.0, "low": 2.9, "high": 3.1}}],
        "lowest": "one", "conclusion": "x is better.", **changes,
    }  # fmt: skip


def printed(of: dict[str, Any], width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(effects_view(of))
    return out.getvalue()


def test_the_terminal_says_everything_at_80_columns() -> None:
    text = printed(tree())
    assert max(map(len, text.splitlines())) <= 80
    for words in ("-0.050", "[-0.060, -0.040]", "0.008", "+3.1%", "better", "undecided",
                  "x is better.", "y *", "29 more are undecided", "c: never: diverged at 1 of 4",
                  "left out: 2 points: does not divide"):  # fmt: skip
        assert words in " ".join(text.split()), words
    assert "×" not in text


def test_the_page_has_figure_tables_and_reasons_and_is_escaped() -> None:
    effects, interactions = effects_section(tree()), interactions_section(tree())
    assert samples.HOSTILE not in effects + interactions
    assert effects.count('<div class="row better"') == 1
    assert "diverged at 1 of 4 settings" in effects
    assert "4 of 4" in effects
    assert "left out: 2 points, does not divide" in effects
    assert interactions.count('role="img"') == 30
    assert "Drawn are the 30 furthest from zero" in interactions
    assert interactions.count("<tr>") == 1 + 41
    page = render_html(StudyReport(title="t", verdicts=samples.verdicts(), ablation=tree()))
    assert '<a href="#effects">' in page
    assert '<a href="#interactions">' in page
    assert page.index('id="effects"') < page.index('id="verdict"')


def test_a_study_without_interactions_has_no_such_section() -> None:
    assert interactions_section(tree(interactions=[])) == ""
    plain = render_html(StudyReport(title="t", verdicts=samples.verdicts()))
    assert 'id="effects"' not in plain


def test_looks_and_the_seeds_behind_each_row_are_told() -> None:
    seeds = [{"arm": "one", "settings": {}, "seeds": n} for n in (10, 4)]
    rows = [effect("a: x against y", "better", -0.05, seeds=4, p_looks=0.006)]
    sequential = tree(looks=[3, 10], points=seeds, effects=rows)
    text = printed(sequential)
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert "2 points, 4 to 10 seeds;" in words
    assert "seeds until decided: looks from 3 to 10 seeds, all of them allowed for" in words
    assert "both after Holm's correction and all looks" in words
    page = effects_section(sequential)
    assert "looks from 3 to 10 seeds, all of them allowed for" in page
    assert "95% after Holm’s correction and all looks over all effects" in page
    assert '<th scope="col">Seeds</th>' in page
    assert "<td>4</td>" in page
    fixed = printed(tree()) + effects_section(tree())
    assert "4 points, 3 seeds each" in " ".join(fixed.split())
    assert "looks" not in fixed
    assert "Seeds</th>" not in fixed


def test_a_margin_is_told_and_drawn_and_what_is_within_it_has_a_verdict() -> None:
    beside = {"role": "interaction", "params": None, "flops_per_token": None}
    pairs = [effect(f"pair {i}", "additive", 0.001, reason="within", **beside) for i in range(20)]
    with_it = tree(
        margin=0.04,
        effects=[effect("a: x against y", "equivalent", 0.01, reason="the interval lies within",
                        p_equivalence=0.01)],
        interactions=[*pairs, effect("a × b", "undecided", 0.05, **beside),
                      effect("c × d", "better together", -0.09, **beside)],
    )  # fmt: skip
    text = printed(with_it)
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert "equivalent, additive: the interval lies within a margin of 0.04 nats/token" in words
    assert "a: x against y: the interval lies within" in words
    assert "10 more are additive or undecided (see the report)" in words
    assert text.index("c x d") < text.index("pair 0")
    assert text.count("additive") == 11 + 2  # rows, the title and what a margin means
    page, beside_it = effects_section(with_it), interactions_section(with_it)
    assert "lies within a margin of 0.04 nats/token" in page
    assert "crosses the zero line and reaches a dashed one leaves the question open" in page
    for part in (page, beside_it):
        assert 'class="margin"' in part
        assert "Between the dashed lines: differences that do not matter, by the margin." in part
    assert '<div class="row equivalent"' in page
    assert "= equivalent" in page
    assert beside_it.count("= additive") == 20


def test_studies_from_before_there_were_margins_are_read() -> None:
    old = tree()
    assert "margin" not in old
    assert read_ablation(old).margin is None
    said = printed(old) + effects_section(old) + interactions_section(old)
    assert "margin" not in said
    assert "An interval that crosses the zero line leaves the question open" in said


def test_a_damaged_tree_is_told() -> None:
    with pytest.raises(StudyError, match="has no points"):
        read_ablation(tree(points=[]))
    with pytest.raises(StudyError, match="damaged"):
        read_ablation(tree(looks=[3]))
    with pytest.raises(StudyError, match="damaged"):
        read_ablation({**tree(), "effects": [{}]})
    with pytest.raises(StudyError, match="unknown verdict 'great'"):
        read_ablation(tree(effects=[effect("a", "great", 0.0)]))
