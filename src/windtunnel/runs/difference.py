"""Two runs side by side: where their configs and surroundings differ, and their final figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from windtunnel.errors import RunError
from windtunnel.runs.folder import RunFolder

if TYPE_CHECKING:
    from windtunnel.config.diff import Difference

FIGURES = (
    "loss", "bits_per_byte", "perplexity", "accuracy", "params", "tokens", "steps", "flops",
    "train_seconds", "tokens_per_second", "peak_memory_bytes",
)  # fmt: skip
SHOWN = 60
"""Characters of a value in a sentence."""
SURROUNDINGS = ("environment", "git", "code_digest", "arch_digest", "data_fingerprint", "device")


def run_difference(first: RunFolder, second: RunFolder) -> dict[str, Any]:
    """Two runs as plain values.

    Returns:
        ``runs``: the summaries; ``config`` and ``surroundings``: ``[path, first, second]`` where
        they differ (null: has none); ``figures``: by name, ``first``, ``second`` and ``difference``
        (second minus first); of a run that has not ended, those of its last evaluation.

    Raises:
        RunError: a file of a run is damaged.
    """
    from windtunnel.config import load_document  # brings pydantic: listings do without

    trees = [load_document(run.config_path).tree for run in (first, second)]
    around = [_surroundings(run) for run in (first, second)]
    figures = [_figures(run) for run in (first, second)]
    names = [name for name in FIGURES if name in figures[0] or name in figures[1]]
    return {
        "runs": [run.summary().to_dict() for run in (first, second)],
        "config": _rows(*trees),
        "surroundings": _rows(*around),
        "figures": {name: _pair(figures[0].get(name), figures[1].get(name)) for name in names},
    }


def _rows(first: Any, second: Any) -> list[list[Any]]:
    """``[path, first, second]`` wherever two trees differ; an item that only one list has stands
    alone."""
    rows = []
    for change in changes(first, second):
        if isinstance(change, Resized):
            rows += [[path, None, item] for path, item in change.new]
            rows += [[path, item, None] for path, item in change.gone]
        else:
            rows.append([change.path, change.first, change.second])
    return rows


@dataclass(frozen=True)
class Resized:
    """A list that is longer or shorter in one of two configs, and which of its items are why."""

    path: str
    first: int
    second: int
    new: tuple[tuple[str, Any], ...]
    gone: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        what = [
            f"{_together([path for path, _ in items])} {'is' if len(items) == 1 else 'are'} {word}"
            for items, word in ((self.new, "new"), (self.gone, "gone"))
            if items
        ]
        return f"{self.path}: {self.first} → {self.second} ({', '.join(what)})"


def changes(first: Any, second: Any) -> list[Difference | Resized]:
    """Where two configs or plain trees differ, for people.

    Of lists of different length the items that stand for each other are compared, and those that
    only one of them has are named.

    >>> [str(c) for c in changes({"a": [{"b": 1}]}, {"a": [{"b": 2}, {"b": 3}]})]
    ['a: 1 → 2 (a[1] is new)', 'a[0].b: 1 → 2']
    """
    from windtunnel.config.diff import diff  # brings pydantic

    found: list[Difference | Resized] = []
    for d in diff(first, second):
        lists = isinstance(d.first, list | tuple) and isinstance(d.second, list | tuple)
        found += _of_lists(d) if lists else [d]
    return found


def in_words(change: Difference | Resized) -> str:
    """A change of :func:`changes`, with long values cut."""
    if isinstance(change, Resized):
        return str(change)
    return f"{change.path}: {shown(change.first)} → {shown(change.second)}"


def listed(found: Sequence[Difference | Resized], most: int = 8) -> str:
    """Changes for a sentence, so many at most."""
    more = f" (and {len(found) - most} more)" if len(found) > most else ""
    return "; ".join(in_words(change) for change in found[:most]) + more


def shown(value: Any) -> str:
    """A value for a sentence: of a part its type, of anything else its beginning."""
    if isinstance(value, dict) and "type" in value:
        return f"{{type: {value['type']}, …}}" if len(value) > 1 else str(value["type"])
    text = str(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _of_lists(d: Difference) -> list[Difference | Resized]:
    """What differs in two lists of different length: their equal ends stand for each other, and as
    much of what is between them as both have."""
    a, b = list(d.first), list(d.second)
    shorter = min(len(a), len(b))
    before = next((i for i in range(shorter) if a[i] != b[i]), shorter)
    after = next((i for i in range(shorter - before) if a[-1 - i] != b[-1 - i]), shorter - before)
    common = shorter - before - after
    extra = range(before + common, max(len(a), len(b)) - after)
    items = tuple((f"{d.path}[{i}]", (a if len(a) > len(b) else b)[i]) for i in extra)
    new, gone = (items, ()) if len(b) > len(a) else ((), items)
    found: list[Difference | Resized] = [Resized(d.path, len(a), len(b), new, gone)]
    for i in range(before, before + common):
        found += [_below(f"{d.path}[{i}]", change) for change in changes(a[i], b[i])]
    return found


def _below(place: str, change: Difference | Resized) -> Difference | Resized:
    """A change within the item at ``place``."""
    from windtunnel.config.diff import Difference

    def below(path: str) -> str:
        return f"{place}.{path}" if path and not path.startswith("[") else place + path

    if isinstance(change, Difference):
        return Difference(below(change.path), change.first, change.second)
    new, gone = (
        tuple((below(path), item) for path, item in items) for items in (change.new, change.gone)
    )
    return Resized(below(change.path), change.first, change.second, new, gone)


def _together(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]}"


def _pair(first: Any, second: Any) -> dict[str, Any]:
    known = first is not None and second is not None
    return {"first": first, "second": second, "difference": second - first if known else None}


def _figures(run: RunFolder) -> dict[str, Any]:
    record = run.read_record()
    if record is not None:
        found = {**record, **(record.get("final") or {})}
    else:
        found = next((dict(e.values) for e in reversed(_events(run)) if e.kind == "eval"), {})
        found["steps"] = found.get("step")
    return {
        name: found[name]
        for name in FIGURES
        if isinstance(found.get(name), int | float) and not isinstance(found[name], bool)
    }


def _events(run: RunFolder) -> list[Any]:
    try:
        return run.read_events()
    except RunError:
        return []


def _surroundings(run: RunFolder) -> dict[str, Any]:
    """What the record says of machine, versions and code; of the start, where there is none."""
    known = run.read_record() or next((e.values for e in _events(run) if e.kind == "start"), {})
    return {name: known[name] for name in SURROUNDINGS if name in known}
