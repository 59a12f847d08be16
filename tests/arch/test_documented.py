"""The examples of the run file's page are ones that work."""

import re
from pathlib import Path

import pytest

from windtunnel.config import parse_document
from windtunnel.train.run_config import LoadedRun, load_run_document

PAGE = Path(__file__).parents[2] / "docs" / "config.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def loaded(block: str) -> LoadedRun:
    return load_run_document(parse_document(block, "docs"))


def test_the_documented_run_file_is_right() -> None:
    arch = loaded(BLOCKS[0]).config.arch
    assert arch.layers[0].repeat == 6
    assert arch.layers[0].placement == "pre"


@pytest.mark.parametrize("block", BLOCKS)
def test_every_documented_run_file_is_one(block: str) -> None:
    assert loaded(block).config.arch.layers
