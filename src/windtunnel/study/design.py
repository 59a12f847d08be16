"""The points of an ablation: which settings of its factors are trained, and why others are not."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any, Literal, TypeAlias

from windtunnel.arch import resolve, without_effect
from windtunnel.config import Document, Path, canonical_json, format_path
from windtunnel.errors import ConfigError, Problem, UsageError
from windtunnel.study.vary import Factor, Level, edit_text, own_label, plain
from windtunnel.train.groups import without_effect as idle_settings
from windtunnel.train.run_config import LoadedRun, counted_vocab_size, load_run_document

Kind = Literal["one", "grid", "both", "leave_one_out"]
"""one: from the file, each change by itself. leave_one_out: from all changes together, each taken
back by itself. both: both of them. grid: every combination."""
Point: TypeAlias = tuple[int, ...]
"""For each factor the index of its level."""
MOST_POINTS = 5000
MOST_NAME = 100


@dataclass(frozen=True)
class Source:
    """A run's file before anything is varied."""

    document: Document
    edits: tuple[str, ...] = ()
    base: FilePath = FilePath()

    def loaded(self, edits: Sequence[tuple[Path, Any]] = ()) -> LoadedRun:
        """The run with these edits: those of short paths first, so that a part is replaced before
        something in it is changed."""
        ordered = sorted(edits, key=lambda edit: len(edit[0]))
        texts = [edit_text(path, value) for path, value in ordered]
        return load_run_document(self.document, [*self.edits, *texts], base=self.base)


@dataclass(frozen=True)
class Skipped:
    """A point that is no valid architecture or recipe."""

    point: Point
    reason: str


@dataclass(frozen=True)
class Design:
    """What is trained: the first point is the reference of the study."""

    kind: Kind
    factors: tuple[Factor, ...]
    baseline: Point
    """The level that each factor's others are held against."""
    points: tuple[Point, ...]
    runs: tuple[LoadedRun, ...]
    """One for each point, under the point's name."""
    skipped: tuple[Skipped, ...] = ()

    @property
    def changed(self) -> Point:
        """All changes together; of designs with one change for each factor."""
        return tuple(1 for _ in self.factors)

    def settings(self, point: Point) -> dict[str, Level]:
        """By the factor's name, the level at a point."""
        pairs = zip(self.factors, point, strict=True)
        return {factor.name: factor.levels[index] for factor, index in pairs}

    def params(self, point: Point) -> dict[str, Any]:
        """By the factor's name, the value at a point."""
        return {name: level.value for name, level in self.settings(point).items()}

    def shown(self, point: Point) -> str:
        """The settings in words."""
        return ", ".join(f"{name}={level.label}" for name, level in self.settings(point).items())


def make_design(
    source: Source, factors: Sequence[Factor], kind: Kind = "one", *, skip_invalid: bool = False
) -> Design:
    """The points of a design, each loaded and checked.

    Args:
        skip_invalid: leave out points that are no valid run, in place of an error.

    Raises:
        ConfigError: every mistake of every level, or of every point, at once.
        UsageError: nothing is varied, too much is, or the design does not fit the factors.
    """
    if not factors:
        raise UsageError("nothing is varied: give --vary PATH=[value, …]")
    base = source.loaded()
    own = [_own_level(base, factor) for factor in factors]
    alone = _levels_alone(source, factors, lenient=skip_invalid or kind == "grid")
    _check_effect(base, factors, alone)
    where = [_place_of_own(base, runs) for runs in alone]
    if kind == "grid":
        complete, baseline = _grid_factors(factors, own, where)
    else:
        complete = [_from_own(*found) for found in zip(factors, own, where, strict=True)]
        baseline = (0,) * len(factors)
    _check_levels(complete, kind)
    points = _points(kind, complete, baseline)
    return _loaded(source, base, Design(kind, tuple(complete), baseline, points, ()), skip_invalid)


def _own_level(base: LoadedRun, factor: Factor) -> Level:
    """The file's value as a level without edits."""
    found = {path: list(_values(base.config, path)) for path in factor.paths}
    distinct = list({canonical_json(v): v for values in found.values() for v in values}.values())
    label = own_label(distinct, [level.label for level in factor.levels])
    if len(distinct) == 1:
        return Level(label, distinct[0], ())
    values = {format_path(p): v[0] if len(v) == 1 else v for p, v in found.items()}
    return Level(label, values[format_path(factor.paths[0])] if len(values) == 1 else values, ())


