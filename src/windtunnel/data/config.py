"""What is read, how it becomes tokens, and what is kept for validation. No torch, no NumPy here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeAlias, Union

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, model_validator

from windtunnel.config.base import Config
from windtunnel.config.nearest import suggestion
from windtunnel.data.probe import ProbeSource
from windtunnel.data.probes import probe_classes

Special: TypeAlias = Literal["bos", "eos", "pad"]
PadSide: TypeAlias = Literal["left", "right"]
SPECIALS: tuple[Special, ...] = ("bos", "eos", "pad")
SMALLEST_BPE = 256 + len(SPECIALS)
"""Every byte and the specials: a byte-pair vocabulary without a single merge."""


def _one_or_more(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _distinct(value: tuple[Special, ...]) -> tuple[Special, ...]:
    if len(set(value)) != len(value):
        raise ValueError("names a special token twice")
    return tuple(name for name in SPECIALS if name in value)


_SLICE = r"^\d*:\d*$"
Paths = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(_one_or_more, json_schema_input_type=str | list[str]),
    Field(min_length=1),
]
Specials = Annotated[
    tuple[Special, ...],
    BeforeValidator(_one_or_more, json_schema_input_type=list[Special]),
    AfterValidator(_distinct),
    Field(max_length=len(SPECIALS)),
]


Kind: TypeAlias = Literal["text", "pairs", "labels", "probe"]
"""What data holds: documents of text, prompts with their truths, texts with their labels, or
sequences of a synthetic task with answers at some places."""


class Source(Config):
    """The base of all sources; ``type`` picks one."""

    kind: ClassVar[Kind] = "text"
    """What it holds."""

    type: str

    def absolute(self) -> Self:
        """The same with absolute paths."""
        paths = {
            name: str(Path(value).expanduser().absolute())
            if isinstance(value, str)
            else tuple(str(Path(path).expanduser().absolute()) for path in value)
            for name in ("paths", "source", "target")
            if (value := getattr(self, name, None)) is not None
        }
        return self.replace(**paths) if paths else self


class ShakespeareSource(Source):
    """The default corpus: 38 plays, 5 MB of English, one document a play."""

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset({"documents"})

    type: Literal["shakespeare"] = "shakespeare"
    """The kind of source."""
    documents: str | None = Field(default=None, pattern=_SLICE)
    """Some of the plays alone, in their order: `0:24` the first 24, `24:` the others."""


class FilesSource(Source):
    """Text files of one's own."""

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset({"documents"})

    type: Literal["files"] = "files"
    """The kind of source."""
    paths: Paths
    """Files, folders (read with all below them) or globs, relative to the current folder."""
    field: str = Field(default="text", min_length=1)
    """The key that holds the text in each line of a JSON-lines file."""
    documents: str | None = Field(default=None, pattern=_SLICE)
    """Some of the documents alone, in their order: `0:24` the first 24, `24:` the others."""


class PairsSource(Source):
    """Prompts and what is to be written for each, from JSON lines or CSV."""

    kind: ClassVar[Kind] = "pairs"

    type: Literal["pairs"] = "pairs"
    """The kind of source."""
    paths: Paths
    """Files (.jsonl, .csv, each may be gzipped), folders or globs."""
    prompt: str = Field(default="prompt", min_length=1)
    """The key, or the column, of the prompt."""
    truth: str = Field(default="truth", min_length=1)
    """The key, or the column, of what is to be written."""
    separator: str = ""
    """Text that ends every prompt, in training and in generation."""


class ParallelSource(Source):
    """Two text files; line n of the one is the prompt of line n of the other."""

    kind: ClassVar[Kind] = "pairs"

    type: Literal["parallel"] = "parallel"
    """The kind of source."""
    source: str = Field(min_length=1)
    """The file of prompts, such as train.en or train.en.gz."""
    target: str = Field(min_length=1)
    """The file of what is to be written, with as many lines."""
    separator: str = ""
    """Text that ends every prompt, in training and in generation."""


class LabelsSource(Source):
    """Texts and the class of each, from JSON lines or CSV."""

    kind: ClassVar[Kind] = "labels"

    type: Literal["labels"] = "labels"
    """The kind of source."""
    paths: Paths
    """Files (.jsonl, .csv, each may be gzipped), folders or globs."""
    text: str = Field(default="text", min_length=1)
    """The key, or the column, of the text."""
    label: str = Field(default="label", min_length=1)
    """The key, or the column, of the class: text or a whole number."""


class BytesConfig(Config):
    """One token a byte of UTF-8."""

    type: Literal["bytes"] = "bytes"
    """The kind of tokenizer."""
    specials: Specials = SPECIALS
    """Special tokens beside the bytes: begin, end and padding of a document."""


class CharsConfig(Config):
    """One token a character of the training text; others become `unk` and are counted."""

    type: Literal["chars"] = "chars"
    """The kind of tokenizer."""
    specials: Specials = SPECIALS
    """Special tokens beside the characters: begin, end and padding of a document."""


