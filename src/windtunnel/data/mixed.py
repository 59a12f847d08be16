"""Several sources as one corpus, one after the other; no validation text is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from windtunnel.config.digest import digest
from windtunnel.data.config import Kind
from windtunnel.data.split import Side
from windtunnel.errors import UsageError


class Splittable(Protocol):
    """A corpus of one source."""

    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def text_bytes(self) -> int: ...
    def contents(self, side: Side) -> frozenset[bytes]: ...
    def identity(self) -> dict[str, str]: ...
    def pieces(self) -> Iterator[tuple[Side, Any]]: ...
    def train_texts(self) -> Iterator[str]: ...


C = TypeVar("C", bound=Splittable)


class Mixed(Generic[C]):
    """The corpora of several sources.

    Raises:
        UsageError: a document (or a prompt) of one source's validation side is on the training side
            of another one.
    """

    def __init__(self, parts: Mapping[str, C]) -> None:
        self.parts = dict(parts)
        self.notes = tuple(f"{name}: {note}" for name, part in parts.items() for note in part.notes)
        self.text_bytes = sum(part.text_bytes for part in parts.values())
        self._refuse_overlap()

    @property
    def kind(self) -> Kind:
        """What all of them hold, of samples."""
        kinds: list[Kind] = [getattr(part, "kind", "text") for part in self.parts.values()]
        return kinds[0]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all, sorted."""
        known: set[str] = set()
        return tuple(sorted(known.union(*(getattr(p, "labels", ()) for p in self.parts.values()))))

    def identity(self) -> dict[str, str]:
        """What the contents of the sides depend on, and how they are parted: the order too."""
        return {"sources": digest([[name, part.identity()] for name, part in self.parts.items()])}

    def named_pieces(self) -> Iterator[tuple[str, Side, Any]]:
        """Every piece with its source and side, source by source."""
        for name, part in self.parts.items():
            for side, piece in part.pieces():
                yield name, side, piece

    def train_texts(self) -> Iterator[str]:
        """The texts that a tokenizer may learn from: those of all sources."""
        for part in self.parts.values():
            yield from part.train_texts()

    def _refuse_overlap(self) -> None:
        trained = {name: part.contents("train") for name, part in self.parts.items()}
        for name, part in self.parts.items():
            held = part.contents("valid")
            for other, contents in trained.items():
                if other != name and (both := held & contents):
                    raise UsageError(
                        f"validation would overlap training: {len(both)} of the texts held out of "
                        f"data.sources.{name} are trained on in data.sources.{other}; leave them "
                        "out of one of them"
                    )


def named_pieces(corpus: Any) -> Iterator[tuple[str | None, Side, Any]]:
    """The pieces of a corpus in the order of its text, each with its source (None: there is but
    one) and side."""
    if isinstance(corpus, Mixed):
        yield from corpus.named_pieces()
        return
    for side, piece in corpus.pieces():
        yield None, side, piece