def _values(node: Any, path: Path) -> Iterator[Any]:
    """What a config has at a path; nothing where there is no such place."""
    if not path:
        yield plain(node.model_dump(mode="json") if hasattr(node, "model_dump") else node)
        return
    step, rest = path[0], path[1:]
    if isinstance(node, list | tuple):
        indices = range(len(node)) if step == "*" else [step]
        for index in indices:
            if isinstance(index, int) and -len(node) <= index < len(node):
                yield from _values(node[index], rest)
    elif isinstance(node, dict):
        if step in node:
            yield from _values(node[step], rest)
    elif isinstance(step, str) and hasattr(type(node), "model_fields") and hasattr(node, step):
        yield from _values(getattr(node, step), rest)


def _levels_alone(
    source: Source, factors: Sequence[Factor], *, lenient: bool
) -> list[list[LoadedRun | None]]:
    """The run at each level by itself; None where it is invalid and that need not be a mistake: it
    may be left out, or be valid together with other levels."""
    problems: list[Problem] = []
    found: list[list[LoadedRun | None]] = []
    for factor in factors:
        runs: list[LoadedRun | None] = []
        for level in factor.levels:
            if level.refused:
                runs.append(None)
                continue
            try:
                runs.append(source.loaded(level.edits))
            except ConfigError as error:
                runs.append(None)
                problems += _placed(error, f"{factor.name}={level.label}")
        found.append(runs)
    unknown = [p for p in problems if "unknown key" in p.message or "so [" in p.message]
    if unknown or (problems and not lenient):
        raise ConfigError(unknown if lenient else problems)
    return found


def _placed(error: ConfigError, what: str) -> list[Problem]:
    """The problems with what was varied as their place."""
    beside = {p: "" if p.place in ("", "--set") else f" ({p.place})" for p in error.problems}
    return [
        replace(
            p,
            message=p.message.replace("at --set", "at --vary"),
            place=f"--vary {what}{beside[p]}",
        )
        for p in error.problems
    ]


def signature(run: LoadedRun) -> str:
    """Equal for configs that differ in words alone."""
    config = run.config
    architecture = resolve(config.arch, counted_vocab_size(config))
    tree = config.model_dump(mode="json", exclude={"arch"})
    arch = architecture.model_dump(mode="json", exclude={"name"})
    return canonical_json({"arch": arch, **tree, "plugins": sorted(run.plugin_digests.values())})


def _place_of_own(base: LoadedRun, runs: Sequence[LoadedRun | None]) -> int | None:
    """Which level is the file's own value."""
    wanted = signature(base)
    same = [i for i, run in enumerate(runs) if run is not None and signature(run) == wanted]
    return same[0] if same else None


def _check_effect(
    base: LoadedRun, factors: Sequence[Factor], alone: Sequence[Sequence[LoadedRun | None]]
) -> None:
    """Raises ConfigError for values that change nothing."""
    problems = []
    own = signature(base)
    for factor, runs in zip(factors, alone, strict=True):
        seen: dict[str, str] = {}
        for level, run in zip(factor.levels, runs, strict=True):
            if run is None:
                continue
            found = signature(run)
            place = f"--vary {factor.name}={level.label}"
            path = format_path(factor.paths[0])
            why = None if found == own else _idle(run, factor)
            if found in seen:
                text = f"has no effect here: {seen[found]} and {level.label} give the same run"
                problems.append(Problem(path, text, place))
            elif why is not None:
                problems.append(Problem(why[0], why[1], place))
            seen.setdefault(found, level.label)
    if problems:
        raise ConfigError(problems)


def _idle(run: LoadedRun, factor: Factor) -> tuple[str, str] | None:
    """A varied key that is known to be without effect there, and why."""
    idle = [(f"arch.{path}", why) for path, why in without_effect(run.config.arch)]
    idle += [(f"train.{path}", why) for path, why in idle_settings(run.config.train)]
    varied = {_general(format_path(path)) for path in factor.paths}
    return next(((path, why) for path, why in idle if _general(path) in varied), None)


def _general(path: str) -> str:
    return re.sub(r"\[(-?\d+|\*)\]", "[*]", path)


def _from_own(factor: Factor, own: Level, place: int | None) -> Factor:
    """The factor with the file's value first, then what differs from it."""
    given = factor.levels
    first = own if place is None else replace(given[place], edits=())
    rest = [level for index, level in enumerate(given) if index != place]
    return replace(factor, levels=(first, *rest))


def _grid_factors(
    factors: Sequence[Factor], own: Sequence[Level], where: Sequence[int | None]
) -> tuple[list[Factor], Point]:
    """The factors with exactly the values given (a single one beside the file's own), and which of
    them is the baseline: the file's value, or the first where that is not among them."""
    complete, baseline = [], []
    for factor, mine, place in zip(factors, own, where, strict=True):
        if len(factor.levels) == 1:
            complete.append(_from_own(factor, mine, place))
            baseline.append(0)
        else:
            complete.append(factor)
            baseline.append(place or 0)
    return complete, tuple(baseline)