class BpeConfig(Config):
    """Byte-pair encoding over bytes, trained on the training text."""

    type: Literal["bpe"] = "bpe"
    """The kind of tokenizer."""
    vocab_size: int = Field(default=4096, ge=SMALLEST_BPE)
    """Ids in all: 3 specials, 256 bytes, and the merges."""


class Gpt2Config(Config):
    """The tokenizer of GPT-2: 50,257 ids."""

    type: Literal["gpt2"] = "gpt2"
    """The kind of tokenizer."""


class HfConfig(Config):
    """A tokenizer of Hugging Face: what its ``tokenizer.json`` says."""

    type: Literal["hf"] = "hf"
    """The kind of tokenizer."""
    path: str = Field(min_length=1)
    """A ``tokenizer.json``, or the folder that holds it; a run's folder `tokenizer` too."""


class SymbolsConfig(Config):
    """The symbols of a synthetic task, one id each; it has no other tokenizer."""

    type: Literal["symbols"] = "symbols"
    """The kind of tokenizer."""


def _named(
    kind: str,
    known: Callable[[], Mapping[str, type[Config]]],
    other: Callable[[str], Config | None],
    default: str,
) -> Callable[[Any], Any]:
    """A validator that makes the config of the written ``type``, in a mapping without one of
    ``default``; ``other`` reads other strings."""

    def validate(value: Any) -> Any:
        classes = known()
        if isinstance(value, str):
            if value in classes:
                return classes[value].model_validate({})
            if (made := other(value)) is not None:
                return made
            raise ValueError(f"unknown {kind} {value!r}{suggestion(value, classes)}")
        if isinstance(value, Config):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"expected a name or a mapping with `type`, not {value!r}")
        name = value.get("type", default)
        cls = classes.get(name) if isinstance(name, str) else None
        if cls is None:
            raise ValueError(f"unknown {kind} {name!r}{suggestion(name, classes)}")
        foreign = sorted(value.keys() - cls.model_fields.keys())
        if "type" not in value and foreign:
            hint = f"`type` is missing, and {foreign[0]!r} is no key of {default!r}"
            raise ValueError(hint + suggestion("", classes))
        return cls.model_validate(value)

    return validate


def _files(text: str) -> FilesSource | None:
    """A string is a path when it looks like one; a bare word is taken for a misspelt name."""
    return FilesSource(paths=(text,)) if any(sign in text for sign in "/\\.*?~") else None


def _validation(value: Any) -> Any:
    if isinstance(value, str | list | tuple):
        return FilesSource.model_validate({"paths": value})
    if isinstance(value, dict):
        return _SOURCES.get(value.get("type", "files"), FilesSource).model_validate(value)
    if isinstance(value, Source):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError(f"expected a share between 0 and 1, or path(s), not {value!r}")
    return float(value)


_SOURCES: Mapping[str, type[Config]] = {
    "shakespeare": ShakespeareSource,
    "files": FilesSource,
    "pairs": PairsSource,
    "parallel": ParallelSource,
    "labels": LabelsSource,
}
_TOKENIZERS: Mapping[str, type[Config]] = {
    "bytes": BytesConfig,
    "chars": CharsConfig,
    "bpe": BpeConfig,
    "gpt2": Gpt2Config,
    "hf": HfConfig,
    "symbols": SymbolsConfig,
}


def _all_sources() -> Mapping[str, type[Config]]:
    """Every source by type, synthetic tasks too; plugins may have brought some."""
    return {**_SOURCES, **probe_classes()}


if TYPE_CHECKING:
    AnySource: TypeAlias = (
        ShakespeareSource | FilesSource | PairsSource | ParallelSource | LabelsSource | ProbeSource
    )
    WrittenSource: TypeAlias = str | AnySource
else:  # each task by itself, as far as there is one now; ProbeSource: those of plugins
    WrittenSource = Union[(str, *_all_sources().values())]
    AnySource = Union[(*_all_sources().values(), ProbeSource)]
Held: TypeAlias = FilesSource | PairsSource | ParallelSource | LabelsSource
SourceConfig = Annotated[
    SerializeAsAny[AnySource],
    BeforeValidator(
        _named("source", _all_sources, _files, "files"), json_schema_input_type=WrittenSource
    ),
]
TokenizerConfig = Annotated[
    BytesConfig | CharsConfig | BpeConfig | Gpt2Config | HfConfig | SymbolsConfig,
    BeforeValidator(
        _named("tokenizer", lambda: _TOKENIZERS, lambda _: None, "bpe"),
        json_schema_input_type=Literal["bytes", "chars", "bpe", "gpt2", "symbols"]
        | BytesConfig
        | CharsConfig
        | BpeConfig
        | Gpt2Config
        | HfConfig
        | SymbolsConfig,
    ),
]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][\w-]*$")]
Fraction = Annotated[float, Field(gt=0, lt=1)]
ValidationConfig = Annotated[
    Fraction | Held,
    BeforeValidator(_validation, json_schema_input_type=Fraction | str | list[str] | Held),
]


