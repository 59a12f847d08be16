"""The page ``docs/cli.md``, made from the commands: ``python -m windtunnel.cli.reference``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

_INTRODUCTION = """\
# The command line

`windtunnel VERB --help` prints the same. Exit codes: 0 done, 1 a failure, 2 a mistake in what was
asked (nothing was written), 130 interrupted, 75 asked to make room; after the last two a checkpoint
was saved, and the same command goes on. With `--json`, standard output holds one JSON document and
nothing else; progress goes to standard error.

Made by `python -m windtunnel.cli.reference`; a test keeps it equal to the program.
"""


def render() -> str:
    """The whole page."""
    from windtunnel.cli.main import app

    root: Any = typer.main.get_command(app)
    return "\n".join([_INTRODUCTION, *_verbs(root, "windtunnel")])


def _verbs(group: Any, prefix: str) -> Iterator[str]:
    for name, command in group.commands.items():
        full = f"{prefix} {name}"
        if hasattr(command, "commands"):
            yield from _verbs(command, full)
            continue
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        usage = " ".join([full, *(str(a.metavar or a.name.upper()) for a in arguments)])
        yield f"## {full}\n\n{(command.help or '').strip()}\n\n    {usage} [options]\n"
        rows = [f"| `{a.metavar or a.name.upper()}` | {_help(a)} |" for a in arguments]
        rows += [f"| `{', '.join(o.opts)}` | {_help(o)} |" for o in options]
        if rows:
            yield "\n".join(["| | |", "|---|---|", *rows]) + "\n"


def _help(parameter: Any) -> str:
    text = (parameter.help or "").strip()
    default = parameter.default
    shown = default not in (None, False, (), []) and not callable(default)
    return f"{text} Default: `{default}`." if shown else text


if __name__ == "__main__":
    print(render(), end="")
