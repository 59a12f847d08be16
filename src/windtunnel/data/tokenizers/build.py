"""The tokenizer that a config asks for, and one that was saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from windtunnel.data.config import (
    BpeConfig,
    BytesConfig,
    CharsConfig,
    Gpt2Config,
    HfConfig,
    SymbolsConfig,
)
from windtunnel.data.progress import Progress, silent
from windtunnel.data.tokenizers.base import FILE, FORMAT, Tokenizer
from windtunnel.data.tokenizers.bpe import BpeTokenizer
from windtunnel.data.tokenizers.gpt2 import Gpt2Tokenizer
from windtunnel.data.tokenizers.hf import HfTokenizer
from windtunnel.data.tokenizers.plain import BytesTokenizer, CharsTokenizer
from windtunnel.data.tokenizers.symbols import SymbolTokenizer
from windtunnel.errors import DataError


def build_tokenizer(
    config: BytesConfig | CharsConfig | BpeConfig | Gpt2Config | HfConfig | SymbolsConfig,
    train_texts: Callable[[], Iterable[str]],
    cache: Path | None = None,
    progress: Progress = silent,
) -> Tokenizer:
    """Makes or trains a tokenizer; it learns from ``train_texts`` alone."""
    if isinstance(config, BytesConfig):
        return BytesTokenizer(config.specials)
    if isinstance(config, Gpt2Config):
        return Gpt2Tokenizer.obtain(cache, progress)
    if isinstance(config, HfConfig):
        return _read(Path(config.path))
    assert not isinstance(config, SymbolsConfig), "a synthetic task brings its symbols"
    progress("train tokenizer", 0, 1)
    tokenizer: Tokenizer
    if isinstance(config, CharsConfig):
        tokenizer = CharsTokenizer.train(train_texts(), config.specials)
    else:
        tokenizer = BpeTokenizer.train(train_texts(), config.vocab_size)
    progress("train tokenizer", 1, 1)
    return tokenizer


def _read(path: Path) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json``, of Hugging Face or as saved here."""
    folder = path if path.is_dir() else path.parent
    try:
        ours = "digest" in json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        ours = False
    return load_tokenizer(folder) if ours else HfTokenizer.read(path)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer saved in a folder by `Tokenizer.save`.

    Raises:
        DataError: the file is missing, damaged, or of another kind or format.
    """
    path = Path(folder) / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        state, written = content["tokenizer"], content["digest"]
        version, kind = content["format"], state["type"]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a saved tokenizer ({error})") from error
    classes: dict[str, type[Tokenizer]] = {
        cls.kind: cls
        for cls in (
            BytesTokenizer,
            CharsTokenizer,
            BpeTokenizer,
            Gpt2Tokenizer,
            HfTokenizer,
            SymbolTokenizer,
        )
    }
    if version != FORMAT or kind not in classes:
        raise DataError(
            f"{path}: format {version!r}, type {kind!r} cannot be read "
            f"(allowed: format {FORMAT}; {', '.join(classes)})"
        )
    try:
        tokenizer = classes[kind].from_state(state)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path}: damaged ({error!r})") from error
    if tokenizer.digest != written:
        raise DataError(f"{path}: damaged (its contents do not fit its digest)")
    return tokenizer
