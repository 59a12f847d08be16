"""An architecture as pure data: what is written (:class:`ArchSpec`), and its final form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from windtunnel.arch.block import written_out
from windtunnel.config import Choice, Config, digest
from windtunnel.nn.component import ComponentConfig, Scope
from windtunnel.nn.cross_attention import CrossAttentionConfig
from windtunnel.nn.depth import DepthConfig
from windtunnel.nn.embedding import EmbeddingConfig
from windtunnel.nn.head import HeadConfig
from windtunnel.nn.norms.rmsnorm import RMSNormConfig
from windtunnel.nn.streams import common_streams, streams_of
from windtunnel.nn.unified_linear import LinearConfig

Placement = Literal["pre", "post", "sandwich", "out", "none"]
Topology = Literal["decoder", "encoder", "encoder_decoder"]


def _named(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class LayerConfig(Config):
    """One layer: a mixer and a feed-forward, each normed, joined to the stream by a residual.

    With f the mixer, then the feed-forward, and ⊕ the residual:
    pre ``x ⊕ f(norm(x))``, post ``norm(x ⊕ f(x))``, sandwich ``x ⊕ norm(f(norm(x)))``,
    out ``x ⊕ norm(f(x))``,
    none ``x ⊕ f(x)``. Where there is cross-attention, it stands between the two.

    In parallel ``x ⊕ mixer(norm(x)) ⊕ mlp(norm'(x))``: both read the same stream (GPT-J;
    GPT-NeoX, arXiv 2204.06745, section 2.1, with two norms; PaLM, arXiv 2204.02311, with one).
    """

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset(
        {"cross", "parallel", "shared_norm", "share_with", "position_with", "depth", "linear"}
    )

    norm: Annotated[ComponentConfig, Choice("norm", "rmsnorm")] = Field(
        default_factory=lambda: Choice("norm").validate("rmsnorm")
    )
    """The norm of both branches."""
    placement: Placement = "pre"
    """Where the norms stand. May also be written inside `norm`."""
    mixer: Annotated[ComponentConfig, Choice("mixer", "attention")] = Field(
        default_factory=lambda: Choice("mixer").validate("attention")
    )
    """What mixes along time."""
    cross: Annotated[
        CrossAttentionConfig | None,
        BeforeValidator(
            _named, json_schema_input_type=Literal["attention"] | CrossAttentionConfig | None
        ),
    ] = None
    """Cross-attention to a memory. The decoder of an encoder_decoder has it in every layer; in a
    plain decoder, where it is given, the memory is handed in beside the tokens."""
    mlp: Annotated[ComponentConfig, Choice("mlp", "glu")] = Field(
        default_factory=lambda: Choice("mlp").validate("glu")
    )
    """What mixes along width; `none` leaves the branch out."""
    residual: Annotated[ComponentConfig, Choice("residual", "add")] = Field(
        default_factory=lambda: Choice("residual").validate("add")
    )
    """How a branch's output joins the stream."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on each branch's output, in training."""
    parallel: bool = False
    """Whether the feed-forward reads what the mixer reads, and not what the mixer made of it."""
    shared_norm: bool = False
    """Whether parallel branches read through one norm, the mixer's."""
    share_with: int | None = Field(None, ge=0)
    """Index in the unrolled stack, from 0, of an earlier layer whose parameters this one uses; it
    must be configured alike. Each layer has its own state."""
    position_with: int | None = Field(None, ge=0)
    """Index in the unrolled stack, from 0, of an earlier layer whose learned position this one's
    mixer uses (T5's layers all use that of the first)."""
    depth: DepthConfig | None = None
    """Mixture of depths: a router of its own sends some tokens around the layer."""
    linear: Annotated[
        LinearConfig | None,
        BeforeValidator(
            _named, json_schema_input_type=Literal["biased", "unified"] | LinearConfig | None
        ),
    ] = None
    """What every linear map of the mixer, the cross-attention and the feed-forward has besides:
    a bias, or vectors in and out that fold into it (unified weights)."""

    @model_validator(mode="after")
    def _branches_side_by_side(self) -> Self:
        if self.parallel and self.placement == "post":
            raise ValueError("parallel: placement post would norm between the branches")
        if self.shared_norm and not self.parallel:
            raise ValueError("shared_norm has no effect unless parallel is true")
        if self.parallel and self.residual.type == "none" and self.mlp.type != "none":
            raise ValueError("parallel: with residual none the mixer's output would be lost")
        if self.shared_norm and streams_of(self.residual) is not None:
            raise ValueError("shared_norm: each branch reads a mix of the streams of its own")
        return self

    def joins(self, scope: Scope) -> Iterator[Scope]:
        """Where the residual of each branch stands, in their order; ``scope`` is the layer's."""
        branches = 1 + (self.cross is not None) + (self.mlp.type != "none")
        for index in range(branches):
            yield replace(scope, branch=scope.layer * branches + index)

    @model_validator(mode="before")
    @classmethod
    def _placement_of_norm(cls, value: Any) -> Any:
        norm = value.get("norm") if isinstance(value, dict) else None
        if not isinstance(norm, dict) or "placement" not in norm:
            return value
        if "placement" in value:
            raise ValueError("placement is written twice: in the layer and in its norm")
        rest = {k: v for k, v in norm.items() if k != "placement"}
        return {**value, "norm": rest, "placement": norm["placement"]}


