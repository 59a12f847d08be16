"""The space of a search: read from its file, checked, and laid over a run's config."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from windtunnel.config import (
    Document,
    canonical_json,
    decode,
    format_path,
    load_document,
    nearest,
    parse_path,
    suggestion,
)
from windtunnel.config import Path as ConfigPath
from windtunnel.errors import ConfigError, Problem
from windtunnel.study.search.config import (
    CmaEsConfig,
    GridConfig,
    NoPruningConfig,
    RungConfig,
    SearchConfig,
)
from windtunnel.study.search.knob import KnobConfig, Params
from windtunnel.train.run_config import LoadedRun, load_run_document

_NOT_SEARCHED = {
    "data": "trials on different data have losses that cannot be compared",
    "train.objective": "losses of different objectives cannot be compared",
    "train.eval_tokens": "trials must be judged on the same text",
    "train.seed": "seeds are the search's own: see `seeds` and `confirm`",
    "train.device": "it changes no loss",
    "arch.name": "a name changes nothing",
    "plugins": "plugins are not searched",
    "origin": "what a run begins with is not searched",
}
_HARMLESS = ("arch.name",)
"""Of those what may be in a part that is searched as a whole."""
_MOST_GRID = 100_000


@dataclass(frozen=True)
class Search:
    """A search's question, and where each part of it was written."""

    config: SearchConfig
    document: Document

    @property
    def space(self) -> Mapping[str, KnobConfig]:
        return self.config.space

    def place(self, knob: str) -> str:
        """Where a knob was written, as file:line:column."""
        return self.document.place(("space", knob), key=True)


def load_search(path: Path, run: LoadedRun | None = None) -> Search:
    """The search of a file.

    Args:
        run: where given, paths that lead nowhere in it are mistakes too.

    Raises:
        ConfigError: every mistake at once, each with its place.
    """
    return read_search(load_document(path), run)


def read_search(document: Document, run: LoadedRun | None = None) -> Search:
    """The search of a document; as :func:`load_search`."""
    try:
        search = Search(decode(document, SearchConfig, partial(_misfits, document)), document)
    except ConfigError as error:
        knobs, broken = _readable(document)
        found = [misfit for path in broken for misfit in _path_misfits(path)]
        more = [_problem(document, path, message) for (_, path), message in found]
        if run is not None:
            more += _lost_paths(knobs, broken, document, run)
        raise ConfigError(sorted([*error.problems, *more], key=_line)) from None
    if run is not None:
        check_paths(search, run)
    return search


def _problem(document: Document, knob: str, message: str) -> Problem:
    """A mistake in a knob's path."""
    path = ("space", knob)
    return Problem(format_path(path), message, document.place(path, key=True))


def _line(problem: Problem) -> list[int]:
    """Where in its file a problem stands."""
    return [int(number) for number in problem.place.rsplit(":", 2)[1:] if number.isdigit()]


def _readable(document: Document) -> tuple[dict[str, KnobConfig], list[str]]:
    """The knobs of a document with mistakes, and those of them that cannot be read: they have their
    condition, and a value that says nothing."""
    space = document.get(("space",))
    knobs: dict[str, KnobConfig] = {}
    broken: list[str] = []
    for path, written in space.items() if isinstance(space, dict) else ():
        try:
            knobs[path] = decode(Document({"space": {path: written}}), SearchConfig).space[path]
        except ConfigError:
            knobs[path] = KnobConfig(choice=(None,), when=_condition(written))
            broken.append(path)
    return knobs, broken


def _condition(written: Any) -> Mapping[str, Any]:
    """The ``when`` of a knob that cannot be read; one that nothing fulfils where it is not known,
    as with its name misspelt."""
    fields = KnobConfig.model_fields
    names = written if isinstance(written, dict) else {}
    when = names.get("when", {})
    misspelt = any(name not in fields and nearest(name, fields) == "when" for name in names)
    return {"": None} if misspelt or not isinstance(when, dict) else when


