"""The page on adding a component: its files and commands, in their order, as they stand; and what
the page for those who come from elsewhere says in its tables."""

import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from tests.apart import components_apart
from tests.conftest import Command

from windtunnel.cli.main import app
from windtunnel.config import parse_value
from windtunnel.nn.component import REGISTRIES
from windtunnel.nn.mixers.softmax_attention import SoftmaxAttention
from windtunnel.train.run_config import load_run

PAGE = Path(__file__).parents[1] / "docs" / "add-a-component.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = [line[2:] for line in TEXT.splitlines() if line.startswith("$ ")]
ELSEWHERE = PAGE.with_name("coming-from.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", ELSEWHERE, re.MULTILINE | re.DOTALL))
RUN_FILES = [name for name, text in SECTIONS.items() if "    windtunnel new run.yaml" in text]
VARIANT = "## A variant of attention"
FILES = re.findall(r"`(\w+\.yaml)`:\n\n```yaml\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(autouse=True)
def apart() -> Iterator[None]:
    with components_apart():
        yield


def test_the_page_runs_from_its_first_line_to_its_last(
    windtunnel: Command, workplace: Path
) -> None:
    (workplace / "run.yaml").unlink()
    assert [name for name, _ in FILES] == ["own.yaml", "attention.yaml", "gated.yaml"]
    assert len(FILES) == TEXT.count("```yaml")
    for name, text in FILES:
        (workplace / name).write_text(text, encoding="utf-8")
    assert len(COMMANDS) >= 12
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
    for name in named(TEXT.partition(VARIANT)[0]):
        assert re.search(rf"^\s*(class|def) {name}\b", source, re.MULTILINE), name


def test_the_hooks_that_the_page_names_are_those_of_attention(
    windtunnel: Command, workplace: Path
) -> None:
    hooks = named(TEXT.partition(VARIANT)[2])
    assert hooks == ["queries", "keys", "values", "scores", "read", "output"]
    told = (SoftmaxAttention.__doc__ or "").partition("hooks")[2]
    assert re.findall(r":meth:`(\w+)`", told) == hooks
    assert windtunnel("new", "mixer", "gated", "--from", "attention").code == 0
    source = (workplace / "gated.py").read_text(encoding="utf-8")
    for hook in hooks:
        assert inspect.getdoc(getattr(SoftmaxAttention, hook))
        assert f"`{hook}`" in source


def test_the_code_on_the_page_is_that_of_the_file(windtunnel: Command, workplace: Path) -> None:
    assert windtunnel("new", "mixer", "gated", "--from", "attention").code == 0
    source = (workplace / "gated.py").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 2
    lines = [line.strip() for line in source.splitlines()]
    for line in "".join(blocks).splitlines():
        assert not line.strip() or line.strip() in lines, line


def named(text: str) -> list[str]:
    """The names in the first column of a text's tables."""
    parts = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [name for part in parts for name in re.findall(r"`(\w+)`", part)]


def here(text: str) -> list[str]:
    """What stands as code in the second column of a section's tables."""
    rows = re.findall(r"^\|[^|]*\|([^|]*)\|$", text, re.MULTILINE)
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row)]


def test_each_public_tool_has_its_section() -> None:
    assert list(SECTIONS)[:6] == [
        "nanoGPT", "litgpt", "Hugging Face Trainer", "OLMo-core's model ladder", "mad-lab",
        "zoology",
    ]  # fmt: skip
    assert RUN_FILES == ["nanoGPT", "litgpt", "Hugging Face Trainer"]
    for name in list(SECTIONS)[:6]:
        assert re.search(r"^    windtunnel \w", SECTIONS[name], re.MULTILINE)
        assert len(here(SECTIONS[name])) >= 10


@pytest.mark.parametrize("section", RUN_FILES)
def test_all_values_of_a_section_go_together_into_its_run_file(
    windtunnel: Command, workplace: Path, section: str
) -> None:
    (workplace / "run.yaml").unlink()
    text = SECTIONS[section]
    (new,) = re.findall(r"^    windtunnel (new .*)$", text, re.MULTILINE)
    assert windtunnel(*shlex.split(new)).code == 0
    edits = [code for code in here(text) if re.match(r"(arch|data|train)\.[^ =]+=", code)]
    assert len(edits) >= 15
    load_run(workplace / "run.yaml", edits)


@pytest.mark.parametrize(
    "command",
    [
        code
        for text in SECTIONS.values()
        for code in here(text)
        if re.match(r"windtunnel [a-z]+ ", code) and "…" not in code
    ],
)
def test_a_command_in_a_table_is_one_that_the_program_takes(command: str) -> None:
    _, verb, *arguments = shlex.split(command)
    group = typer.main.get_command(app)
    while hasattr(group.commands[verb], "commands"):
        group, (verb, *arguments) = group.commands[verb], arguments
    if arguments:
        group.commands[verb].make_context(verb, arguments)


def test_parts_and_tasks_that_the_tables_name_are_there() -> None:
    kinds = {kind: REGISTRIES[kind] for kind in ("mixer", "mlp", "norm")}
    written = [
        code
        for section in list(SECTIONS)[:6]
        for code in here(SECTIONS[section])
        if re.match(r"(mixer|mlp|norm): \S", code)
    ]
    assert len(written) >= 3
    for code in written:
        kind, _, value = code.partition(": ")
        part = parse_value(value)
        config = kinds[kind].config_class(part if isinstance(part, str) else part["type"])
        assert config is not None, code
        config.model_validate({"type": part} if isinstance(part, str) else part)