def _check_levels(factors: Sequence[Factor], kind: Kind) -> None:
    problems = []
    for factor in factors:
        place = f"--vary {factor.text}"
        if len(factor.levels) < 2:
            text = f"the only value, {factor.levels[0].label}, is the file's own: nothing to vary"
            problems.append(Problem(factor.name, text, place))
        elif kind in ("both", "leave_one_out") and len(factor.levels) > 2:
            text = f"leaving one out needs one changed value; these are {len(factor.levels) - 1}"
            problems.append(Problem(factor.name, text, place))
    if problems:
        raise ConfigError(problems)
    if kind in ("both", "leave_one_out") and len(factors) < 2:
        raise UsageError("leaving one out of all changes needs at least 2 of them")
    number = math.prod(len(factor.levels) for factor in factors)
    if kind == "grid" and number > MOST_POINTS:
        raise UsageError(f"the grid has {number:,} points, more than {MOST_POINTS:,}")


def _points(kind: Kind, factors: Sequence[Factor], baseline: Point) -> tuple[Point, ...]:
    """In their order, the reference first, none twice."""
    if kind == "grid":
        rest = itertools.product(*(range(len(factor.levels)) for factor in factors))
        return tuple(dict.fromkeys((baseline, *rest)))
    changes = [(place, i) for place, f in enumerate(factors) for i in range(1, len(f.levels))]
    added = [(baseline, *(_with(baseline, place, index) for place, index in changes))]
    if kind == "one":
        return added[0]
    full = tuple(1 for _ in factors)
    removed = (full, *(_with(full, place, 0) for place in range(len(factors))))
    return tuple(dict.fromkeys((*added[0], *removed) if kind == "both" else removed))


def _with(point: Point, place: int, index: int) -> Point:
    return (*point[:place], index, *point[place + 1 :])


def _loaded(source: Source, base: LoadedRun, design: Design, skip_invalid: bool) -> Design:
    """The design with its runs; raises for points that are invalid, or leaves them out."""
    points, runs, skipped = [], [], []
    problems: dict[str, list[Problem]] = {}
    for point in design.points:
        levels = design.settings(point).values()
        refused = [level.refused for level in levels if level.refused]
        if refused:
            skipped.append(Skipped(point, "; ".join(refused)))
            continue
        try:
            run = source.loaded([edit for level in levels for edit in level.edits])
        except ConfigError as error:
            found = _placed(error, design.shown(point))
            skipped.append(Skipped(point, "; ".join(f"{p.path}: {p.message}" for p in found)))
            for problem in found:
                problems.setdefault(f"{problem.path} {problem.message}", []).append(problem)
            continue
        points.append(point)
        runs.append(_named(run, point_name(design, point, base.name)))
    grouped = [_grouped(same) for same in problems.values()]
    if problems and not skip_invalid:
        raise ConfigError([*grouped, Problem("", "--skip-invalid leaves such points out")])
    if design.points[0] not in points:
        text = f"the reference, {design.shown(design.points[0])}, is not valid"
        raise ConfigError([*grouped[:1], Problem("", text)])
    if len(points) < 2:
        raise UsageError("no other point than the reference is valid: nothing to compare")
    return replace(design, points=tuple(points), runs=tuple(runs), skipped=tuple(skipped))


def _grouped(same: Sequence[Problem]) -> Problem:
    """One mistake of several points."""
    if len(same) == 1:
        return same[0]
    text = f"{same[0].message} (so at {len(same)} points)"
    return replace(same[0], message=text)


def _named(run: LoadedRun, name: str) -> LoadedRun:
    return replace(run, config=run.config.replace(arch=run.config.arch.replace(name=name)))


def point_name(design: Design, point: Point, base: str) -> str:
    """What an arm is called: what differs from the file, or from all changes."""
    settings = list(design.settings(point).items())
    if design.kind == "grid":
        name = design.shown(point)
    elif point == design.baseline:
        name = base
    elif design.kind != "one" and point == design.changed:
        name = "all changes"
    elif design.kind == "leave_one_out" or (design.kind == "both" and _is_removal(point)):
        left = [factor for factor, index in zip(settings, point, strict=True) if index == 0]
        name = "all but " + ", ".join(f"{factor}" for factor, _ in left)
    else:
        changed = [s for s, index in zip(settings, point, strict=True) if index]
        name = ", ".join(f"{factor}={level.label}" for factor, level in changed)
    return name if len(name) <= MOST_NAME else f"point {design.points.index(point)}"


def _is_removal(point: Point) -> bool:
    """Of both directions: one is left out; of two changes that is the other one added."""
    return sum(point) == len(point) - 1 and len(point) > 2
