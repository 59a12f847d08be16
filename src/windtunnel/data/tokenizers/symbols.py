"""The tokenizer of synthetic tasks: one id for each name of a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from windtunnel.data.tokenizers.base import Ids, Tokenizer
from windtunnel.errors import DataError


class SymbolTokenizer(Tokenizer):
    """One id a symbol; a text is symbols with white space between them.

    Symbols stand for no text, so ``token_bytes`` are 0 and a loss on them has no bits per byte.
    There are no special tokens.

    >>> tokenizer = SymbolTokenizer(["k0", "k1", "v0"])
    >>> tokenizer.encode("k1 v0"), tokenizer.decode([1, 2])
    ([1, 2], ' k1 v0')
    """

    kind: ClassVar[str] = "symbols"

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        self._numbers = {symbol: number for number, symbol in enumerate(self.symbols)}
        assert len(self._numbers) == len(self.symbols), "a symbol is named twice"
        super().__init__([f" {symbol}".encode() for symbol in self.symbols], {})

    @cached_property
    def token_bytes(self) -> NDArray[np.int32]:
        """V: zeros."""
        sizes = np.zeros(self.vocab_size, dtype=np.int32)
        sizes.flags.writeable = False
        return sizes

    def _ids(self, text: str) -> Ids:
        for symbol in (found := text.split()):
            if symbol not in self._numbers:
                shown = " ".join(self.symbols[:8]) + (" …" if self.vocab_size > 8 else "")
                raise DataError(f"{symbol!r} is none of the {self.vocab_size} symbols: {shown}")
        return np.array([self._numbers[symbol] for symbol in found], dtype=np.int64)

    def state(self) -> dict[str, Any]:
        return {"type": self.kind, "symbols": list(self.symbols)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        return cls(state["symbols"])
