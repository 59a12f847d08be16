"""The space of a search: read from its file, checked, and laid over a run's config."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.config import (
    Document,
    canonical_json,
    decode,
    format_path,
    load_document,
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


def load_search(path: Path) -> Search:
    """The search of a file.

    Raises:
        ConfigError: every mistake at once, each with its place.
    """
    return read_search(load_document(path))


def read_search(document: Document) -> Search:
    """The search of a document; as :func:`load_search`."""
    return Search(decode(document, SearchConfig, _misfits), document)


def _misfits(config: SearchConfig) -> list[tuple[ConfigPath, str]]:
    found = [*_objective_misfits(config), *_sampler_misfits(config)]
    if not config.space:
        found.append((("space",), "is empty: name at least one path and its values"))
    earlier: list[str] = []
    for path, knob in config.space.items():
        found += _path_misfits(path, config)
        for other in knob.when:
            if other not in earlier:
                later = (
                    "stands further down: write it before"
                    if other in config.space
                    else (f"is no knob before this one{suggestion(other, earlier)}")
                )
                found.append((("space", path, "when", other), later))
        earlier.append(path)
    return found


def _path_misfits(path: str, config: SearchConfig) -> list[tuple[ConfigPath, str]]:
    try:
        parse_path(path)
    except ConfigError as error:
        return [(("space", path), error.problems[0].message)]
    for root, reason in _NOT_SEARCHED.items():
        if path == root or path.startswith((f"{root}.", f"{root}[")):
            return [(("space", path), f"cannot be searched: {reason}")]
    pruned = isinstance(config.pruning, RungConfig)
    if pruned and (path == "train.steps" or path.startswith("train.stages")):
        return [(("space", path), "with pruning all trials have the same steps")]
    return []


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
    problems: list[Problem] = []
    for path, knob in search.space.items():
        base = _parents(search.space, path)
        ends = knob.choice if knob.choice is not None else knob.bounds
        for value in ends:
            problems += _form_problems(run, {**base, path: value}, path, search)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


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


def _form_problems(run: LoadedRun, params: Params, path: str, search: Search) -> list[Problem]:
    """What is wrong with one knob's value by itself."""
    try:
        applied(run, params)
    except ConfigError as error:
        return [
            Problem(path, f"{problem.path}: {problem.message}", search.place(path))
            for problem in error.problems
            if _is_of_form(problem, path)
        ]
    return []


def _is_of_form(problem: Problem, path: str) -> bool:
    """Whether a path or the kind of its value is wrong, whatever other values are."""
    here, there = _stem(path), _stem(problem.path)
    if here.startswith(there) and problem.message.startswith(("is not a list", "has ")):
        return True
    return there.startswith(here) and problem.message.startswith(("unknown ", "expected "))


def _stem(path: str) -> str:
    """A path without the numbers of its entries, so that [*] and [0] are alike."""
    try:
        steps = parse_path(path)
    except ConfigError:
        return path
    return format_path(tuple("*" if isinstance(step, int) else step for step in steps))
