"""The one-file page: whole, safe, deterministic."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.report.samples import HOSTILE, arm, curve, report, verdicts

from windtunnel.errors import StudyError
from windtunnel.report.forest import nice_ticks
from windtunnel.report.page import embedded_json, render_html, write_html


class Page(HTMLParser):
    """The elements of a page, its visible text, and the content of its scripts."""

    void = frozenset({"meta", "input", "br", "link", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attributes, content = self.scripts.pop()
            self.scripts.append((attributes, content + data))
        elif "style" not in self.open:
            self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def data(self) -> Any:
        (content,) = [c for a, c in self.scripts if a.get("type") == "application/json"]
        return json.loads(content)


@pytest.fixture(scope="module")
def text() -> str:
    return render_html(report())


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_every_element_is_closed_and_anchors_lead_somewhere(page: Page) -> None:
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [(a["href"] or "").removeprefix("#") for a in page.of("a")]
    assert targets == [
        *("verdict", "differences", "curves", "cost", "configs", "samples", "environment")
    ]
    assert set(targets) <= set(ids)
    labelled = {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a}
    assert labelled <= set(ids)


def test_nothing_is_loaded_from_elsewhere(text: str, page: Page) -> None:
    assert not [a for _, a in page.tags if {"src", "srcset", "data", "action"} & a.keys()]
    assert page.of("link") == []
    (style,) = re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_allows_no_connection_and_only_our_scripts(page: Page) -> None:
    (policy,) = [
        a["content"] or ""
        for a in page.of("meta")
        if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy
    code = [content for attributes, content in page.scripts if "type" not in attributes]
    digests = [base64.b64encode(hashlib.sha256(c.encode()).digest()).decode() for c in code]
    assert re.findall(r"'sha256-([^']+)'", policy) == digests
    assert len(code) == 2


def test_plotly_is_inlined_once_and_only_where_there_are_curves(text: str) -> None:
    assert text.count("plotly.js v") == 1
    without = render_html(report(curves={}))
    assert "plotly.js v" not in without
    assert len(without) < 60_000
    assert 'href="#curves"' not in without


def test_hostile_text_stays_text(text: str, page: Page) -> None:
    # Two scripts of ours and the data; the name appears in many places and opens none.
    assert len(page.scripts) == 3
    assert HOSTILE not in text
    assert f"A study {HOSTILE}" in page.text
    assert f"upon {HOSTILE}" in page.text
    assert f"windtunnel compare {HOSTILE}" in page.text
    assert page.data[2]["name"] == HOSTILE
    assert not [a for _, a in page.tags if any(key.startswith("on") for key in a)]


def test_json_in_a_script_keeps_its_meaning_and_no_angle_bracket() -> None:
    value = {"</script><!--": ["<", ">", "&", "\u2028", "é"]}
    text = embedded_json(value)
    assert not set("<>&") & set(text)
    assert text.isascii()
    assert json.loads(text) == value


def test_the_same_report_gives_the_same_bytes(text: str) -> None:
    assert render_html(report()) == text


def test_tables_have_captions_and_heads(page: Page) -> None:
    tables = len(page.of("table"))
    assert tables == len(page.of("caption")) == 3  # verdict, cost, one diff
    assert {a.get("scope") for a in page.of("th")} == {"row", "col"}


def test_the_numbers_of_the_verdict_are_there_with_their_intervals(page: Page) -> None:
    assert "−0.045" in page.text
    assert "[−0.063, −0.027]" in page.text
    assert "✓ better" in page.text
    assert "? undecided" in page.text
    assert "llama is better than gpt2." in page.text


def test_the_forest_plot_places_intervals_and_zero_on_one_scale(text: str, page: Page) -> None:
    rows = [a["aria-label"] for a in page.of("div") if a.get("role") == "img" and "id" not in a]
    assert rows[0] == "llama: -0.045 [-0.063, -0.027], better"
    boxes = re.findall(r'class="interval" style="left:([\d.]+)%;width:([\d.]+)%"', text)
    means = re.findall(r'class="mean" style="left:([\d.]+)%"', text)
    zero = float(re.findall(r'class="zero" style="left:([\d.]+)%"', text)[0])
    left, width = map(float, boxes[0])
    assert left < float(means[0]) < left + width < zero
    low, wide = map(float, boxes[1])
    assert low < zero < low + wide


def test_levels_of_confidence_and_failed_runs_are_told() -> None:
    one = arm("b", "better", -0.045, failed=1)
    one["delta_bits_per_byte"]["confidence"] = 0.975
    tree = verdicts(arms=[arm("a", "reference", 0.0), one], metric="bits_per_byte")
    text = render_html(report(verdicts=tree, curves={}))
    page = Page(text)
    assert "[−0.0315, −0.0135] 97.5%" in page.text
    assert "−0.045" not in page.text  # nats per token do not compare here
    assert "! failed 1 of 3" in page.text
    panels = [a for a in page.of("div") if "data-forest" in a]
    assert [(a["data-forest"], "hidden" in a) for a in panels] == [
        ("bits_per_byte", False),
    ]
    assert text.count('class="mde"') == 1


def test_the_detectable_effect_is_shaded_in_the_unit_of_the_verdict_alone(text: str) -> None:
    first, second = (text.index(f'data-forest="{name}"') for name in ("loss", "bits_per_byte"))
    assert first < text.index('class="mde"') < second
    assert 'class="mde"' not in text[second:]


@pytest.mark.parametrize("limits", [(-0.05, 0.02), (-3.0, 250.0), (-1e-7, 1e-7)])
def test_ticks_are_round_inside_and_hold_zero(limits: tuple[float, float]) -> None:
    ticks = nice_ticks(*limits)
    assert 0.0 in ticks
    assert 2 <= len(ticks) <= 11
    assert all(limits[0] <= tick <= limits[1] for tick in ticks)


def test_a_diverged_arm_without_numbers_is_shown() -> None:
    nothing = {"mean": None, "low": None, "high": None}
    endless = {"mean": float("inf"), "low": float("-inf"), "high": float("inf")}
    lost = arm("lost", "worse", 0.0, diverged=1)
    lost |= {
        "delta": endless,
        "delta_bits_per_byte": nothing,
        "loss": {**nothing, "values": [None, 2.0, 2.0]},
        "bits_per_byte": nothing,
        "p_value": None,
        "p_holm": None,
    }
    bad = curve()
    broken = type(bad)(evals=[{**p, "loss": float("nan")} for p in bad.evals], train=())
    tree = verdicts(arms=[arm("a", "reference", 0.0), lost])
    page = Page(render_html(report(verdicts=tree, curves={"a": {0: bad}, "lost": {0: broken}})))
    assert "! diverged 1 of 3" in page.text
    assert "n/a" in page.text
    assert page.data[1]["bands"]["loss"]["mean"] == []
    assert page.data[1]["seeds"][0]["evals"]["loss"] == [None] * 4


def test_one_architecture_alone_has_no_differences() -> None:
    page = Page(render_html(report(verdicts=verdicts(arms=[arm("a", "reference", 0.0)]))))
    assert "Differences" not in page.text


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.html"
    write_html(target, report(curves={}))
    first = target.read_bytes()
    assert first.decode() == render_html(report(curves={}))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]

    def full_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("windtunnel.report.page.os.fsync", full_disk)
    with pytest.raises(StudyError, match=r"report\.html: No space left on device"):
        write_html(target, report(curves={}, title="another"))
    assert target.read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"cannot write the page .*No such file"):
        write_html(tmp_path / "absent" / "report.html", report(curves={}))
