"""From a data config to tokens on disk: read, split, tokenize, pack, all of it once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from windtunnel.config.digest import digest
from windtunnel.data.cache import cache_errors, cache_folder, locked, new_folder
from windtunnel.data.config import (
    BpeConfig,
    DataConfig,
    FilesSource,
    HfConfig,
    Kind,
    ShakespeareSource,
)
from windtunnel.data.packing import FORMAT, Counts, Pack, TokenFile, open_pack, write_pack
from windtunnel.data.progress import Progress, silent
from windtunnel.data.sample_packing import write_samples
from windtunnel.data.sample_split import SampleCorpus
from windtunnel.data.samples import open_samples
from windtunnel.data.sources import open_source
from windtunnel.data.split import Corpus
from windtunnel.data.tokenizers import Tokenizer, build_tokenizer, load_tokenizer
from windtunnel.errors import DataError, UsageError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compression:
    """How well a tokenizer fits one side of a corpus."""

    counts: Counts
    bytes_per_token: float
    """Bytes of text a token of text stands for, on average."""
    tokens_per_word: float
    """Tokens of text a word takes, on average (its fertility)."""
    vocab_used: float
    """The share of the vocabulary that occurs."""


@dataclass(frozen=True)
class Dataset:
    """A corpus ready for training."""

    train: TokenFile
    valid: TokenFile
    tokenizer: Tokenizer
    fingerprint: str
    """The SHA-256 of the tokens of both sides and of the tokenizer; no path is in it."""
    folder: Path
    """Where the packed files lie."""
    notes: tuple[str, ...]
    """What was left out or unknown, in words; empty when nothing was."""
    kind: Kind = "text"
    """What it holds."""
    labels: tuple[str, ...] = ()
    """The classes, by their numbers."""

    def compression_report(self) -> dict[str, Compression]:
        """For ``train`` and ``valid``: bytes per token, tokens per word, share of ids in use."""
        return {
            side: _compression(file.counts, self.tokenizer.vocab_size)
            for side, file in (("train", self.train), ("valid", self.valid))
        }


def _compression(counts: Counts, vocab_size: int) -> Compression:
    return Compression(
        counts=counts,
        bytes_per_token=counts.text_bytes / counts.text_tokens,
        # A text of white space only has no words.
        tokens_per_word=counts.text_tokens / max(counts.words, 1),
        vocab_used=counts.vocab_used / vocab_size,
    )


def prepare(
    data: DataConfig, progress: Progress | None = None, cache: Path | None = None
) -> Dataset:
    """Reads, splits, tokenizes and packs a corpus, or finds it in the cache.

    The cache entry is keyed by the contents of the source (never by its paths), the split and the
    tokenizer's config; a damaged entry is told to the log and made again. Several processes may
    prepare the same corpus at once: one works, the others wait.

    Args:
        progress: told now and then where the work stands.
        cache: the cache folder; by default `cache_folder()`.

    Raises:
        DataError: a corpus that is missing, empty, damaged or cannot be fetched.
        UsageError: a split or vocabulary that this text does not allow.
    """
    tell = silent if progress is None else progress
    cache = cache_folder() if cache is None else cache
    corpus = _corpus(data, cache, tell)
    key = _key(data, corpus)
    folder = cache / "packs" / key
    with locked(cache, f"pack-{key}"):
        if folder.exists():
            try:
                return _open(folder)
            except DataError as error:
                logger.warning("%s; the corpus is packed again", error)
        tokenizer = build_tokenizer(data.tokenizer, corpus.train_texts, cache, tell)
        with cache_errors(cache), new_folder(folder) as fresh:
            if isinstance(corpus, SampleCorpus):
                write_samples(corpus, tokenizer, fresh, tell)
            else:
                write_pack(corpus, tokenizer, fresh, tell)
        return _open(folder)


def _corpus(data: DataConfig, cache: Path, tell: Progress) -> Corpus | SampleCorpus:
    held = data.validation
    if isinstance(data.source, ShakespeareSource | FilesSource):
        if not isinstance(held, float | FilesSource):
            raise UsageError(f"data.validation: a text is not validated on {held.kind}")
        reader = open_source(data.source, cache, tell)
        validation = held if isinstance(held, float) else open_source(held, cache, tell)
        return Corpus(reader, validation, data.seed, tell)
    samples = open_samples(data.source)
    held_samples = held if isinstance(held, float) else open_samples(held)
    return SampleCorpus(samples, held_samples, data.seed, data.kind, tell)


def _key(data: DataConfig, corpus: Corpus | SampleCorpus) -> str:
    # Another release of the trainer could learn other merges from the same text.
    trainer = tokenizers.__version__ if isinstance(data.tokenizer, BpeConfig) else ""
    if isinstance(data.tokenizer, HfConfig):  # the file may change
        trainer = build_tokenizer(data.tokenizer, tuple).digest
    parts = corpus.identity() | {
        "format": FORMAT,
        "tokenizer": data.tokenizer.model_dump(mode="json"),
        "trainer": trainer,
    }
    return digest(parts)


def _open(folder: Path) -> Dataset:
    tokenizer = load_tokenizer(folder)
    pack: Pack = open_pack(folder, tokenizer)
    for note in pack.notes:
        logger.warning("%s", note)
    return Dataset(
        train=pack.sides["train"],
        valid=pack.sides["valid"],
        tokenizer=tokenizer,
        fingerprint=pack.fingerprint,
        folder=folder,
        notes=pack.notes,
        kind=pack.kind,
        labels=pack.labels,
    )
