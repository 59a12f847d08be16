"""Which tasks architectures are probed with: a suite, chosen ones, or a file's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from windtunnel.config import Config, decode, load_document, suggestion
from windtunnel.data.config import SourceConfig
from windtunnel.data.probe import ProbeSource
from windtunnel.data.probes import probe_classes
from windtunnel.errors import UsageError

Level = Literal["easy", "medium", "hard"]
LEVELS: tuple[Level, ...] = get_args(Level)
TEXT = "text"
"""The name of the column that is no task: the file's own data."""

_LONGER = {"parity": (32, 64), "mqar": (32,), "selective_copying": (32,)}
"""Of the suite's easy form: what the test has besides, two and four times as long."""


@dataclass(frozen=True)
class ProbeTask:
    """A task under its name in the matrix."""

    name: str
    source: ProbeSource


def suite(level: Level = "easy") -> tuple[ProbeTask, ...]:
    """Every task of the package at a level; some have longer tests besides.

    >>> [task.name for task in suite()][:3]
    ['compression', 'cyclic', 'fuzzy_recall']
    """
    ours = {n: c for n, c in probe_classes().items() if c.__module__.startswith("windtunnel.")}
    return tuple(ProbeTask(name, _at_level(name, level)) for name in sorted(ours))


def _at_level(name: str, level: Level) -> ProbeSource:
    easy = probe_classes()[name].model_validate({"type": name})
    task = easy.at_level(level)
    length, own = getattr(task, "length", 0), getattr(easy, "length", 0)
    longer = tuple(n * length // own for n in _LONGER.get(name, ()))
    return task.replace(test_lengths=longer)


class _TasksFile(Config):
    """A file of tasks by name."""

    tasks: dict[str, SourceConfig]


def named_tasks(text: str | None, level: Level = "easy") -> tuple[ProbeTask, ...]:
    """The tasks that ``--tasks`` asks for: all when left out, a list of names with commas, or a
    YAML file with ``tasks:``, a source by name.

    Raises:
        UsageError: a name that there is not, or twice; a file whose sources are no tasks.
    """
    if level not in LEVELS:
        raise UsageError(f"--difficulty: {level!r}{suggestion(level, LEVELS)}")
    if text is None:
        return suite(level)
    if text.endswith((".yaml", ".yml")):
        if level != "easy":
            raise UsageError("--difficulty: the tasks of a file say themselves how hard they are")
        return _read(Path(text))
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in probe_classes():
            raise UsageError(f"--tasks: {name!r}{suggestion(name, probe_classes())}")
    if len(set(names)) < len(names):
        raise UsageError(f"--tasks {text}: a task stands there twice")
    return tuple(ProbeTask(name, _at_level(name, level)) for name in names)


def _read(path: Path) -> tuple[ProbeTask, ...]:
    found = []
    for name, source in decode(load_document(path), _TasksFile).tasks.items():
        if not isinstance(source, ProbeSource):
            raise UsageError(f"{path}: tasks.{name}: {source.type} is no synthetic task")
        if name == TEXT or " " in name:
            raise UsageError(f"{path}: tasks.{name}: {name!r} cannot be the name of a task")
        found.append(ProbeTask(name, source))
    if not found:
        raise UsageError(f"{path}: holds no task")
    return tuple(found)


def task_tree(tasks: Sequence[ProbeTask]) -> dict[str, Any]:
    """What the tasks are, as plain JSON."""
    return {
        task.name: {
            "source": task.source.model_dump(mode="json"),
            "chance": task.source.chance,
            "lengths": list(task.source.lengths),
        }
        for task in tasks
    }


def losses_of(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The losses on text of a finished study (a comparison, or a probe), by architecture: mean,
    low, high.

    Raises:
        UsageError: the study has none.
    """
    if isinstance(results.get("text"), Mapping):
        return {name: dict(cell["score"]) for name, cell in results["text"].items()}
    try:
        return {
            arm["name"]: {key: arm["loss"][key] for key in ("mean", "low", "high")}
            for arm in results["arms"]
        }
    except (KeyError, TypeError) as error:
        raise UsageError(f"--losses: the study has no losses by architecture ({error})") from error