class LayerSpec(LayerConfig):
    """One layer, repeated."""

    unwritten_defaults: ClassVar[frozenset[str]] = LayerConfig.unwritten_defaults | {
        "share",
        "share_position",
    }

    repeat: int = Field(1, ge=1, le=100_000)
    """How many such layers follow each other."""
    share: int = Field(1, ge=1)
    """How many of them in a row use the same parameters (ALBERT, arXiv 1909.11942: all); a divisor
    of repeat."""

    share_position: bool = False
    """Whether the mixers of all of them use the learned position of the first (T5)."""

    @model_validator(mode="after")
    def _one_position(self) -> Self:
        if self.share_position and self.position_with is not None:
            raise ValueError("share_position has no effect beside position_with")
        return self

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, value: Any) -> Any:
        return written_out(value)

    @model_validator(mode="after")
    def _whole_shares(self) -> Self:
        if self.repeat % self.share:
            raise ValueError(f"share {self.share} does not divide repeat {self.repeat}")
        if self.share > 1 and self.share_with is not None:
            raise ValueError("share has no effect where all layers share_with another")
        return self


Layers = tuple[LayerSpec, ...]


class EncoderSpec(Config):
    """The stack under ``encoder:`` of an encoder_decoder."""

    layers: Layers = Field(min_length=1)
    """The stack, bottom first."""
    norm: Annotated[ComponentConfig, Choice("norm", "rmsnorm")] = RMSNormConfig()
    """The norm of what the decoder reads."""
    causal: bool = False
    """Whether a source token sees the past alone, so that a source can be read as it comes."""
    embedding: EmbeddingConfig | None = None
    """The source's own embedding; when left out, source and target share one."""
    vocab_size: int | None = Field(None, ge=1)
    """Token ids of the source, where it has its own embedding; as many as the target's when left
    out."""

    @model_validator(mode="after")
    def _own_vocabulary(self) -> Self:
        if self.vocab_size is not None and self.embedding is None:
            raise ValueError("vocab_size has no effect on a shared embedding; give `embedding` too")
        return self


class DecoderSpec(Config):
    """The stack under ``decoder:`` of an encoder_decoder."""

    layers: Layers = Field(min_length=1)
    """The stack, bottom first; each layer reads the encoder's output."""


class Encoder(Config):
    """The encoder of an encoder_decoder in its final form."""

    layers: tuple[LayerConfig, ...]
    norm: Annotated[ComponentConfig, Choice("norm")]
    causal: bool
    embedding: EmbeddingConfig | None
    vocab_size: int | None

    @property
    def streams(self) -> int | None:
        """How many vectors wide its residual stream is; None where it is a single one."""
        return common_streams(layer.residual for layer in self.layers)

    def to_spec(self) -> EncoderSpec:
        """What would be written to get this encoder."""
        values = {name: getattr(self, name) for name in Encoder.model_fields}
        return EncoderSpec(**(values | {"layers": repeated(self.layers)}))


