"""The entries of an architecture: its values by place, every default written out, without those
that change no tensor; and a number for each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from windtunnel.config import Document, Path, format_path
from windtunnel.data.order import keyed_number

if TYPE_CHECKING:
    from pydantic import BaseModel

Entries = dict[Path, str]
"""Values by place, as texts."""

FREE = ("dropout", "init_std", "init", "name")
"""Last steps of places whose values change no tensor and nothing that is computed in use."""
WORD = 2**64 - 1
"""The largest number of 64 bits."""


def hashed(*parts: str) -> int:
    """A number of 64 bits for some words."""
    return keyed_number("structure", *parts) & WORD


@lru_cache(maxsize=100_000)
def entry_number(place: Path, text: str) -> int:
    return hashed("entry", format_path(place), text)


def entries(document: Document, folder: Any, vocabulary: int | None = None) -> Entries:
    """The entries of a run file's architecture. Where it leaves the vocabulary to the tokenizer, it
    is ``vocabulary``; without that, the run file's. Plugins of the run file are loaded.

    Raises:
        ConfigError: the architecture cannot be read.
    """
    from windtunnel.arch import ArchSpec, expand_preset
    from windtunnel.config import decode
    from windtunnel.train.run_config import RunConfig, counted_vocab_size, load_run_document

    if vocabulary is None and "plugins" in document.tree:
        load_run_document(document, base=folder)
    document = expand_preset(document)
    spec, counted = decode(Document(document.tree["arch"]), ArchSpec), vocabulary
    if spec.vocab_size == "auto" and counted is None:
        counted = counted_vocab_size(decode(document, RunConfig))
    found = {place: text for place, text in _walked(spec, ()) if place[-1] not in FREE}
    if spec.vocab_size == "auto":
        found["vocab_size",] = text_of(counted)
    return found


def _walked(value: Any, place: Path) -> Iterator[tuple[Path, str]]:
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            if not _unwritten(value, name):
                yield from _walked(getattr(value, name), (*place, name))
    elif isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _walked(item, (*place, str(name)))
    elif isinstance(value, list | tuple) and value:
        for number, item in enumerate(value):
            yield from _walked(item, (*place, number))
    else:
        yield place, text_of(value)


def _unwritten(value: BaseModel, name: str) -> bool:
    """Whether a field came later than the first structures and holds its default."""
    unwritten: frozenset[str] = getattr(value, "unwritten_defaults", frozenset())
    return name in unwritten and getattr(value, name) == type(value).model_fields[name].default


def text_of(value: Any) -> str:
    """A value as text; whole numbers alike, however they are written."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, default=str, sort_keys=True)


def unwritten_names() -> frozenset[str]:
    """Fields of any config, a plugin's too, that are no entry at their default."""
    from windtunnel.config import Config

    found, seen = set[str](), [Config]
    while seen:
        kind = seen.pop()
        found |= kind.unwritten_defaults
        seen += kind.__subclasses__()
    return frozenset(found)
