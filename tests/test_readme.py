"""The README's commands and code, run as they stand, but for the corpus: a small file here."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from tests.conftest import Command, corpus_text

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
COMMANDS = [line[2:] for line in TEXT.splitlines() if line.startswith("$ ")]


def use_local_corpus(folder: Path) -> None:
    for file in folder.glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        text = text.replace("type: shakespeare", "type: files\n    paths: [./corpus.txt]")
        text = text.replace("vocab_size: 4096", "vocab_size: 300")
        file.write_text(text, encoding="utf-8")


def test_the_tutorial_runs_from_its_first_line_to_its_last(
    windtunnel: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "run.yaml").unlink()
    (space,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (workplace / "space.yaml").write_text(space, encoding="utf-8")
    (workplace / "corpus.txt").write_text(corpus_text(60_000), encoding="utf-8")
    tasks = Path("examples", "tasks")
    shutil.copytree(README.parent / tasks, workplace / tasks)
    assert len(COMMANDS) >= 8
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        assert program == "windtunnel"
        answer = windtunnel(*arguments)
        assert answer.code == 0, f"{command}: {answer.err}"
        use_local_corpus(workplace)
    assert (workplace / "out" / "second" / "report.html").is_file()
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})


def test_the_makefile_has_the_two_commands() -> None:
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    for target in ("demo:", "test:", "setup:"):
        assert f"\n{target}" in makefile
