"""The documents speak of what is there: commands, names, links."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from windtunnel.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> Iterator[Any]:
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            match = re.match(r"(?:    |\$ |)(?:\.venv/bin/)?(windtunnel [a-z].*)$", line)
            if match and page.name != "cli.md":
                command = re.sub(r"\s{2,}.*| #.*|;.*| [|>].*", "", match[1])
                if "…" not in command and re.match(r"windtunnel [a-z]+( |$)", command):
                    yield pytest.param(command, id=f"{page.name}: {command}")


def python_blocks() -> Iterator[Any]:
    for page in PAGES:
        for number, block in enumerate(
            re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        ):
            yield pytest.param(block, id=f"{page.name}-{number}")


@pytest.mark.parametrize("command", list(commands()))
def test_a_documented_command_is_one_that_the_program_takes(command: str) -> None:
    _, verb, *arguments = shlex.split(command)
    group: Any = typer.main.get_command(app)
    while hasattr(group.commands.get(verb), "commands"):
        group, verb, arguments = group.commands[verb], arguments[0], arguments[1:]
    assert verb in group.commands, f"no verb {verb!r}"
    group.commands[verb].make_context(verb, arguments)  # raises for what it does not take


@pytest.mark.parametrize("block", list(python_blocks()))
def test_the_names_in_documented_code_exist(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("windtunnel"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_there_is_something_to_check() -> None:
    assert len(list(commands())) >= 10
    assert len(list(python_blocks())) >= 3
