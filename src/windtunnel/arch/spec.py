"""An architecture as pure data: what is written (:class:`ArchSpec`), and its final form."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from windtunnel.config import Choice, Config, digest
from windtunnel.nn.component import ComponentConfig
from windtunnel.nn.embedding import EmbeddingConfig
from windtunnel.nn.head import HeadConfig

Placement = Literal["pre", "post", "sandwich", "none"]


class LayerConfig(Config):
    """One layer: a mixer and a feed-forward, each normed, joined to the stream by a residual.

    With f the mixer, then the feed-forward, and ⊕ the residual:
    pre ``x ⊕ f(norm(x))``, post ``norm(x ⊕ f(x))``, sandwich ``x ⊕ norm(f(norm(x)))``,
    none ``x ⊕ f(x)``.
    """

    norm: Annotated[ComponentConfig, Choice("norm")] = Field(
        default_factory=lambda: Choice("norm").validate("rmsnorm")
    )
    """The norm of both branches."""
    placement: Placement = "pre"
    """Where the norms stand. May also be written inside `norm`."""
    mixer: Annotated[ComponentConfig, Choice("mixer")] = Field(
        default_factory=lambda: Choice("mixer").validate("attention")
    )
    """What mixes along time."""
    mlp: Annotated[ComponentConfig, Choice("mlp")] = Field(
        default_factory=lambda: Choice("mlp").validate("glu")
    )
    """What mixes along width; `none` leaves the branch out."""
    residual: Annotated[ComponentConfig, Choice("residual")] = Field(
        default_factory=lambda: Choice("residual").validate("add")
    )
    """How a branch's output joins the stream."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on each branch's output, in training."""

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

    repeat: int = Field(1, ge=1, le=100_000)
    """How many such layers follow each other."""


class _Common(Config):
    name: str = Field("model", min_length=1, max_length=100)
    """What it is called in tables; changes nothing else."""
    type: Literal["decoder"] = "decoder"
    """The topology: a decoder sees the past alone."""
    max_seq_len: int = Field(256, ge=1)
    """The longest sequence in tokens, for what depends on it (learned positions)."""
    d_model: int = Field(ge=1)
    """Width of the residual stream."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """Token embedding: tied to the head or not, scaled or not, positions, dropout."""
    head: HeadConfig = HeadConfig()
    """What turns the stream into logits."""


class ArchSpec(_Common):
    """An architecture as it is written in YAML under ``arch:``."""

    vocab_size: int | Literal["auto"] = "auto"
    """Number of token ids; `auto` takes the tokenizer's."""
    layers: tuple[LayerSpec, ...] = Field(min_length=1)
    """The stack, bottom first; layers may differ freely."""


class Architecture(_Common):
    """An architecture in its final form: every number is there, the layers are unrolled.

    Made by :func:`windtunnel.arch.resolve.resolve` alone.
    """

    vocab_size: int = Field(ge=1)
    layers: tuple[LayerConfig, ...]

    def digest(self) -> str:
        """What identifies it: all but the name."""
        values = self.model_dump(mode="json")
        del values["name"]
        return digest(values)

    def to_spec(self) -> ArchSpec:
        """What would be written to get this architecture: runs of equal layers are repeats."""
        layers: list[LayerSpec] = []
        for layer in self.layers:
            values = {name: getattr(layer, name) for name in LayerConfig.model_fields}
            if layers and all(getattr(layers[-1], name) == values[name] for name in values):
                layers[-1] = layers[-1].replace(repeat=layers[-1].repeat + 1)
            else:
                layers.append(LayerSpec(**values))
        values = {name: getattr(self, name) for name in ArchSpec.model_fields}
        return ArchSpec(**(values | {"layers": tuple(layers)}))

    def named(self, name: str) -> Self:
        """The same architecture under another name."""
        return self.replace(name=name)