LAYOUT = frozenset({"padding", "packing"})
"""Keys that change how tokens stand in a batch, not which there are; unwritten at their default."""


class DataConfig(Config):
    """Where text comes from, how it becomes tokens, what is held out.

    >>> DataConfig(source="books/*.txt", tokenizer="bytes").source.paths
    ('books/*.txt',)
    """

    unwritten_defaults: ClassVar[frozenset[str]] = LAYOUT | {"sources"}

    source: SourceConfig = ShakespeareSource()
    """`shakespeare`, a path (file, folder or glob), or a mapping: `{type: files, paths: [...]}`,
    or with `type` pairs, parallel or labels; or a synthetic task, such as mqar."""
    sources: Annotated[dict[Name, SourceConfig], Field(min_length=1)] | None = None
    """In place of `source`: several by name, all of text, of pairs or of labels; see
    `train.stages`."""
    tokenizer: TokenizerConfig = BpeConfig()
    """`bytes`, `chars`, `bpe` or `gpt2`, or a mapping with `type`: {type: hf, path: FOLDER}."""
    validation: ValidationConfig = 0.1
    """The share of the text held out (of its bytes; of samples, where there are), or the path(s) of
    validation files. A mapping says what differs from the source."""
    seed: int = Field(default=0, ge=0)
    """Which documents are held out; the order of training has its own seed."""
    packing: Literal["documents"] | None = None
    """`documents`: several documents, or samples, share a row and none sees another. None: a text
    is one stream, cut into rows; each sample has a row of its own."""
    padding: PadSide = "right"
    """Samples: the side of a batch's shorter rows that is filled up."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # sources are a dict, which has no hash

    @property
    def kind(self) -> Kind:
        """What the data holds."""
        return self.first_source.kind

    @property
    def first_source(self) -> AnySource:
        """The source, or the first of several."""
        return self.source if self.sources is None else next(iter(self.sources.values()))

    @model_validator(mode="before")
    @classmethod
    def _validation_like_the_source(cls, values: Any) -> Any:
        """Validation of samples is read as the source is, but for what is written; a synthetic task
        has its own symbols."""
        if not isinstance(values, dict):
            return values
        values = _with_symbols(values)
        source, held = values.get("source"), values.get("validation")
        if not isinstance(source, dict) or source.get("type") not in _SAMPLES:
            return values
        if isinstance(held, str | list | tuple) and "paths" in source:
            held = {**source, "paths": held}
        elif isinstance(held, dict) and "type" not in held:
            held = {**source, **held}
        return {**values, "validation": held} if held is not None else values

    @model_validator(mode="after")
    def _sides_alike(self) -> Self:
        if self.sources is not None:
            self._check_sources(self.sources)
        held = self.first_source if isinstance(self.validation, float) else self.validation
        if held.kind != self.kind:
            raise ValueError(
                f"validation of type {held.type} holds {held.kind}, but the source of type "
                f"{self.first_source.type} holds {self.kind}"
            )
        sources = (held, self.first_source, *(self.sources or {}).values())
        if len({getattr(source, "separator", "") for source in sources}) > 1:
            raise ValueError("sources must all have one separator, validation too: prompts end so")
        self._check_probe()
        if self.kind == "text" and self.padding != "right":
            raise ValueError("padding has no effect on a text: its rows are full")
        return self

    def _check_probe(self) -> None:
        if self.kind != "probe":
            if isinstance(self.tokenizer, SymbolsConfig):
                raise ValueError(f"tokenizer symbols: a {self.first_source.type} source has none")
            return
        name = self.first_source.type
        if not isinstance(self.tokenizer, SymbolsConfig):
            raise ValueError(f"{name} has symbols of its own: leave out the tokenizer")
        if self.validation != type(self).model_fields["validation"].default:
            raise ValueError(f"{name} makes its own validation: set source.held_samples instead")
        if self.packing is not None:
            raise ValueError(f"packing: a sequence of {name} has a row of its own")

    def _check_sources(self, sources: dict[str, AnySource]) -> None:
        if "source" in self.model_fields_set and self.source != ShakespeareSource():
            raise ValueError("give source or sources, not both")
        kinds = {name: source.kind for name, source in sources.items()}
        if "probe" in kinds.values():
            raise ValueError("a synthetic task stands alone: write it as `source`")
        if len(set(kinds.values())) > 1:
            found = ", ".join(f"{name} of {kind}" for name, kind in kinds.items())
            raise ValueError(f"sources must all hold the same: there are {found}")


def _with_symbols(values: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer of a synthetic task, where none is written."""
    source = values.get("source")
    named = source.get("type") if isinstance(source, dict) else source
    is_probe = isinstance(source, ProbeSource) or (
        isinstance(named, str) and named in probe_classes()
    )
    return {"tokenizer": "symbols", **values} if is_probe else values


_SAMPLES = ("pairs", "parallel", "labels")
