"""The part of an answer that follows from its cells and fits alone, so that ladders of old have it
too: differences, trends, which fits are identified, and the conclusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.study.ladder.gaps import cell_differences
from windtunnel.study.ladder.identify import identified
from windtunnel.study.ladder.trend import trends
from windtunnel.study.ladder.words import conclusion, trend_words


def completed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with all of it; a tree that has it is not changed."""
    if "differences" in tree:
        return dict(tree)
    found = [{**one, "words": trend_words(one)} for one in trends(tree["cells"], tree["arms"])]
    whole = {
        **identified(tree),
        "differences": cell_differences(tree["cells"], tree["arms"]),
        "trends": found,
    }
    return {**whole, "conclusion": conclusion(whole)}
