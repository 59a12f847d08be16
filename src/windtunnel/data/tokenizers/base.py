"""What every tokenizer offers."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from windtunnel.config.digest import digest
from windtunnel.errors import DataError, UsageError

Ids: TypeAlias = NDArray[np.int64]
PadSide: TypeAlias = Literal["left", "right"]
FILE = "tokenizer.json"
FORMAT = 1


class Padded(NamedTuple):
    """Rows of different lengths as one array."""

    ids: Ids
    """b t: the ids, with `pad` (0 where there is no `pad`) beside the shorter rows."""
    real: NDArray[np.bool_]
    """b t: False at pads."""


class Tokenizer(ABC):
    """Text to ids and back.

    Ids run from 0 to ``vocab_size - 1``; ``pieces[i]`` holds the bytes of text that id i stands
    for, which are none for special tokens and for ``unk``. Text never becomes a special token,
    whatever it spells: ``encode("<|eos|>")`` gives the ids of seven ordinary characters.
    """

    kind: ClassVar[str]

    def __init__(self, pieces: Sequence[bytes], specials: Mapping[str, int]) -> None:
        self.pieces: tuple[bytes, ...] = tuple(pieces)
        self.specials: dict[str, int] = dict(specials)

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return len(self.pieces)

    @property
    def bos(self) -> int | None:
        """The id at the start of a document."""
        return self.specials.get("bos")

    @property
    def eos(self) -> int | None:
        """The id at the end of a document."""
        return self.specials.get("eos")

    @property
    def pad(self) -> int | None:
        """The id beside shorter rows."""
        return self.specials.get("pad")

    @property
    def unk(self) -> int | None:
        """The id of text outside the vocabulary; None where every text has ids."""
        return self.specials.get("unk")

    @cached_property
    def token_bytes(self) -> NDArray[np.int32]:
        """V: bytes of text that each id stands for; 0 for special tokens."""
        sizes = np.array([len(piece) for piece in self.pieces], dtype=np.int32)
        sizes.flags.writeable = False
        return sizes

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all that encoding and decoding depend on."""
        return digest(self.state())

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All of the tokenizer as JSON values."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The tokenizer of a `state`."""

    @abstractmethod
    def _ids(self, text: str) -> Ids:
        """The ids of a text that is known to be valid Unicode."""

    def encode_array(self, text: str) -> Ids:
        """t: the ids of a text, without special tokens.

        Raises:
            DataError: the text holds a lone surrogate, which no UTF-8 can write.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"a lone surrogate at character {error.start} is no text") from error
        return self._ids(text)

    def encode(self, text: str, add_special: bool = False) -> list[int]:
        """The ids of a text; with ``add_special`` as a whole document: bos, ids, eos."""
        ids: list[int] = self.encode_array(text).tolist()
        if not add_special:
            return ids
        start = [] if self.bos is None else [self.bos]
        return start + ids + ([] if self.eos is None else [self.eos])

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a text that is to be continued, with what must come before it."""
        return self.encode(text)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for; special tokens stand for none.

        Raises:
            UsageError: an id outside the vocabulary.
        """
        numbers = [int(i) for i in ids]
        for i in numbers:
            if not 0 <= i < self.vocab_size:
                raise UsageError(f"token id {i} is not in a vocabulary of {self.vocab_size}")
        return b"".join([self.pieces[i] for i in numbers])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are no UTF-8 (a cut character) become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def count_unknown(self, ids: Ids) -> int:
        """How many of the ids stand for text outside the vocabulary."""
        return 0 if self.unk is None else int(np.count_nonzero(ids == self.unk))

    def pad_batch(self, rows: Sequence[Sequence[int]], side: PadSide) -> Padded:
        """Rows of ids as one array, the shorter ones padded on ``side``.

        >>> from windtunnel.data.tokenizers.plain import BytesTokenizer
        >>> BytesTokenizer(()).pad_batch([[7], [8, 9]], "left").ids.tolist()
        [[0, 7], [8, 9]]
        """
        if side not in ("left", "right"):
            raise UsageError(f"cannot pad on side {side!r} (allowed: left, right)")
        t = max((len(row) for row in rows), default=0)
        ids = np.full((len(rows), t), self.pad or 0, dtype=np.int64)
        real = np.zeros((len(rows), t), dtype=np.bool_)
        for number, row in enumerate(rows):
            place = slice(t - len(row), t) if side == "left" else slice(0, len(row))
            ids[number, place] = row
            real[number, place] = True
        return Padded(ids, real)

    def save(self, folder: Path) -> Path:
        """Writes ``tokenizer.json`` into a folder and returns its path; it appears whole."""
        path = Path(folder) / FILE
        content = {"format": FORMAT, "digest": self.digest, "tokenizer": self.state()}
        temporary = path.with_name(f".{FILE}.{os.getpid()}")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        return path
