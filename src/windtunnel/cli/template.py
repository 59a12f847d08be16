"""The text of a new run file: every key with its meaning beside it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from pydantic import BaseModel

from windtunnel.arch.presets import preset_names, preset_text
from windtunnel.config import annotated_yaml, suggestion
from windtunnel.errors import UsageError

_HEADER = """\
# A run of Windtunnel: one architecture, one corpus, one recipe.
#
#   windtunnel check {name}        what it costs; every mistake at once
#   windtunnel trace {name}        shapes, time and memory of each step
#   windtunnel train {name}
#   windtunnel compare {name} OTHER.yaml --budget 1000000 --out out/study
#
# `windtunnel presets` lists other architectures, `windtunnel schema` every key.
"""


def render_run_file(preset: str, name: str = "run.yaml") -> str:
    """The YAML of a run that begins with ``preset``.

    Raises:
        UsageError: there is no such preset.
    """
    from windtunnel.data.config import DataConfig
    from windtunnel.train.config import TrainConfig

    if preset not in preset_names():
        raise UsageError(f"unknown preset {preset!r}{suggestion(preset, preset_names())}")
    summary, *body = preset_text(preset).splitlines()
    parts = [_HEADER.format(name=name), "arch:", f"  {summary}"]
    parts += [f"  {line}" for line in body]
    for key, section in (("data", DataConfig()), ("train", TrainConfig())):
        parts += ["", f"{key}:", *_described(section)]
    return "\n".join(parts) + "\n"


def _described(section: BaseModel) -> Iterator[str]:
    values = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        for line in textwrap.wrap(field.description or "", 88):
            yield f"  # {line}"
        unwritten = getattr(section, name)  # a default that came later is left out of the values
        text = annotated_yaml({name: values.get(name, getattr(unwritten, "type", unwritten))})
        yield textwrap.indent(text.rstrip("\n"), "  ")
