"""Stop strings: where a text ends that has been written token by token."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

from windtunnel.errors import UsageError


class Bytes(Protocol):
    """What is asked of a tokenizer."""

    def decode_bytes(self, ids: Sequence[int]) -> bytes: ...


class StopStrings:
    """Says of each row whether one of the strings has been written, wherever tokens cut it.

    Raises:
        UsageError: a string is empty, so every text would end at once.
    """

    def __init__(self, tokenizer: Bytes, strings: Sequence[str]) -> None:
        if any(not text for text in strings):
            raise UsageError("a stop string is empty")
        self.strings = tuple(text.encode() for text in strings)
        self._tokenizer = tokenizer
        self._tails: dict[int, bytes] = {}

    def __call__(self, row: int, token: int) -> bool:
        """To be asked once for each new token of each row, in order."""
        new = self._tokenizer.decode_bytes([token])
        tail = self._tails.get(row, b"") + new
        longest = max(map(len, self.strings), default=0)
        self._tails[row] = tail[max(0, len(tail) - longest + 1) :]
        return any(text in tail for text in self.strings)

    def cut(self, text: bytes) -> bytes:
        """What stands before the first of the strings."""
        return text[: min((p for s in self.strings if (p := text.find(s)) >= 0), default=len(text))]

    def certain(self, text: bytes) -> int:
        """How many bytes at the beginning can belong to no stop string that has begun."""
        for start in range(
            max(0, len(text) - max(map(len, self.strings), default=1) + 1), len(text)
        ):
            if any(stop.startswith(text[start:]) for stop in self.strings):
                return start
        return len(text)


class TextStream:
    """One row's text as it comes: whole characters, and nothing of a stop string."""

    def __init__(self, tokenizer: Bytes, stop: StopStrings) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = b""

    def add(self, token: int) -> str:
        """The text that is certain after one more token."""
        text = self._held + self._tokenizer.decode_bytes([token])
        before = self._stop.cut(text)
        end = len(before) if len(before) < len(text) else self._stop.certain(text)
        self._held = text[end:] if len(before) == len(text) else b""
        return self._decoder.decode(text[:end])

    def close(self) -> str:
        """What was held back, when nothing more comes."""
        return self._decoder.decode(self._held, final=True)