def _misfits(document: Document, config: SearchConfig) -> list[tuple[ConfigPath, str]]:
    written = document.get(("space",), {})  # with the knobs that cannot be read
    found = _objective_misfits(config)
    if len(written) == len(config.space):
        found += _sampler_misfits(config)
    if not written:
        found.append((("space",), "is empty: name at least one path and its values"))
    earlier: list[str] = []
    for path in written:
        found += _path_misfits(path, pruned=isinstance(config.pruning, RungConfig))
        for other in config.space[path].when if path in config.space else ():
            if other not in earlier:
                later = (
                    "stands further down: write it before"
                    if other in written
                    else (f"is no knob before this one{suggestion(other, earlier)}")
                )
                found.append((("space", path, "when", other), later))
        earlier.append(path)
    return found


def _path_misfits(path: str, *, pruned: bool = False) -> list[tuple[tuple[str, str], str]]:
    try:
        parse_path(path)
    except ConfigError as error:
        return [(("space", path), error.problems[0].message)]
    for root, reason in _NOT_SEARCHED.items():
        if _is_below(path, root):
            return [(("space", path), f"cannot be searched: {reason}")]
        if _is_below(root, path) and root not in _HARMLESS:
            return [(("space", path), f"cannot be searched: {root} is part of it: {reason}")]
    if pruned and (path == "train.steps" or path.startswith("train.stages")):
        return [(("space", path), "with pruning all trials have the same steps")]
    return []


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith((f"{root}.", f"{root}["))


def _objective_misfits(config: SearchConfig) -> list[tuple[ConfigPath, str]]:
    found: list[tuple[ConfigPath, str]] = []
    objectives = config.objectives
    if "loss" not in objectives:
        found.append((("objectives",), "loss must be among them"))
    if len(set(objectives)) != len(objectives):
        found.append((("objectives",), "one stands there twice"))
    if len(objectives) > 1 and not isinstance(config.pruning, NoPruningConfig):
        text = "with several objectives a trial cannot be judged by its loss alone; take none"
        found.append((("pruning",), text))
    if len(objectives) > 1 and isinstance(config.sampler, CmaEsConfig):
        text = "cma-es has one objective; take tpe, nsga2, random or grid for several"
        found.append((("sampler",), text))
    return found


def _sampler_misfits(config: SearchConfig) -> list[tuple[ConfigPath, str]]:
    if isinstance(config.sampler, GridConfig):
        return [
            (("space", path), "a grid needs `points` or a step here")
            for path, knob in config.space.items()
            if knob.values() is None
        ]
    if isinstance(config.sampler, CmaEsConfig):
        numbers = [k for k in config.space.values() if k.choice is None and not k.when]
        if len(numbers) < 2:
            text = f"cma-es needs two numbers that are always there; the space has {len(numbers)}"
            return [(("sampler",), text)]
    return []


def grid_points(space: Mapping[str, KnobConfig]) -> list[Params]:
    """Every combination of a space's values, conditional knobs only where they are there, in the
    order of the file (the last knob fastest).

    Raises:
        ConfigError: there are more than 100,000.
    """
    points = list(itertools.islice(_points(space, list(space), {}), _MOST_GRID + 1))
    if len(points) > _MOST_GRID:
        text = f"the grid has more than {_MOST_GRID:,} points; take fewer, or another sampler"
        raise ConfigError([Problem("space", text)])
    return points


def _points(
    space: Mapping[str, KnobConfig], left: list[str], chosen: dict[str, Any]
) -> Iterator[Params]:
    if not left:
        yield dict(chosen)
        return
    first, rest = left[0], left[1:]
    knob = space[first]
    if not knob.is_there(chosen):
        yield from _points(space, rest, chosen)
        return
    values = knob.values()
    assert values is not None, "a grid's knobs were checked"
    for value in values:
        yield from _points(space, rest, {**chosen, first: value})


def same_point(first: Params, second: Params) -> bool:
    """Whether two trials chose the same."""
    return canonical_json(dict(first)) == canonical_json(dict(second))


