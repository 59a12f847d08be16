"""The page about probes says what the code does."""

import re
from pathlib import Path

import pytest

from windtunnel.config import decode, parse_document
from windtunnel.data.config import DataConfig
from windtunnel.data.probe import Draw, ProbeSource
from windtunnel.data.probes import probe_classes

PAGE = (Path(__file__).parents[2] / "docs" / "probes.md").read_text(encoding="utf-8")
OURS = sorted(n for n, cls in probe_classes().items() if cls.__module__.startswith("windtunnel"))


@pytest.mark.parametrize("name", OURS)
def test_every_task_stands_in_the_tables_with_its_keys_and_defaults(name: str) -> None:
    rows = re.findall(rf"^\| `{name}` \| (.*?) \| (.*?) \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 2
    written = dict(re.findall(r"`(\w+)` ([\w.]+)", rows[1][0]))
    task = probe_classes()[name]
    axes = set(task.model_fields) - set(ProbeSource.model_fields)
    assert written == {key: str(task.model_fields[key].default) for key in sorted(axes)}


def test_the_shared_keys_are_those_of_the_base() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+|\[\]) \| .* \|$", PAGE, flags=re.MULTILINE))
    fields = ProbeSource.model_fields
    assert rows == {
        name: str(fields[name].default).replace("()", "[]") for name in fields if name != "type"
    }


def test_the_task_of_one_s_own_works() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(block, "docs/probes.md", "exec"), {"__name__": "docs_probes"})
    config = decode(parse_document("source: {type: last, length: 5}"), DataConfig)
    assert isinstance(config.source, ProbeSource)
    example = config.source.example(Draw(0))
    assert example.answers == [(i, example.tokens[i - 1]) for i in range(1, 5)]
