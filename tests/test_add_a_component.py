"""The page on adding a component: its files and commands, in their order, as they stand."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.apart import components_apart
from tests.conftest import Command

PAGE = Path(__file__).parents[1] / "docs" / "add-a-component.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = [line[2:] for line in TEXT.splitlines() if line.startswith("$ ")]
FILES = re.findall(r"`(\w+\.yaml)`:\n\n```yaml\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(autouse=True)
def apart() -> Iterator[None]:
    with components_apart():
        yield


def test_the_page_runs_from_its_first_line_to_its_last(
    windtunnel: Command, workplace: Path
) -> None:
    (workplace / "run.yaml").unlink()
    assert [name for name, _ in FILES] == ["own.yaml", "attention.yaml"]
    assert len(FILES) == TEXT.count("```yaml")
    for name, text in FILES:
        (workplace / name).write_text(text, encoding="utf-8")
    assert len(COMMANDS) >= 7
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        assert program == "windtunnel"
        answer = windtunnel(*arguments)
        assert answer.code == 0, f"{command}: {answer.out}{answer.err}"
    assert (workplace / "out" / "compare" / "report.html").is_file()


def test_the_parts_that_the_page_names_are_in_the_file(
    windtunnel: Command, workplace: Path
) -> None:
    assert windtunnel("new", "mixer", "my_mixer").code == 0
    source = (workplace / "my_mixer.py").read_text(encoding="utf-8")
    for part in re.findall(r"^\| (`.*?) \|", TEXT, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", part):
            assert re.search(rf"^\s*(class|def) {name}\b", source, re.MULTILINE), name
