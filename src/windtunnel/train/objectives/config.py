"""What is written under ``train.objective``. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from windtunnel.config import Config, offer
from windtunnel.data.config import Kind


class ObjectiveConfig(Config):
    """The base of all objectives; ``type`` picks one."""

    topologies: ClassVar[tuple[str, ...]]
    """The types of architectures that can be trained so."""
    head: ClassVar[str] = "vocabulary"
    """The head that it reads."""
    extra_ids: ClassVar[int] = 0
    """Ids that the vocabulary must have besides the tokenizer's."""
    data: ClassVar[tuple[Kind, ...]] = ("text",)
    """The kinds of data that it can be trained on."""

    type: str


class AutoConfig(ObjectiveConfig):
    """What suits architecture and data: next_token for a decoder, masked_token for an encoder (on
    pairs diffusion), seq2seq for an encoder_decoder; classification on labels."""

    topologies: ClassVar[tuple[str, ...]] = ("decoder", "encoder", "encoder_decoder")
    data: ClassVar[tuple[Kind, ...]] = ("text", "pairs", "labels", "probe")

    type: Literal["auto"] = "auto"


class NextTokenConfig(ObjectiveConfig):
    """Each token of a text, or of the truth that follows a prompt, from those before it; of a
    synthetic task its answers."""

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset({"loss_on", "source"})
    topologies: ClassVar[tuple[str, ...]] = ("decoder",)
    data: ClassVar[tuple[Kind, ...]] = ("text", "pairs", "probe")

    type: Literal["next_token"] = "next_token"
    loss_on: Literal["truth", "all"] = "truth"
    """Pairs: whether the tokens of the prompt count too."""
    source: float = Field(0.0, ge=0, lt=1)
    """Of rows of a text: the share at the beginning that is read and does not count, as seq2seq
    reads its source, so that both can be compared. 0: every token counts."""


class MaskedTokenConfig(ObjectiveConfig):
    """Tokens left out, from all others (BERT, arXiv 1810.04805, section 3.1)."""

    topologies: ClassVar[tuple[str, ...]] = ("encoder",)
    extra_ids: ClassVar[int] = 1

    type: Literal["masked_token"] = "masked_token"
    rate: float = Field(0.15, gt=0, le=1)
    """The share of tokens that are to be found."""
    mask: float = Field(0.8, ge=0, le=1)
    """The share of those that the mask stands for."""
    random: float = Field(0.1, ge=0, le=1)
    """The share of those for which some other token stands; the rest stay as they are."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.mask + self.random > 1 + 1e-9:
            raise ValueError(f"mask {self.mask} and random {self.random} are more than 1 together")
        return self


class Seq2SeqConfig(ObjectiveConfig):
    """The end of a text from its beginning: the encoder reads the one, the decoder writes the
    other. Pairs of source and target are trained on alike."""

    topologies: ClassVar[tuple[str, ...]] = ("encoder_decoder",)
    data: ClassVar[tuple[Kind, ...]] = ("text", "pairs")

    type: Literal["seq2seq"] = "seq2seq"
    source: float = Field(0.5, gt=0, lt=1)
    """Of rows of a text: the share that is the source. Pairs have their own."""


class ClassificationConfig(ObjectiveConfig):
    """The class of a whole sequence."""

    topologies: ClassVar[tuple[str, ...]] = ("decoder", "encoder")
    head: ClassVar[str] = "classification"
    data: ClassVar[tuple[Kind, ...]] = ("labels",)

    type: Literal["classification"] = "classification"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """The share of each label that is spread over all classes."""


class DiffusionConfig(ObjectiveConfig):
    """A target's embeddings out of noise, given the source's (DiffuSeq, arXiv 2210.08933)."""

    topologies: ClassVar[tuple[str, ...]] = ("encoder",)
    data: ClassVar[tuple[Kind, ...]] = ("pairs",)

    type: Literal["diffusion"] = "diffusion"
    steps: int = Field(2000, ge=2)
    """Steps of noise (T)."""
    offset: float = Field(1e-4, gt=0, lt=1)
    """s of the schedule 1 − √(τ/T + s): how noisy the first step is."""


_ALL: Mapping[str, type[ObjectiveConfig]] = {
    cls.model_fields["type"].default: cls
    for cls in (
        AutoConfig,
        NextTokenConfig,
        MaskedTokenConfig,
        Seq2SeqConfig,
        ClassificationConfig,
        DiffusionConfig,
    )
}


class _Objectives:
    def names(self) -> Iterable[str]:
        return sorted(_ALL)

    def config_class(self, name: str) -> type[BaseModel] | None:
        return _ALL.get(name)


offer("objective", _Objectives())

_USUAL: Mapping[str, ObjectiveConfig] = {
    "decoder": NextTokenConfig(),
    "encoder": MaskedTokenConfig(),
    "encoder_decoder": Seq2SeqConfig(),
}


def chosen(objective: ObjectiveConfig, topology: str, data: Kind = "text") -> ObjectiveConfig:
    """The objective itself, or for ``auto`` what suits an architecture of that type, and the data.

    >>> chosen(AutoConfig(), "encoder").type, chosen(AutoConfig(), "encoder", "labels").type
    ('masked_token', 'classification')
    """
    if not isinstance(objective, AutoConfig):
        return objective
    if data == "labels":
        return ClassificationConfig()
    if data == "pairs" and topology == "encoder":
        return DiffusionConfig()
    return _USUAL[topology]
