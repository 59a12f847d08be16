"""Our tokenizers as a ``tokenizer.json`` that the tokenizers library reads."""

from __future__ import annotations

import json
from typing import Any

import tokenizers

from windtunnel.data.tokenizers import Tokenizer
from windtunnel.data.tokenizers.bpe import BpeTokenizer, byte_signs, merge_names, pre_tokenizer
from windtunnel.data.tokenizers.hf import HfTokenizer
from windtunnel.data.tokenizers.plain import BytesTokenizer


def special_text(tokenizer: Tokenizer, name: str) -> str | None:
    """How a special token is written in their files; None where there is none."""
    i = tokenizer.specials.get(name)
    if i is None:
        return None
    if isinstance(tokenizer, HfTokenizer):
        return tokenizer.text_of(i)
    return f"<|{name}|>"


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, str] | None:
    """The files to write, by name; None where their library cannot do what ours does."""
    if isinstance(tokenizer, HfTokenizer):
        content: Any = tokenizer.content
    elif isinstance(tokenizer, BytesTokenizer):
        content = _byte_level(tokenizer, [], words=False)
    elif isinstance(tokenizer, BpeTokenizer):
        content = _byte_level(tokenizer, merge_names(tokenizer), words=True)
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


def _byte_level(tokenizer: Tokenizer, merges: list[tuple[str, str]], *, words: bool) -> Any:
    """Byte-level BPE; our special tokens are ids of the vocabulary that no bytes spell."""
    signs = byte_signs()
    names = {i: f"<|{name}|>" for name, i in tokenizer.specials.items()}
    vocabulary = {
        names.get(i) or "".join(signs[byte] for byte in piece): i
        for i, piece in enumerate(tokenizer.pieces)
    }
    engine: Any = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    engine.pre_tokenizer = (
        pre_tokenizer()
        if words
        else tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    )
    engine.decoder = tokenizers.decoders.ByteLevel()
    engine.add_special_tokens([names[i] for i in sorted(names)])
    return json.loads(engine.to_str())