class _Common(Config):
    unwritten_defaults: ClassVar[frozenset[str]] = frozenset(
        {"input", "layers", "encoder", "decoder", "unit_weights"}
    )

    name: str = Field("model", min_length=1, max_length=100)
    """What it is called in tables; changes nothing else."""
    type: Topology = "decoder"
    """The topology. A decoder sees the past alone; an encoder sees all; an encoder_decoder reads a
    source with an encoder and writes a target with a decoder."""
    input: Literal["tokens", "embeddings"] = "tokens"
    """What comes in: token ids (b t), or vectors (b t d)."""
    max_seq_len: int = Field(256, ge=1)
    """The longest sequence in tokens, for what depends on it (learned positions)."""
    d_model: int = Field(ge=1)
    """Width of the residual stream."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """Token embedding: tied to the head or not, scaled or not, positions, dropout."""
    head: Annotated[
        HeadConfig,
        BeforeValidator(
            _named,
            json_schema_input_type=Literal["vocabulary", "classification", "none"] | HeadConfig,
        ),
    ] = HeadConfig()
    """What turns the stream into logits: of the vocabulary, of classes, or nothing."""
    unit_weights: bool = False
    """Whether every linear map is normalised along the side of the stream, and every row of the
    embedding and the head, at the start and after each update (nGPT, arXiv 2410.01131)."""


class ArchSpec(_Common):
    """An architecture as it is written in YAML under ``arch:``."""

    vocab_size: int | Literal["auto"] = "auto"
    """Number of token ids; `auto` takes the tokenizer's."""
    layers: Layers = ()
    """The stack, bottom first; layers may differ freely. Not of an encoder_decoder."""
    encoder: EncoderSpec | None = None
    """The stack that reads the source. Of an encoder_decoder alone."""
    decoder: DecoderSpec | None = None
    """The stack that writes the target. Of an encoder_decoder alone."""

    @model_validator(mode="after")
    def _stacks(self) -> Self:
        double = self.type == "encoder_decoder"
        if double and self.layers:
            raise ValueError("an encoder_decoder has its layers under `encoder` and `decoder`")
        for name in ("encoder", "decoder"):
            if double != (getattr(self, name) is not None):
                needed = "is required in" if double else "belongs to"
                raise ValueError(f"`{name}` {needed} an encoder_decoder, and type is {self.type}")
        if not double and not self.layers:
            raise ValueError("layers: needs at least 1, not 0")
        return self

    @property
    def stacks(self) -> tuple[tuple[tuple[str, ...], Layers], ...]:
        """Every stack with the path of its layers below ``arch``; the last one has the head."""
        if self.encoder is None or self.decoder is None:
            return ((("layers",), self.layers),)
        return (
            (("encoder", "layers"), self.encoder.layers),
            (("decoder", "layers"), self.decoder.layers),
        )


class Architecture(_Common):
    """An architecture in its final form: every number is there, the layers are unrolled.

    Made by :func:`windtunnel.arch.resolve.resolve` alone.
    """

    vocab_size: int = Field(ge=0)
    """Number of token ids; 0 where neither the input nor the head knows any."""
    layers: tuple[LayerConfig, ...]
    """The stack below the head: of an encoder_decoder, the decoder's."""
    encoder: Encoder | None = None
    """The encoder of an encoder_decoder."""

    @property
    def reads_memory(self) -> bool:
        """Whether some layer has cross-attention."""
        return any(layer.cross is not None for layer in self.layers)

    @property
    def streams(self) -> int | None:
        """How many vectors wide the residual stream is; None where it is a single one."""
        return common_streams(layer.residual for layer in self.layers)

    def digest(self) -> str:
        """What identifies it: all but the name."""
        values = self.model_dump(mode="json")
        del values["name"]
        return digest(values)

    def to_spec(self) -> ArchSpec:
        """What would be written to get this architecture: runs of equal layers are repeats."""
        values = {name: getattr(self, name) for name in _Common.model_fields}
        values["vocab_size"] = self.vocab_size or "auto"
        layers = repeated(self.layers)
        if self.encoder is None:
            return ArchSpec(**values, layers=layers)
        return ArchSpec(
            **values, encoder=self.encoder.to_spec(), decoder=DecoderSpec(layers=layers)
        )

    def named(self, name: str) -> Self:
        """The same architecture under another name."""
        return self.replace(name=name)


def repeated(layers: tuple[LayerConfig, ...]) -> Layers:
    """Runs of equal layers as repeats."""
    groups: list[LayerSpec] = []
    for layer in layers:
        values = {name: getattr(layer, name) for name in LayerConfig.model_fields}
        if groups and all(getattr(groups[-1], name) == values[name] for name in values):
            groups[-1] = groups[-1].replace(repeat=groups[-1].repeat + 1)
        else:
            groups.append(LayerSpec(**values))
    return tuple(groups)
