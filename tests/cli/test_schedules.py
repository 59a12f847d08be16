"""The verb ``schedule``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from windtunnel.cli.main import app
from windtunnel.errors import ConfigError, StudyError, UsageError
from windtunnel.report.page import embedded_json
from windtunnel.report.schedule_plot import MOST_POINTS, Schedule, render_schedules

RUN = """
arch: {d_model: 8, layers: [{mixer: lstm}]}
data: {source: shakespeare, tokenizer: bytes}
train: {steps: 8, schedule: {type: linear, warmup: 0, min_ratio: 0.0}}
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run.yaml").write_text(RUN)
    return tmp_path / "run.yaml"


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(
        app, ["schedule", *map(str, arguments)], catch_exceptions=False, standalone_mode=False
    )
    return result.stdout


def test_it_prints_the_shape(run: Path) -> None:
    assert invoke(run).splitlines() == [
        "█▇▆▅▄▃▂▁",
        "linear: 0.001 at step 0, peak 0.001 at step 0, 0.000125 at step 7",
    ]


def test_json_has_every_rate(run: Path) -> None:
    tree = json.loads(invoke(run, "--json", "--set", "train.lr=0.8"))
    assert tree["run"]["lr"] == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_a_plot_holds_all_runs_and_needs_no_network(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "hostile<i>.yaml"
    other.write_text(RUN.replace("linear", "cosine"))
    out = tmp_path / "plot.html"
    invoke(run, other, "--out", out)
    text = out.read_text()
    assert text.count("plotly.js v") == 1
    assert "hostile<i>" not in text
    linear = {"name": "run", "steps": list(range(8))}
    assert embedded_json(linear)[:-1] in text
    assert "default-src 'none'" in text


def test_mistakes(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.html"):
        invoke(run, "--out", tmp_path / "plot.png")
    with pytest.raises(StudyError, match="cannot write the page"):
        invoke(run, "--out", tmp_path / "nowhere" / "plot.html")
    with pytest.raises(ConfigError, match="allowed: cosine, linear, wsd, flat, step, inverse_sqrt"):
        invoke(run, "--set", "train.schedule=triangle")


def test_of_very_many_updates_some_are_drawn() -> None:
    text = render_schedules({"long": Schedule([1.0] * 100_000 + [0.5], "a line")})
    assert len(text) < 6_000_000
    assert f"{100_000}]" in text.split('"steps":[')[1].split("}")[0]
    assert MOST_POINTS == 5000
