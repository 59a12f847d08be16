"""Tasks: items with known answers, which are answered by the probabilities of texts.

A task is a file of JSON Lines (``.jsonl``, ``.jsonl.gz``) whose lines have one kind, read off their
keys; see ``docs/design/tasks.md``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from windtunnel.config.digest import digest
from windtunnel.config.nearest import nearest
from windtunnel.data.files import inner_suffix, json_object, missing, numbered_lines
from windtunnel.errors import SourceError, UsageError

TaskKind: TypeAlias = Literal["choice", "pair", "cloze"]

KEYS: Mapping[TaskKind, tuple[str, ...]] = {
    "choice": ("prompt", "choices", "answer"),
    "pair": ("good", "bad"),
    "cloze": ("prompt", "truth"),
}
"""The keys of each kind, all of which are needed."""
_OWN: Mapping[str, TaskKind] = {
    "choices": "choice", "answer": "choice", "good": "pair", "bad": "pair", "truth": "cloze",
}  # fmt: skip
"""The keys that only one kind has."""
_SUFFIXES = (".jsonl", ".gz")


@dataclass(frozen=True)
class Item:
    """One question. Of a pair ``choices`` are good and bad, of a cloze the truth alone."""

    name: str
    """Where it stands (file:line), for messages."""
    prompt: str
    choices: tuple[str, ...]
    answer: int
    """Which of the choices is right."""

    @property
    def right(self) -> str:
        """The right choice."""
        return self.choices[self.answer]


@dataclass(frozen=True)
class Task:
    """The items of a file."""

    name: str
    """The file's, without its suffix."""
    path: Path
    kind: TaskKind
    items: tuple[Item, ...]
    digest: str
    """Of kind and items: what is asked, wherever it stands."""
    notes: tuple[str, ...]
    """What is to be known of the file, in words."""

    @property
    def chance(self) -> float | None:
        """The accuracy of a guess, 1 / choices on average; None for a cloze."""
        if self.kind == "cloze":
            return None
        return sum(1 / len(item.choices) for item in self.items) / len(self.items)


def read_task(path: Path | str, *, limit: int | None = None) -> Task:
    """The task in a file; with ``limit`` its first items (all lines are checked all the same).

    Raises:
        SourceError: no such file, or a line that is no item, told with its number.
        UsageError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit must be ≥ 1, not {limit}")
    file = Path(path).expanduser()
    if not file.exists():
        raise missing(str(path))
    if file.is_dir() or file.suffix.lower() not in _SUFFIXES or inner_suffix(file) != ".jsonl":
        raise SourceError(f"{file}: a task is a file of JSON Lines, .jsonl or .jsonl.gz")
    kind, first, items = None, "", list[Item]()
    unread: Counter[str] = Counter()
    for place, record in _records(file):
        found = _kind(record, place)
        if kind not in (None, found):
            raise SourceError(
                f"{place}: is a {found}, and {first} a {kind}: all items of a file are of one kind"
            )
        kind, first = found, first or place
        items.append(_item(record, found, place))
        unread.update(record.keys() - set(KEYS[found]))
    if kind is None:
        raise SourceError(f"{file}: holds no item")
    chosen = tuple(items[:limit])
    asked = [[item.prompt, list(item.choices), item.answer] for item in chosen]
    name = file.name[: -len("".join(file.suffixes[-2:]))] if file.suffix == ".gz" else file.stem
    notes = _notes(chosen, len(items), unread)
    return Task(name, file, kind, chosen, digest({"kind": kind, "items": asked}), notes)


def _records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, text in numbered_lines(file):
        if text.strip():
            place = f"{file}:{number}"
            yield place, json_object(text, place)


def _kind(record: Mapping[str, Any], place: str) -> TaskKind:
    kinds = dict.fromkeys(_OWN[key] for key in record if key in _OWN)
    if len(kinds) == 1:
        return next(iter(kinds))
    shown = ", ".join(list(record)[:8]) or "none"
    if kinds:
        raise SourceError(f"{place}: has keys of a {' and of a '.join(kinds)} (keys: {shown})")
    near = next((near for key in record if (near := nearest(key, _OWN))), None)
    hint = f"; did you mean {near!r}?" if near else ""
    allowed = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in KEYS.items())
    raise SourceError(f"{place}: is no item (keys: {shown}){hint} (allowed: {allowed})")


def _item(record: Mapping[str, Any], kind: TaskKind, place: str) -> Item:
    for key in KEYS[kind]:
        if key not in record:
            near = nearest(key, record.keys() - set(KEYS[kind]))
            hint = f"; did you mean it by {near!r}?" if near else ""
            needed = ", ".join(KEYS[kind])
            raise SourceError(f"{place}: a {kind} needs the key {key!r}{hint} (needed: {needed})")
    if kind == "pair":
        choices = [_text(record, key, place) for key in KEYS["pair"]]
        _check_distinct(choices, "good and bad", place)
        return Item(place, "", tuple(choices), 0)
    prompt = _text(record, "prompt", place, empty=True)
    if kind == "cloze":
        return Item(place, prompt, (_text(record, "truth", place),), 0)
    given = record["choices"]
    if not isinstance(given, list) or len(given) < 2:
        raise SourceError(f"{place}: choices: expected a list of two texts or more")
    choices = [_text({"choices": text}, "choices", place) for text in given]
    _check_distinct(choices, "choices", place)
    return Item(place, prompt, tuple(choices), _answer(record["answer"], len(choices), place))


def _text(record: Mapping[str, Any], key: str, place: str, *, empty: bool = False) -> str:
    text = record[key]
    if not isinstance(text, str):
        raise SourceError(f"{place}: {key}: expected a text, not {type(text).__name__}")
    if not text and not empty:
        raise SourceError(f"{place}: {key}: the text is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SourceError(
            f"{place}: {key}: a lone surrogate at character {error.start} is no text"
        ) from error
    return text


def _check_distinct(choices: Sequence[str], what: str, place: str) -> None:
    if len(set(choices)) < len(choices):
        raise SourceError(
            f"{place}: {what}: two are the same, so none of them can be the right one"
        )


def _answer(value: Any, count: int, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SourceError(
            f"{place}: answer: expected the number of the right choice, not {value!r}"
        )
    if not 0 <= value < count:
        raise SourceError(f"{place}: answer: {value} is none of the choices (0 to {count - 1})")
    return value


def _notes(items: Sequence[Item], read: int, unread: Counter[str]) -> tuple[str, ...]:
    notes = []
    if len(items) < read:
        notes.append(f"the first {len(items)} of {read} items")
    distinct = {(item.prompt, item.choices, item.answer) for item in items}
    if (twice := len(items) - len(distinct)) > 0:
        notes.append(
            f"{twice} of {len(items)} items stand in the file before; each counts, as if it were "
            "another one, so intervals are too narrow"
        )
    if unread:
        names = ", ".join(sorted(unread)[:8]) + (", …" if len(unread) > 8 else "")
        notes.append(f"keys that are not read: {names}")
    return tuple(notes)
