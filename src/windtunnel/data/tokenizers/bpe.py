"""Byte-pair encoding over bytes: one training gives every smaller vocabulary too."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import tokenizers

from windtunnel.data.config import SMALLEST_BPE, SPECIALS
from windtunnel.data.tokenizers.base import Ids, Tokenizer
from windtunnel.errors import UsageError

Merge: TypeAlias = tuple[int, int]

FIRST_BYTE = len(SPECIALS)
# The way of GPT-4 (cl100k) to cut text before merging: contractions; a word with the one sign or
# space before it; up to three digits; signs with the line ends after them; line ends; spaces.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
# A pair seen once in the training text is no regularity.
MIN_FREQUENCY = 2
# The engine needs some 100 bytes for a byte of the string it is given; long texts go in parts.
PART_CHARACTERS = 2**18
# No word of WORDS reaches over a line end between two visible characters.
_SEAM = re.compile(r"(?:(?<=\S\n)|(?<=\S\r\n))(?=\S)")


class BpeTokenizer(Tokenizer):
    """Bytes, joined by merges in the order in which training found them.

    Ids: the special tokens, the 256 bytes by value, then one id for each new token in the order
    of the merges. So a tokenizer with fewer merges has the same ids for what it shares.
    """

    kind: ClassVar[str] = "bpe"

    def __init__(self, merges: Sequence[Merge]) -> None:
        """``merges``: pairs of ids, each of a token that exists before the merge."""
        pieces = [b""] * FIRST_BYTE + [bytes([byte]) for byte in range(256)]
        known = {piece: i for i, piece in enumerate(pieces) if piece}
        for left, right in merges:
            joined = pieces[left] + pieces[right]
            if joined not in known:  # two different pairs may spell the same token
                known[joined] = len(pieces)
                pieces.append(joined)
        super().__init__(pieces, {name: i for i, name in enumerate(SPECIALS)})
        self.merges: tuple[Merge, ...] = tuple((left, right) for left, right in merges)
        self._engine = _engine(pieces, self.merges)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Learns the merges of a text.

        Raises:
            UsageError: the text has too few repeated pairs for so large a vocabulary.
        """
        learner = tokenizers.Tokenizer(tokenizers.models.BPE())
        learner.pre_tokenizer = pre_tokenizer()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size - len(SPECIALS),
            min_frequency=MIN_FREQUENCY,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        parts = (part for text in texts for part in parts_of(text))
        learner.train_from_iterator(parts, trainer)
        made = cls(_merges(json.loads(learner.to_str())["model"]["merges"]))
        if made.vocab_size < vocab_size:
            raise UsageError(
                f"tokenizer.vocab_size {vocab_size} is too large for this training text: "
                f"its repeated pairs give {made.vocab_size} ids; ask for that many or fewer"
            )
        return made

    def truncate(self, vocab_size: int) -> Self:
        """The tokenizer that training at ``vocab_size`` gives, without training again.

        Raises:
            UsageError: more ids than there are, or fewer than the bytes and specials need.
        """
        if not SMALLEST_BPE <= vocab_size <= self.vocab_size:
            raise UsageError(
                f"cannot cut a vocabulary of {self.vocab_size} to {vocab_size} "
                f"(allowed: {SMALLEST_BPE} to {self.vocab_size})"
            )
        known = set(self.pieces[FIRST_BYTE:SMALLEST_BPE])
        kept = 0
        while FIRST_BYTE + len(known) < vocab_size:  # two merges may spell the same token
            left, right = self.merges[kept]
            known.add(self.pieces[left] + self.pieces[right])
            kept += 1
        return type(self)(self.merges[:kept])

    def _ids(self, text: str) -> Ids:
        parts = [self._engine.encode(part, add_special_tokens=False).ids for part in parts_of(text)]
        return np.concatenate([np.array(ids, dtype=np.int64) for ids in parts])

    def state(self) -> dict[str, Any]:
        return {"type": self.kind, "merges": [list(pair) for pair in self.merges]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        return cls([(left, right) for left, right in state["merges"]])


def parts_of(text: str, characters: int = PART_CHARACTERS) -> Iterator[str]:
    """A text in parts of about so many characters that encode as the whole does."""
    start = 0
    while len(text) - start > characters and (seam := _SEAM.search(text, start + characters)):
        yield text[start : seam.start()]
        start = seam.start()
    yield text[start:]


def pre_tokenizer() -> Any:
    """What cuts text into words, and writes their bytes as signs, before merging."""
    parts = tokenizers.pre_tokenizers
    return parts.Sequence(
        [
            parts.Split(tokenizers.Regex(WORDS), behavior="isolated"),
            parts.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def byte_signs() -> list[str]:
    """The printable character by which byte-level BPE (GPT-2) writes each byte, by value.

    Bytes that are printable in Latin-1 stand for themselves, the others for U+0100 and on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _merges(written: Iterable[Sequence[str]]) -> list[Merge]:
    """Merges as pairs of ids, from pairs of tokens written in byte signs."""
    ids = {sign: FIRST_BYTE + byte for byte, sign in enumerate(byte_signs())}
    merges: list[Merge] = []
    for left, right in written:
        merges.append((ids[left], ids[right]))
        ids.setdefault(left + right, len(ids) + FIRST_BYTE)
    return merges


def _names(pieces: Sequence[bytes]) -> list[str]:
    """Tokens written in byte signs."""
    signs = byte_signs()
    return ["".join(signs[byte] for byte in piece) for piece in pieces]


def merge_names(tokenizer: BpeTokenizer) -> list[tuple[str, str]]:
    """The merges as pairs of tokens written in byte signs."""
    names = _names(tokenizer.pieces)
    return [(names[left], names[right]) for left, right in tokenizer.merges]


def _engine(pieces: Sequence[bytes], merges: Sequence[Merge]) -> Any:
    """The encoder; it knows no special tokens, so no text can become one."""
    names = _names(pieces)
    model = tokenizers.models.BPE(
        vocab={name: i for i, name in enumerate(names) if name},
        merges=[(names[left], names[right]) for left, right in merges],
    )
    engine = tokenizers.Tokenizer(model)
    engine.pre_tokenizer = pre_tokenizer()
    return engine
