"""Every example file is right, and every documented command is one of the program's."""

import json
from pathlib import Path

import pytest
from tests.conftest import Command

ROOT = Path(__file__).parents[1]
SAMPLES = sorted((ROOT / "examples" / "samples").glob("*.yaml"))
RUN_FILES = sorted((ROOT / "examples").rglob("*.yaml"))


@pytest.mark.parametrize("file", RUN_FILES, ids=lambda file: file.stem)
def test_an_example_checks_without_a_warning(windtunnel: Command, file: Path) -> None:
    answer = windtunnel("check", file, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["warnings"] == []


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.stem)
def test_an_example_on_samples_trains_and_answers(
    windtunnel: Command, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # its data is named from there
    run = tmp_path / "run"
    answer = windtunnel("train", file, "--set", "train.steps=2", "--out", run)
    assert answer.code == 0, answer.err
    verb = "classify" if file.stem == "classify" else "generate"
    more = ("--steps", 2) if file.stem == "diffuse" else ()
    assert windtunnel(verb, run, "one", *more).code == 0


def test_there_are_examples() -> None:
    assert len(RUN_FILES) >= 4
