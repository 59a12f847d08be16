"""The configs of the factory format, each with the architecture that it stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from windtunnel.arch import ArchSpec
from windtunnel.arch.spec import DecoderSpec, EncoderSpec
from windtunnel.errors import UsageError
from windtunnel.factory.types import PerformerParams

ModelType = Literal["encoder", "decoder", "encoder_decoder"]
MODEL_TYPES: tuple[str, ...] = get_args(ModelType)

_SEEN = 2048
"""``max_seq_len`` of the specs: nothing in them depends on it."""


@dataclass(frozen=True)
class EncoderConfig:
    """A stack that sees all tokens, or with causal_linear attention the past alone."""

    params: PerformerParams

    def to_spec(self, name: str = "encoder") -> ArchSpec:
        """The architecture; a stack that sees the past alone is a decoder without a head."""
        causal = self.params.attention_type == "causal_linear"
        kind = "decoder" if causal else "encoder"
        return _single(self.params, name, kind, head="none", cross=False)


@dataclass(frozen=True)
class DecoderConfig:
    """A stack that sees the past alone, whatever its attention type."""

    params: PerformerParams
    use_cross_attention: bool = False

    def to_spec(self, name: str = "decoder") -> ArchSpec:
        """The architecture."""
        head = "none" if self.params.vocab_size is None else "vocabulary"
        return _single(self.params, name, "decoder", head=head, cross=self.use_cross_attention)


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """An encoder, and a decoder whose layers read its output."""

    encoder_params: PerformerParams
    decoder_params: PerformerParams

    def __post_init__(self) -> None:
        encoder, decoder = self.encoder_params, self.decoder_params
        if encoder.d_model != decoder.d_model:
            raise UsageError(
                f"encoder.d_model {encoder.d_model} and decoder.d_model {decoder.d_model} must be "
                "equal: the decoder reads what the encoder makes"
            )
        if (encoder.vocab_size is None) != (decoder.vocab_size is None):
            raise UsageError("vocab_size: give it in both sections, or in none")

    def to_spec(self, name: str = "encoder_decoder") -> ArchSpec:
        """The architecture. Source and target have their own token embeddings."""
        encoder, decoder = self.encoder_params, self.decoder_params
        tokens = decoder.vocab_size is not None
        source: dict[str, Any] = {}
        if tokens:
            source = {"embedding": {"tie": False}, "vocab_size": encoder.vocab_size}
        return ArchSpec(
            **_ends(decoder, name, head="vocabulary" if tokens else "none"),
            type="encoder_decoder",
            encoder=EncoderSpec(
                layers=_layers(encoder, cross=False),
                norm=_final_norm(encoder),
                causal=encoder.attention_type == "causal_linear",
                **source,
            ),
            decoder=DecoderSpec(layers=_layers(decoder, cross=True)),
        )


AnyConfig = EncoderConfig | DecoderConfig | EncoderDecoderConfig
_CONFIGS: dict[str, type[AnyConfig]] = {
    "encoder": EncoderConfig,
    "decoder": DecoderConfig,
    "encoder_decoder": EncoderDecoderConfig,
}


@dataclass(frozen=True)
class ModelConfig:
    """A model of the factory: its type, the config of that type, a name."""

    model_type: ModelType
    config: AnyConfig
    name: str = "transformer"

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raises UsageError where the type is unknown or not that of the config."""
        expected = _CONFIGS.get(self.model_type)
        if expected is None:
            allowed = ", ".join(MODEL_TYPES)
            raise UsageError(f"model_type {self.model_type!r} is unknown (allowed: {allowed})")
        if not isinstance(self.config, expected):
            found = type(self.config).__name__
            raise UsageError(
                f"model_type {self.model_type!r} needs {expected.__name__}, not {found}"
            )

    def to_spec(self) -> ArchSpec:
        """The architecture that the config stands for."""
        return self.config.to_spec(self.name)


def _single(params: PerformerParams, name: str, kind: str, *, head: str, cross: bool) -> ArchSpec:
    return ArchSpec.model_validate(
        {**_ends(params, name, head=head), "type": kind, "layers": _layers(params, cross=cross)}
    )


def _ends(params: PerformerParams, name: str, *, head: str) -> dict[str, Any]:
    """What stands around the layers: no positions are added; the input carries its own."""
    tokens = params.vocab_size is not None
    return {
        "name": name,
        "input": "tokens" if tokens else "embeddings",
        "vocab_size": params.vocab_size or "auto",
        "max_seq_len": _SEEN,
        "d_model": params.d_model,
        "embedding": {"tie": False},
        "head": {"type": head, "norm": _final_norm(params)},
    }


def _final_norm(params: PerformerParams) -> Any:
    """LayerNorm, also after scalenorm layers; none with ReZero."""
    return {"type": "none"} if params.use_rezero else {"type": "layernorm"}


def _layers(params: PerformerParams, *, cross: bool) -> tuple[Any, ...]:
    norm = {"type": "scalenorm"} if params.use_scalenorm else {"type": "layernorm"}
    if params.use_rezero:
        norm = {"type": "none"}
    shared = {"num_heads": params.num_heads, "bias": True, "dropout": params.dropout}
    layer = {
        "repeat": params.num_layers,
        "norm": norm,
        "placement": "none" if params.use_rezero else "pre",
        "mixer": _mixer(params),
        "cross": shared if cross else None,
        "mlp": _mlp(params),
        "residual": {"type": "rezero" if params.use_rezero else "add"},
        "dropout": params.dropout,
    }
    return (layer,)


def _mixer(params: PerformerParams) -> dict[str, Any]:
    shared = {"num_heads": params.num_heads, "bias": True, "position": "none"}
    if params.attention_type == "softmax":
        return {"type": "attention", **shared, "dropout": params.dropout}
    return {
        "type": "favor",
        **shared,
        "nb_features": params.nb_features,
        "feature_redraw_interval": params.feature_redraw_interval,
        "auto_check_redraw": params.auto_check_redraw,
    }


def _mlp(params: PerformerParams) -> dict[str, Any]:
    activation = params.activation
    kind = {"type": "glu", "fused": True} if activation.gated else {"type": "dense"}
    return {
        **kind,
        "activation": activation.elementwise,
        "d_ff": params.d_model * params.d_ff,
        "bias": True,
        "dropout": params.dropout,
    }
