"""``windtunnel compare --until-decided`` and ``--margin``, from files to the report."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from tests.cli.test_tune_verb import RUN
from typer.testing import CliRunner

from windtunnel.cli.main import app
from windtunnel.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With two run files; the working directory."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Once upon a time number {i} came." for i in range(400)))
    for preset in ("gru", "rnn"):
        (tmp_path / f"{preset}.yaml").write_text(RUN.format(preset=preset, text=text))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def windtunnel(*arguments: str) -> Result:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def compare(out: str, *options: str) -> Result:
    return windtunnel("compare", "gru.yaml", "rnn.yaml", "--out", out, *options)


def test_seeds_are_added_and_reported_and_a_margin_is_judged(folder: Path) -> None:
    ask = ("study", "--until-decided", "--first-seeds", "2", "--max-seeds", "3", "--margin", "1e-9")
    planned = compare(*ask, "--dry-run")
    assert "up to 3: 4 to 6 runs" in " ".join(planned.stderr.split())
    assert not (folder / "study").exists()
    told = json.loads(compare(*ask, "--json").stdout)
    assert told["looks"] == [2, 3]
    assert told["margin"] == 1e-9
    assert told["arms"][1]["verdict"] in ("better", "worse", "undecided")
    assert told["arms"][1]["p_looks"] >= told["arms"][1]["p_value"]
    page = (folder / "study" / "report.html").read_text()
    assert "looks from 2 to 3 seeds" in page
    assert "compare gru.yaml rnn.yaml --until-decided --first-seeds 2 --max-seeds 3" in page
    shown = " ".join(windtunnel("report", "study").stdout.split())
    assert "seeds until decided" in shown
    assert "after Holm's correction and all looks" in shown
    trained = {path: path.stat().st_mtime_ns for path in folder.rglob("record.json")}
    compare(*ask)
    equal = compare("equal", "--seeds", "2", "--margin", "1000")  # of the same runs
    assert "equivalent: within a margin of 1000 nats per token" in " ".join(equal.stdout.split())
    assert 'class="chip equivalent"' in (folder / "equal" / "report.html").read_text()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("record.json")} == trained
    chosen = compare("chosen", "--seeds", "3", "--pairing", "measured")  # of the same runs
    assert "chose the test, and all levels allow for it" in " ".join(chosen.stdout.split())
    page = (folder / "chosen" / "report.html").read_text()
    assert "--pairing measured" in page
    assert "chose the test, and all levels allow for it" in page
    told = json.loads(windtunnel("report", "chosen", "--json").stdout)
    assert told["pairing"] == "measured"
    assert told["arms"][1]["paired"] in (True, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--margin 0", "--margin must be above 0, not 0"),
        ("--max-seeds 5", "--max-seeds needs --until-decided"),
        ("--until-decided --seeds 4", "takes --first-seeds and --max-seeds, not --seeds"),
        ("--until-decided --first-seeds 1", "a first look needs at least 2 seeds, not 1"),
        ("--until-decided --first-seeds 9 --max-seeds 4", "(4 seeds) is before the first (9)"),
        ("--until-decided --max-seeds 1000", "at most 100 seeds can be looked at"),
        ("--until-decided --pairing measured", "honest for a single look: not beside"),
        ("--pairing mesured", "--pairing: 'mesured'; did you mean 'measured'?"),
    ],
)
def test_unfit_options_are_told(folder: Path, options: str, message: str) -> None:
    with pytest.raises(UsageError) as wrong:
        compare("study", *options.split())
    assert message in str(wrong.value)
    assert not (folder / "study").exists()
