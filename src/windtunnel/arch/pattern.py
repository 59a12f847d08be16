"""Patterns of layers: ``{repeat: 3, layers: [a, b]}`` is a b a b a b; and layers in short form."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from windtunnel.arch.block import KEYS, BlockError, parse_block
from windtunnel.config import Document, Path, format_path
from windtunnel.errors import ConfigError, Problem

_MOST = 10_000


def expand_patterns(document: Document, prefix: Path = ("arch",)) -> Document:
    """The document with every block and pattern in the stacks under ``prefix`` written out.

    Entries keep the places of the pattern's own. Patterns may hold patterns.

    Raises:
        ConfigError: a block or a pattern that is not of the form, or far too long.
    """
    problems: list[Problem] = []
    for stack in (("layers",), ("encoder", "layers"), ("decoder", "layers")):
        path = (*prefix, *stack)
        document = _without_blocks(document, path, problems)
        if not problems:
            document = _without_patterns(document, path)
    if problems:
        raise ConfigError(problems)
    return document


def _without_blocks(document: Document, path: Path, problems: list[Problem]) -> Document:
    """The document with the blocks among the entries at ``path`` as mappings."""
    layers = document.get(path)
    for index, entry in enumerate(layers if isinstance(layers, list | tuple) else ()):
        here = (*path, index)
        if _is_pattern(entry):
            document = _without_blocks(document, (*here, "layers"), problems)
        elif isinstance(entry, str):
            document = _block_written_out(document, here, here, problems)
        elif isinstance(entry, dict) and "block" in entry:
            document = _block_written_out(document, here, (*here, "block"), problems)
    return document


def _block_written_out(
    document: Document, here: Path, at: Path, problems: list[Problem]
) -> Document:
    """The layer at ``here`` as a mapping in which every value has the place of its word."""
    text, place = document.get(at), document.place(at)
    entry = document.get(here)
    rest = {k: v for k, v in entry.items() if k != "block"} if isinstance(entry, dict) else {}
    twice = sorted(KEYS & rest.keys())
    if twice or not isinstance(text, str):
        wrong = (*here, twice[0]) if twice else at
        message = "is decided by `block` already; write it there" if twice else (
            "expected text such as 'norm > attention > + > norm > mlp > +'")  # fmt: skip
        place = document.place(wrong, key=bool(twice))
        problems.append(Problem(format_path(wrong), message, place))
        return document
    try:
        block = parse_block(text)
    except BlockError as error:
        place = _moved_on(place, error.offset, quoted=at in document.quoted)
        problems.append(Problem(format_path(at), str(error), place))
        return document
    result = document.with_value(here, {**rest, **block.layer}, place)
    result = result.moved(document, [((*here, key), (*here, key)) for key in rest])
    origins, keys = dict(result.origins), dict(result.key_places)
    for below, offset in block.offsets.items():
        word = _moved_on(place, offset, quoted=at in document.quoted)
        origins[*here, *below] = keys[*here, *below] = word
    return replace(result, origins=origins, key_places=keys)


def _moved_on(place: str, offset: int, *, quoted: bool) -> str:
    """The place of a character of a text on one line; ``place`` where there are no columns."""
    match = re.fullmatch(r"(.*:\d+):(\d+)", place)
    return place if match is None else f"{match[1]}:{int(match[2]) + offset + quoted}"


def _without_patterns(document: Document, path: Path) -> Document:
    layers = document.get(path)
    if not isinstance(layers, list | tuple) or not any(_is_pattern(entry) for entry in layers):
        return document
    sources = _unrolled(document, layers, path)
    if len(sources) > _MOST:
        message = f"{len(sources):,} entries once written out; at most {_MOST:,} are allowed"
        raise ConfigError([Problem(format_path(path), message, document.place(path))])
    entries = tuple(document.get(source) for source in sources)
    targets = [(source, (*path, index)) for index, source in enumerate(sources)]
    return document.with_value(path, entries, document.place(path)).moved(document, targets)


def _is_pattern(entry: Any) -> bool:
    return isinstance(entry, dict) and "layers" in entry


def _unrolled(document: Document, layers: Any, path: Path) -> list[Path]:
    """The path of the entry that stands at each place once the patterns are written out."""
    found: list[Path] = []
    for index, entry in enumerate(layers):
        here = (*path, index)
        if not _is_pattern(entry):
            found.append(here)
            continue
        inner, repeat = entry["layers"], entry.get("repeat", 1)
        extra = sorted(entry.keys() - {"layers", "repeat"})
        sound = isinstance(inner, list | tuple) and inner and not extra
        if not sound or isinstance(repeat, bool) or not isinstance(repeat, int) or repeat < 1:
            what = f"; {extra[0]!r} does not belong there" if extra else ""
            message = "a pattern is {repeat: 2, layers: [one, two]}" + what
            raise ConfigError([Problem(format_path(here), message, document.place(here))])
        found += _unrolled(document, inner, (*here, "layers")) * repeat
        if len(found) > _MOST:
            break  # the caller says so
    return found
