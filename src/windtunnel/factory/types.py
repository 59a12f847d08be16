"""The parameters of one stack in the factory format: as written, and complete."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from windtunnel.config import Config
from windtunnel.factory.activations import ActivationFunctions

AttentionType = Literal["softmax", "linear", "causal_linear"]
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def _device(value: Any) -> str:
    name = str(value)  # a torch.device too
    if not _DEVICE.fullmatch(name):
        raise ValueError(f"{name!r} is no device; allowed: auto, cpu, cuda, cuda:0, mps")
    return name


Device = Annotated[str, BeforeValidator(_device)]
Activation = Annotated[ActivationFunctions, BeforeValidator(ActivationFunctions.parse)]


class PartialParams(Config):
    """What a section writes; the rest may stand in ``global_config``."""

    d_model: int | None = Field(None, ge=1)
    """Width of the stream; `num_heads` must divide it."""
    device: Device = "auto"
    """Where the model is put: cpu, cuda, cuda:N, mps, or auto: a GPU where there is one."""
    batch_size: int | None = Field(None, ge=1)
    """Sequences that are read at once. The model takes any number; it is here for those who load
    the data."""
    num_layers: int | None = Field(None, ge=1)
    """Depth of the stack."""
    num_heads: int | None = Field(None, ge=1)
    """Heads of attention."""
    d_ff: int | None = Field(None, ge=1)
    """Hidden width of the feed-forward as a multiple of d_model; gated ones map to twice that."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Of attention weights, hidden values and the output of each branch, in training."""
    attention_type: AttentionType = "softmax"
    """softmax, or FAVOR+ over all tokens (linear) or over the past (causal_linear)."""
    activation: Activation = ActivationFunctions.GELU
    """RELU, SILU, GELU, or gated: GEGLU, REGLU, SWIGLU."""
    nb_features: int | None = Field(None, ge=1)
    """Random features of linear attention; ⌊d_head · ln d_head⌋ when left out."""
    use_rezero: bool = False
    """x + g·f(x) with a learned g in place of norms."""
    use_scalenorm: bool = False
    """g·x / max(‖x‖, eps) before each branch in place of LayerNorm."""
    feature_redraw_interval: int | None = Field(1000, ge=1)
    """Training steps between two draws of the random features; never when null."""
    auto_check_redraw: bool = True
    """Whether training draws new features by itself."""
    vocab_size: int | None = Field(None, ge=1)
    """Token ids, so that the model takes ids (b t) besides vectors (b t d); a decoder then ends
    with logits. Not in the original format."""

    @model_validator(mode="after")
    def _one_norm(self) -> Self:
        if self.use_rezero and self.use_scalenorm:
            raise ValueError("use_rezero and use_scalenorm exclude each other; choose one")
        return self


class PerformerParams(PartialParams):
    """All that one stack needs.

    >>> PerformerParams(d_model=64, batch_size=2, num_layers=1, num_heads=4, d_ff=4, dropout=0.1,
    ...                 activation="swiglu").activation.name
    'SWIGLU'
    """

    d_model: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    num_layers: int = Field(ge=1)
    num_heads: int = Field(ge=1)
    d_ff: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.d_model % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide d_model {self.d_model}")
        return self


REQUIRED = tuple(
    name for name, field in PerformerParams.model_fields.items() if field.is_required()
)
"""What a section and its global_config must give between them."""


class DecoderSection(PartialParams):
    """What the section ``decoder:`` writes."""

    use_cross_attention: bool = False
    """Whether each layer reads an encoder's output; always so in an encoder_decoder."""
