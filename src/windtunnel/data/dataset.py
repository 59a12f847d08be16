"""From a data config to tokens on disk: read, split, tokenize, pack, all of it once."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

import tokenizers

from windtunnel.config.digest import digest
from windtunnel.data.cache import cache_errors, cache_folder, locked, new_folder
from windtunnel.data.config import (
    AnySource,
    BpeConfig,
    DataConfig,
    FilesSource,
    Held,
    HfConfig,
    Kind,
    ShakespeareSource,
)
from windtunnel.data.files import missing
from windtunnel.data.mixed import Mixed
from windtunnel.data.packing import FORMAT, Counts, Pack, TokenFile, open_pack, write_pack
from windtunnel.data.probe import ProbeSource
from windtunnel.data.probe_packing import ProbeCorpus, write_probe
from windtunnel.data.progress import Progress, silent
from windtunnel.data.sample_packing import write_samples
from windtunnel.data.sample_split import SampleCorpus
from windtunnel.data.samples import open_samples
from windtunnel.data.sources import open_source
from windtunnel.data.split import Corpus, Side
from windtunnel.data.tokenizers import Tokenizer, build_tokenizer, load_tokenizer
from windtunnel.data.tokenizers.base import FILE as TOKENIZER_FILE
from windtunnel.data.tokenizers.symbols import SymbolTokenizer
from windtunnel.errors import DataError, SourceError, UsageError

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
    parts: Mapping[str, Mapping[Side, tuple[int, int]]] = field(default_factory=dict)
    """Of several sources, by name: the tokens (or samples) of each, on both sides."""
    test: TokenFile | None = None
    """Of a synthetic task alone: what nothing is chosen by."""

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
        SourceError: files that are missing, empty, or do not hold what they should.
        DataError: a corpus that cannot be read or fetched, or that changed meanwhile.
        UsageError: a split or vocabulary that this text does not allow.
    """
    tell = silent if progress is None else progress
    cache = cache_folder() if cache is None else cache
    _check_tokenizer(data)
    corpus = _corpus(data, cache, tell)
    key = _key(data, corpus)
    folder = cache / "packs" / key
    with locked(cache, f"pack-{key}"):
        if folder.exists():
            try:
                return _open(folder)
            except DataError as error:
                logger.warning("%s; the corpus is packed again", error)
        if isinstance(corpus, ProbeCorpus):
            with cache_errors(cache), new_folder(folder) as fresh:
                write_probe(corpus, SymbolTokenizer(corpus.task.symbols), fresh, tell)
            return _open(folder)
        tokenizer = build_tokenizer(data.tokenizer, corpus.train_texts, cache, tell)
        with cache_errors(cache), new_folder(folder) as fresh:
            if data.kind == "text":
                write_pack(cast("Texts", corpus), tokenizer, fresh, tell)
            else:
                write_samples(cast("SampleTexts", corpus), tokenizer, fresh, tell)
        return _open(folder)


Texts: TypeAlias = Corpus | Mixed[Corpus]
SampleTexts: TypeAlias = SampleCorpus | Mixed[SampleCorpus]


def misnamed(data: DataConfig) -> list[str]:
    """What is written under ``data`` and is not there; no content is read and nothing fetched."""
    found: list[str] = []
    local = {key: s for key, s in _sources(data).items() if not isinstance(s, _MADE)}
    if not isinstance(data.validation, float):
        local["data.validation"] = data.validation
    for key, source in local.items():
        try:
            _reader(source, key, None, silent)
        except SourceError as error:
            found.append(str(error))
    try:
        _check_tokenizer(data)
    except SourceError as error:
        found.append(str(error))
    return found


_MADE = (ShakespeareSource, ProbeSource)
"""Sources that are no files of the user's."""


def _sources(data: DataConfig) -> dict[str, AnySource]:
    """Every source, by the key under which it is written."""
    if data.sources is None:
        return {"data.source": data.source}
    return {f"data.sources.{name}": source for name, source in data.sources.items()}


def _check_tokenizer(data: DataConfig) -> None:
    if isinstance(data.tokenizer, HfConfig):
        path = data.tokenizer.path
        file = f"{path.rstrip('/')}/{TOKENIZER_FILE}" if Path(path).is_dir() else path
        if not Path(file).exists():
            raise SourceError(f"data.tokenizer.path: {missing(file)}")


def _corpus(data: DataConfig, cache: Path, tell: Progress) -> Texts | SampleTexts | ProbeCorpus:
    held = data.validation
    if isinstance(data.source, ProbeSource):
        return ProbeCorpus(data.source, data.seed)
    if data.sources is None:
        single: Corpus | SampleCorpus = _single(data, "data.source", held, cache, tell)
        return single
    share = held if isinstance(held, float) else None
    parts: dict[str, Any] = {}
    for name in data.sources:
        # Validation files are for all; they lie with the first source.
        mine = held if not parts else share
        parts[name] = _single(data, f"data.sources.{name}", mine, cache, tell)
    return Mixed(parts)


def _single(
    data: DataConfig, key: str, held: float | Held | None, cache: Path, tell: Progress
) -> Any:
    """The corpus of the source that is written under ``key``."""
    source = _sources(data)[key]
    if data.kind == "text" and isinstance(held, Held) and not isinstance(held, FilesSource):
        raise UsageError(f"data.validation: a text is not validated on {held.kind}")
    reader = _reader(source, key, cache, tell)
    place, validation = key, cast("Any", held)
    if isinstance(held, Held):
        validation = _reader(held, "data.validation", cache, tell)
        place = "data" if data.sources is None else key
    with _contents(source, place):
        if data.kind == "text":
            return Corpus(reader, validation, data.seed, tell)
        return SampleCorpus(reader, validation, data.seed, data.kind, tell)


def _reader(source: AnySource, key: str, cache: Path | None, tell: Progress) -> Any:
    """The reader of a source; what it names and is not there is told at its key."""
    try:
        if isinstance(source, ShakespeareSource | FilesSource):
            return open_source(source, cache, tell)
        return open_samples(source)
    except DataError as error:
        raise type(error)(f"{key}: {error}") from error


@contextmanager
def _contents(source: AnySource, key: str) -> Iterator[None]:
    """Tells at its key what is wrong in a source's documents. The user's mistake is what the files
    of the user's hold, but not that one cannot be read."""
    try:
        yield
    except UsageError as error:
        if isinstance(error, SourceError) or key.startswith("data.sources."):
            raise type(error)(f"{key}: {error}") from error
        raise  # it names the key itself
    except DataError as error:
        broken = isinstance(error.__cause__, OSError | EOFError | zlib.error)
        kind = type(error) if broken or isinstance(source, _MADE) else SourceError
        raise kind(f"{key}: {error}") from error


def _key(data: DataConfig, corpus: Texts | SampleTexts | ProbeCorpus) -> str:
    # Another release of the trainer could learn other merges from the same text.
    trainer = tokenizers.__version__ if isinstance(data.tokenizer, BpeConfig) else ""
    if isinstance(data.tokenizer, HfConfig):  # the file may change
        try:
            trainer = build_tokenizer(data.tokenizer, tuple).digest
        except DataError as error:
            raise SourceError(f"data.tokenizer.path: {error}") from error
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
        parts=pack.parts,
        test=pack.sides.get("test"),
    )
