"""The example of the run file's page is one that works."""

import re
from pathlib import Path

from windtunnel.config import parse_document
from windtunnel.train.run_config import load_run_document

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def test_the_documented_run_file_is_right() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    loaded = load_run_document(parse_document(text, "docs"))
    assert loaded.config.arch.layers[0].repeat == 6
    assert loaded.config.arch.layers[0].placement == "pre"
