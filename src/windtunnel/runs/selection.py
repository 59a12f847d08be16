"""Some of a store's runs, in some order: by tag, status, or a condition on a figure or a setting.

    loss<3.2   status!=finished   name~gpt   train.lr=3e-4   arch.layers[0].mixer.type=attention

A plain name is a column of the listing, a dotted one a place in the run's config. ``~`` asks
whether the text contains another. What is below or above is a number, and so is what a column of
numbers equals; or it is ``null``: not known.
"""

from __future__ import annotations

import logging
import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

from windtunnel.errors import UsageError
from windtunnel.runs.folder import RunFolder, RunSummary, Status

log = logging.getLogger(__name__)

COLUMNS = tuple(field.name for field in fields(RunSummary))
_FIGURES = {f.name for f in fields(RunSummary) if str(f.type).split(" ")[0] in ("int", "float")}
_CONDITION = re.compile(r"\s*([^=!<>~\s]+)\s*(<=|>=|!=|=|<|>|~)\s*(.*?)\s*")
_ORDERED: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Condition:
    """``name`` compared with ``value``.

    >>> condition("loss <= 3.2").holds(3.1), condition("train.lr=0.0003").holds(3e-4)
    (True, True)
    """

    name: str
    comparison: str
    value: str

    @property
    def of_config(self) -> bool:
        return "." in self.name

    def holds(self, found: Any) -> bool:
        """Whether a value meets it. What is not known is below, above and like nothing."""
        if self.comparison in _ORDERED:
            mine, its = _number(self.value), _number(found)
            return mine is not None and its is not None and _ORDERED[self.comparison](its, mine)
        texts = [_text(item) for item in (found if isinstance(found, tuple) else (found,))]
        if self.comparison == "~":
            return found is not None and any(self.value in text for text in texts)
        equal = any(_equal(text, self.value) for text in texts)
        return equal if self.comparison == "=" else not equal


def condition(text: str) -> Condition:
    """The condition that a text says.

    Raises:
        UsageError: it says none, names a column that there is not, or compares a figure with what
            is no number.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UsageError(f"--where: {text!r} is not a condition such as loss<3.2 or train.lr=3e-4")
    found = Condition(*match.groups())
    if not found.of_config:
        _check_column(found.name, "--where")
    _check_value(found, text)
    return found


def _check_value(asked: Condition, text: str) -> None:
    """Raises UsageError for a condition that nothing could meet, whatever the runs are."""
    ordered = asked.comparison in _ORDERED
    if ordered and not asked.of_config and asked.name not in _FIGURES:
        raise UsageError(
            f"--where: {text!r}: {asked.name} is a text, so {asked.comparison} means nothing; "
            "write =, != or ~"
        )
    if asked.value.startswith("="):
        raise UsageError(f"--where: {text!r}: there is no comparison {asked.comparison}=")
    figure = ordered or (asked.name in _FIGURES and asked.comparison != "~")
    number = _number(asked.value)
    known = number is not None and not math.isnan(number)
    if not figure or known or (asked.value == "null" and not ordered):
        return
    joined = re.search(r"[=!<>~]|\band\b|&|,", asked.value) is not None
    hint = "; one condition at a time: give --where twice" if joined else ""
    raise UsageError(f"--where: {text!r}: {asked.value!r} is not a number{hint}")


def selected(
    runs: Sequence[RunSummary],
    *,
    tags: Sequence[str] = (),
    statuses: Sequence[str] = (),
    where: Sequence[str] = (),
    sort: str | None = None,
) -> list[RunSummary]:
    """The runs that have all of the tags, one of the statuses, and meet every condition.

    Args:
        sort: a column; with ``-`` before it, from high to low. Runs without such a figure are last.

    Raises:
        UsageError: there is no such status, column or setting.
    """
    for status in statuses:
        if status not in get_args(Status):
            raise UsageError(f"--status: {status!r}{_nearest(status, get_args(Status))}")
    conditions = [condition(text) for text in where]
    if sort is not None:
        _check_column(sort.removeprefix("-"), "--sort")
    found = [
        run
        for run in runs
        if set(tags) <= set(run.tags)
        and (not statuses or run.status in statuses)
        and all(c.of_config or c.holds(getattr(run, c.name)) for c in conditions)
    ]
    for asked in conditions:
        if asked.of_config:
            found = _by_config(found, asked)
    return found if sort is None else _sorted(found, sort)


def _by_config(runs: Sequence[RunSummary], asked: Condition) -> list[RunSummary]:
    from windtunnel.config import load_document, parse_path  # brings pydantic

    path, missing = parse_path(asked.name), object()
    values: list[Any] = []
    for run in runs:
        try:
            values.append(load_document(RunFolder.open(run.path).config_path).get(path, missing))
        except UsageError as error:
            log.warning("%s; the run is left out", error)
            values.append(missing)
    if runs and all(value is missing for value in values):
        raise UsageError(f"--where: no run has {asked.name!r} in its config")
    pairs = zip(runs, values, strict=True)
    return [run for run, value in pairs if value is not missing and asked.holds(value)]


def _sorted(runs: Sequence[RunSummary], sort: str) -> list[RunSummary]:
    name = sort.removeprefix("-")
    known = [run for run in runs if getattr(run, name) is not None]
    unknown = [run for run in runs if getattr(run, name) is None]
    known.sort(key=lambda run: getattr(run, name), reverse=sort.startswith("-"))
    return known + unknown


def _check_column(name: str, option: str) -> None:
    if name not in COLUMNS:
        raise UsageError(f"{option}: {name!r}{_nearest(name, COLUMNS)}")


def _nearest(word: str, known: Sequence[str]) -> str:
    from windtunnel.config import suggestion  # brings pydantic

    return suggestion(word, known)


def _equal(text: str, value: str) -> bool:
    mine, its = _number(value), _number(text)
    return text == value if mine is None or its is None else mine == its


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
