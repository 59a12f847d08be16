"""Dotted paths into a config: ``arch.layers[*].mixer.num_heads``."""

from __future__ import annotations

import re
from typing import TypeAlias

from windtunnel.errors import ConfigError, Problem

Step: TypeAlias = str | int
Path: TypeAlias = tuple[Step, ...]
ALL = "*"

_TOKEN = re.compile(r"(?P<name>[A-Za-z_][\w-]*)|\[(?P<index>-?\d+|\*)\]")


def parse_path(text: str, place: str = "") -> Path:
    """``a.b[0][*]`` as steps: names, indices and ``'*'``. ``place``: where it was written.

    Raises:
        ConfigError: it is no path.

    >>> parse_path("arch.layers[*].mixer")
    ('arch', 'layers', '*', 'mixer')
    """
    steps: list[Step] = []
    position = 0
    while position < len(text):
        if text[position] == "." and steps:
            position += 1
        match = _TOKEN.match(text, position)
        joined = bool(steps) and text[position - 1] != "."
        if match is None or (match["name"] and joined) or (match["index"] and not steps):
            message = "is not a path such as arch.layers[0].mixer.type"
            raise ConfigError([Problem(text, message, place)])
        index = match["index"]
        steps.append(match["name"] or (ALL if index == ALL else int(index)))
        position = match.end()
    if not steps:
        raise ConfigError([Problem(text, "the path is empty", place)])
    return tuple(steps)


def format_path(path: Path) -> str:
    """The dotted text of a path.

    >>> format_path(("arch", "layers", 0, "mixer"))
    'arch.layers[0].mixer'
    """
    text = ""
    for step in path:
        if isinstance(step, int) or step == ALL:
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text
