"""Tokenizers without merges: bytes and characters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from windtunnel.data.tokenizers.base import Ids, Tokenizer


class BytesTokenizer(Tokenizer):
    """One id a byte of UTF-8, after the special tokens.

    >>> tokenizer = BytesTokenizer(("bos", "eos", "pad"))
    >>> tokenizer.encode("Hi", add_special=True), tokenizer.vocab_size
    ([0, 75, 108, 1], 259)
    """

    kind: ClassVar[str] = "bytes"

    def __init__(self, specials: Sequence[str]) -> None:
        self._first = len(specials)
        pieces = [b""] * self._first + [bytes([byte]) for byte in range(256)]
        super().__init__(pieces, {name: i for i, name in enumerate(specials)})

    def _ids(self, text: str) -> Ids:
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64) + self._first

    def state(self) -> dict[str, Any]:
        return {"type": self.kind, "specials": list(self.specials)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        return cls(state["specials"])


class CharsTokenizer(Tokenizer):
    """One id a character of a fixed alphabet, after the special tokens and ``unk``.

    A character outside the alphabet becomes ``unk``, which stands for no bytes and is decoded as
    U+FFFD; `count_unknown` counts them and a prepared corpus reports them.

    >>> tokenizer = CharsTokenizer((), "abc")
    >>> tokenizer.decode(tokenizer.encode("cab!"))
    'cab\ufffd'
    """

    kind: ClassVar[str] = "chars"

    def __init__(self, specials: Sequence[str], characters: Iterable[str]) -> None:
        self.characters = "".join(sorted(set(characters)))
        self._first = len(specials) + 1
        self._points = np.array([ord(c) for c in self.characters], dtype=np.uint32)
        super().__init__(
            [b""] * self._first + [c.encode("utf-8") for c in self.characters],
            {name: i for i, name in enumerate([*specials, "unk"])},
        )

    @classmethod
    def train(cls, texts: Iterable[str], specials: Sequence[str]) -> Self:
        """The tokenizer of all characters that occur."""
        alphabet: set[str] = set()
        for text in texts:
            alphabet |= set(text)
        return cls(specials, alphabet)

    def _ids(self, text: str) -> Ids:
        points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        if not self.characters:
            return np.full(points.shape, self._first - 1, dtype=np.int64)
        place = np.minimum(np.searchsorted(self._points, points), len(self._points) - 1)
        known = self._points[place] == points
        return np.where(known, place + self._first, self._first - 1).astype(np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        numbers = list(ids)
        self.decode_bytes(numbers)  # refuses ids outside the vocabulary
        parts = ["\ufffd" if i == self.unk else self.pieces[i].decode() for i in numbers]
        return "".join(parts)

    def state(self) -> dict[str, Any]:
        specials = [name for name in self.specials if name != "unk"]
        return {"type": self.kind, "specials": specials, "characters": self.characters}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        return cls(state["specials"], state["characters"])
