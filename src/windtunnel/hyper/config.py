"""What is written in the file of a hypernetwork. No torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from windtunnel.config import Config
from windtunnel.data.config import DataConfig
from windtunnel.train.config import TrainConfig


def _decoder(value: Any) -> Any:
    """A name alone is a type; without one it is that of the default."""
    if isinstance(value, dict):
        return {"type": "banks", **value}
    return {"type": value} if isinstance(value, str) else value


class EncoderConfig(Config):
    """The graph transformer that reads an architecture."""

    layers: int = Field(2, ge=0, le=100)
    """Blocks of attention and feed-forward."""
    width: int = Field(64, ge=1)
    """Numbers that describe an operation."""
    heads: int = Field(4, ge=1)
    """Heads of attention, a divisor of the width."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} do not divide width {self.width}")
        return self


class BanksConfig(Config):
    """Nested banks: each role has several matrices as large as the largest architecture needs, and
    a tensor is the corner of a mixture of them."""

    type: Literal["banks"] = "banks"
    """The kind of decoder."""
    components: int = Field(8, ge=0)
    """Matrices of each role that are mixed as the operation asks."""
    knots: int = Field(4, ge=1)
    """Matrices of each role that stand for places along the depth, with linear blends between."""
    hidden: int = Field(64, ge=1)
    """Width of the network from an operation to its mixture."""
    table_std: float = Field(0.2, gt=0)
    """Standard deviation of the entries of token tables before training."""


class TiledConfig(Config):
    """A block of weights for each operation, repeated until the tensor is full (GHN-3, Knyazev et
    al. 2023, arXiv 2303.04143)."""

    type: Literal["tiled"] = "tiled"
    """The kind of decoder."""
    block: int = Field(128, ge=1)
    """Rows and columns of the block."""
    hidden: int = Field(352, ge=1)
    """Channels of the network from an operation to its block. With the defaults there are as many
    parameters as in the banks for widths up to 128."""
    table_std: float = Field(0.2, gt=0)
    """Standard deviation of the entries of token tables before training."""


class LowRankConfig(Config):
    """W = A·B for each operation (LoGAH, Zhou et al. 2024, arXiv 2405.16287)."""

    type: Literal["low_rank"] = "low_rank"
    """The kind of decoder."""
    rank: int = Field(88, ge=1)
    """Columns of A and rows of B."""
    hidden: int = Field(64, ge=1)
    """Channels of the network from an operation to its factors. With the defaults there are as many
    parameters as in the banks for widths up to 128."""
    table_std: float = Field(0.2, gt=0)
    """Standard deviation of the entries of token tables before training."""


DecoderConfig: TypeAlias = Annotated[
    BanksConfig | TiledConfig | LowRankConfig, Field(discriminator="type")
]


class SplitConfig(Config):
    """Which architectures are trained on. All others are for evaluation."""

    d_model: int = Field(128, ge=1)
    """The widest; at least twice as wide ones are the split `wide`."""
    n_layer: int = Field(4, ge=1)
    """The deepest; at least twice as deep ones are the split `deep`."""
    n_head: int | None = Field(None, ge=1)
    """The most heads; more are in the split `large`. None: no limit."""
    ff_ratio: int | None = Field(None, ge=1)
    """The widest feed-forward over d_model; wider are in the split `large`. None: no limit."""
    left_out: tuple[str, ...] = ()
    """Families that are not trained on."""
    held_out: float = Field(0.1, gt=0, lt=1)
    """The part of structures of these sizes that is not trained on: the split in_distribution."""
    seed: int = Field(0, ge=0)
    """Of the choice of structures."""


class GhnConfig(Config):
    """A hypernetwork, and how it is trained."""

    name: str = Field("ghn", min_length=1, max_length=100)
    """What it is called."""
    space: str
    """`reasonable`, `full`, or the file of a space, relative to this file."""
    split: SplitConfig = SplitConfig()
    """Which of its members are trained on."""
    encoder: EncoderConfig = EncoderConfig()
    """What reads an architecture."""
    decoder: Annotated[
        DecoderConfig,
        BeforeValidator(
            _decoder, json_schema_input_type=Literal["banks", "tiled", "low_rank"] | DecoderConfig
        ),
    ] = BanksConfig()
    """What writes its parameters."""
    predicts: Literal["all", "table"] = "all"
    """table: embedding, head and positions alone; all else keeps its random initial weights."""
    meta_batch: int = Field(4, ge=1)
    """Architectures in one step; they share train.batch_size, which is a multiple."""
    largest_first: int = Field(0, ge=0)
    """So many steps at the start see the widest and deepest architectures alone."""
    bins: int = Field(4, ge=1)
    """Steps of log parameters that each family's architectures are drawn from alike."""
    eval_members: int = Field(8, ge=1)
    """Held-out architectures whose mean loss is the validation loss."""
    data: DataConfig = DataConfig()
    """The text."""
    train: TrainConfig = TrainConfig()
    """The recipe; train.batch_size sequences in all."""


def misfits(config: GhnConfig) -> list[tuple[tuple[str, ...], str]]:
    """What of a hypernetwork's file does not go together: the key, and why."""
    train, found = config.train, list[tuple[tuple[str, ...], str]]()
    if train.batch_size % config.meta_batch:
        text = f"train.batch_size {train.batch_size} is no multiple of meta_batch"
        found.append((("meta_batch",), f"{text} {config.meta_batch}"))
    others = [name for name in ("stages", "mup", "scores") if getattr(train, name)]
    if train.objective.type not in ("auto", "next_token"):
        others.append("objective")
    found += [(("train", name), "not for hypernetworks; leave it out") for name in others]
    if train.distributed == "fsdp":
        text = "a hypernetwork is not cut into parts; use ddp"
        found.append((("train", "distributed"), text))
    if train.compile != "off":
        text = "every step has other architectures, so nothing stays compiled; leave it out"
        found.append((("train", "compile"), text))
    if config.data.kind != "text":
        text = f"holds {config.data.kind}; a hypernetwork learns from text"
        found.append((("data", "source"), text))
    if config.data.packing is not None:
        found.append((("data", "packing"), "hypernetworks read rows of text; leave it out"))
    return found


def ghn_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a hypernetwork's file. It refuses no right file."""
    schema = GhnConfig.model_json_schema()
    return schema | {"$schema": "https://json-schema.org/draft/2020-12/schema"}
