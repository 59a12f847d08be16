"""Our tokenizers as a ``tokenizer.json`` that the tokenizers library reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from windtunnel.data.tokenizers import Tokenizer
from windtunnel.data.tokenizers.bpe import BpeTokenizer, byte_signs, merge_names, pre_tokenizer
from windtunnel.data.tokenizers.gpt2 import Gpt2Tokenizer
from windtunnel.data.tokenizers.hf import HfTokenizer
from windtunnel.data.tokenizers.plain import BytesTokenizer


def special_text(tokenizer: Tokenizer, name: str) -> str | None:
    """How a special token is written in their files; None where there is none."""
    i = tokenizer.specials.get(name)
    if i is None:
        return None
    if isinstance(tokenizer, HfTokenizer):
        return tokenizer.text_of(i)
    if isinstance(tokenizer, Gpt2Tokenizer):
        return "<|endoftext|>"
    return f"<|{name}|>"


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, str] | None:
    """The files to write, by name; None where their library cannot do what ours does."""
    if isinstance(tokenizer, HfTokenizer):
        content: Any = tokenizer.content
    elif isinstance(tokenizer, BytesTokenizer):
        whole = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        content = _byte_level(tokenizer, [], whole)
    elif isinstance(tokenizer, BpeTokenizer):
        content = _byte_level(tokenizer, merge_names(tokenizer), pre_tokenizer())
    elif isinstance(tokenizer, Gpt2Tokenizer):
        words = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)  # with GPT-2's pattern
        content = _byte_level(tokenizer, merges_of_ranks(tokenizer.pieces[:-1]), words)
    else:
        return None
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name in ("bos", "eos", "pad"):
        if (text := special_text(tokenizer, name)) is not None:
            settings[f"{name}_token"] = text
    return {
        "tokenizer.json": json.dumps(content, ensure_ascii=False),
        "tokenizer_config.json": json.dumps(settings, ensure_ascii=False, indent=2) + "\n",
    }


def merges_of_ranks(tokens: Sequence[bytes]) -> list[tuple[str, str]]:
    """The merges, in byte signs, that make each token of two earlier ones, by its rank.

    A token's pair is what merging by the ranks before its own leaves of its bytes.
    """
    ranks = {token: rank for rank, token in enumerate(tokens)}
    signs = byte_signs()
    merges: list[tuple[str, str]] = []
    for rank, token in enumerate(tokens):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            best = min(range(len(parts) - 1), key=lambda i: _rank(ranks, parts, i))
            if _rank(ranks, parts, best) >= rank:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            first, second = ("".join(signs[byte] for byte in part) for part in parts)
            merges.append((first, second))
    return merges


def _rank(ranks: Mapping[bytes, int], parts: Sequence[bytes], i: int) -> int:
    return ranks.get(parts[i] + parts[i + 1], len(ranks))


def _byte_level(tokenizer: Tokenizer, merges: list[tuple[str, str]], words: Any) -> Any:
    """Byte-level BPE; our special tokens are ids of the vocabulary that no bytes spell."""
    signs = byte_signs()
    names = {i: str(special_text(tokenizer, name)) for name, i in tokenizer.specials.items()}
    vocabulary = {
        names.get(i) or "".join(signs[byte] for byte in piece): i
        for i, piece in enumerate(tokenizer.pieces)
    }
    engine: Any = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    engine.pre_tokenizer = words
    engine.decoder = tokenizers.decoders.ByteLevel()
    engine.add_special_tokens([names[i] for i in sorted(names)])
    return json.loads(engine.to_str())