def applied(run: LoadedRun, params: Params, origin: str = "search") -> LoadedRun:
    """The run's config with what a trial has chosen, checked as if it were written so.

    Raises:
        ConfigError: the configuration is not valid.
    """
    document = run.document
    for path, value in params.items():
        document = document.with_value(parse_path(path), value, origin)
    return load_run_document(document, base=run.base)


def check_paths(search: Search, run: LoadedRun) -> None:
    """Raises ConfigError for knobs that lead nowhere in the run's config, whatever the others are:
    unknown keys and components, values of another kind, entries that a list does not have."""
    problems = _lost_paths(search.space, (), search.document, run)
    if problems:
        raise ConfigError(problems)


def _lost_paths(
    space: Mapping[str, KnobConfig], broken: Sequence[str], document: Document, run: LoadedRun
) -> list[Problem]:
    """What :func:`check_paths` tells; of ``broken`` knobs only what no value would mend."""
    problems: list[Problem] = []
    for path, knob in space.items():
        above = _ancestors(space, path)
        if any(other in broken or other not in space for other in above) or _path_misfits(path):
            continue
        base = _parents(space, path)
        for value in knob.choice if knob.choice is not None else knob.bounds:
            found = _form_problems(run, {**base, path: value}, path)
            if path in broken:
                found = [problem for problem in found if not _is_of_value(problem, path)]
            problems += [_problem(document, path, _told(problem, path)) for problem in found]
    return list(dict.fromkeys(problems))


def _is_of_value(problem: Problem, path: str) -> bool:
    """Whether another value might be right there."""
    below = _stem(problem.path).startswith(_stem(path))
    return below and not problem.message.startswith("unknown key")


def _ancestors(space: Mapping[str, KnobConfig], path: str) -> set[str]:
    """The knobs that decide whether one is there."""
    found: set[str] = set()
    waiting = [path]
    while waiting:
        knob = space.get(waiting.pop())
        new = set(knob.when) - found if knob is not None else set()
        found |= new
        waiting += new
    return found


def _parents(space: Mapping[str, KnobConfig], path: str) -> dict[str, Any]:
    """Values with which a knob is there: the first of each condition, conditions of those too."""
    chosen: dict[str, Any] = {}
    for other, wanted in space[path].when.items():
        chosen |= _parents(space, other)
        knob = space[other]
        values = knob.values() or knob.bounds
        alone = KnobConfig(choice=values, when={other: wanted})
        fitting = [value for value in values if alone.is_there({other: value})]
        chosen[other] = fitting[0] if fitting else values[0]
    return chosen


def _form_problems(run: LoadedRun, params: Params, path: str) -> list[Problem]:
    """What is wrong with one knob's path or value by itself."""
    try:
        applied(run, params)
    except ConfigError as error:
        return [problem for problem in error.problems if _is_of_form(problem, path)]
    return []


def _is_of_form(problem: Problem, path: str) -> bool:
    """Whether a path or the kind of its value is wrong, whatever other values are."""
    here, there = _stem(path), _stem(problem.path)
    if here.startswith(there) and problem.message.startswith(("is not a list", "has ")):
        return True
    if here != there and _is_below(here, there):  # a step further than the config goes
        return " is a list: " in problem.message or problem.message.startswith("expected ")
    return there.startswith(here) and problem.message.startswith(("unknown ", "expected "))


def _told(problem: Problem, path: str) -> str:
    """A problem of the run's file, for the knob that makes it: its path is not said twice."""
    if _stem(problem.path) == _stem(path) or problem.message.startswith(problem.path):
        return problem.message
    if _is_below(path, problem.path) and problem.message.startswith("expected "):
        return f"{problem.path} is one value, and nothing stands below it"
    return f"{problem.path}: {problem.message}"


def _stem(path: str) -> str:
    """A path without the numbers of its entries, so that [*] and [0] are alike."""
    try:
        steps = parse_path(path)
    except ConfigError:
        return path
    return format_path(tuple("*" if isinstance(step, int) else step for step in steps))
