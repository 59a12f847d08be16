"""The file that ``windtunnel new mixer NAME`` writes: a mixer outside the package, which works.

There is one to begin with for each kind of idea: a state of one's own, or a variant of attention.
"""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path
from string import Template

from windtunnel.config import suggestion
from windtunnel.errors import UsageError
from windtunnel.nn.component import REGISTRIES

STARTS = {"average": "mixer.py.txt", "attention": "attention.py.txt"}
"""What a new mixer may begin from, and the file beside this one."""
USUAL = "average"
_TAKEN = sys.stdlib_module_names | {"numpy", "pydantic", "torch", "windtunnel"}


def render_mixer(name: str, start: str = USUAL) -> str:
    """The Python source of a mixer whose type is ``name``, begun from one of :data:`STARTS`.

    Raises:
        UsageError: no name for a file and a type, or one that is taken; no such start.
    """
    if start not in STARTS:
        raise UsageError(f"--from: no mixer begins from {start!r}{suggestion(start, STARTS)}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UsageError(
            f"{name!r} is no name for a mixer: lower-case letters, digits and _, as in my_mixer"
        )
    if name in REGISTRIES["mixer"].names():
        raise UsageError(f"there is a mixer {name!r} already; choose another name")
    if name in _TAKEN:
        raise UsageError(f"{name}.py would hide the Python module {name!r}; choose another name")
    source = Template(Path(__file__).with_name(STARTS[start]).read_text(encoding="utf-8"))
    return source.substitute(name=name, title=_title(name))


def _title(name: str) -> str:
    """``my_mixer`` is MyMixer, ``ema`` EmaMixer: never the name of something imported there."""
    words = name.removesuffix("_mixer").split("_")
    return "".join(word[:1].upper() + word[1:] for word in (*words, "mixer"))
