"""T5 (Raffel et al. 2020, arXiv 1910.10683), 1.0 and 1.1.

Deviation: the dropout that T5 has after the last norm of each stack, in training, is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from windtunnel.arch import Architecture, ArchSpec
from windtunnel.arch.spec import LayerConfig
from windtunnel.interop.hf.family import (
    ACTIVATIONS,
    Family,
    Keys,
    no_counterpart,
    their_activation,
)
from windtunnel.interop.hf.mapping import SAME, TRANSPOSED, TensorMap, one, part, times
from windtunnel.interop.hf.parts import first_of
from windtunnel.nn.mixers.attention import AttentionConfig
from windtunnel.nn.mlps.dense import DenseConfig
from windtunnel.nn.mlps.glu import GatedConfig
from windtunnel.nn.norms.rmsnorm import RMSNormConfig
from windtunnel.nn.positions.relative import RelativeConfig


def _read(keys: Keys) -> ArchSpec:
    keys.idle("is_encoder_decoder", "is_gated_act", "dense_act_fn", "initializer_factor")
    keys.must("is_decoder", False)
    if keys("dropout_rate"):
        keys.notes.append(
            "dropout_rate after the last norm of each stack acts in training alone and is left out"
        )
    tie = keys("tie_word_embeddings", True)
    scale = "rsqrt" if keys("scale_decoder_outputs", tie) else None
    norm = {"type": "rmsnorm", "eps": keys("layer_norm_epsilon")}
    heads = {
        "num_heads": keys("num_heads"),
        "head_dim": keys("d_kv"),
        "scale": 1.0,
        "dropout": keys("dropout_rate"),
    }
    layer = {
        "share_position": True,
        "norm": norm,
        "mixer": {"type": "attention", **heads, "position": _position(keys)},
        "mlp": _mlp(keys),
        "dropout": keys("dropout_rate"),
    }
    depth = keys("num_layers")
    crossed = {**layer, "cross": heads, "repeat": keys("num_decoder_layers", depth)}
    return ArchSpec.model_validate(
        {
            "name": "t5",
            "type": "encoder_decoder",
            "vocab_size": keys("vocab_size"),
            "max_seq_len": 512,
            "d_model": keys("d_model"),
            "embedding": {"tie": tie, "dropout": keys("dropout_rate")},
            "encoder": {"norm": norm, "layers": ({**layer, "repeat": depth},)},
            "decoder": {"layers": (crossed,)},
            "head": {"norm": norm, "scale": scale},
        }
    )


def _position(keys: Keys) -> dict[str, Any]:
    return {
        "type": "relative",
        "buckets": keys("relative_attention_num_buckets"),
        "max_distance": keys("relative_attention_max_distance"),
    }


def _mlp(keys: Keys) -> dict[str, Any]:
    """``feed_forward_proj`` is the activation's name, behind ``gated-`` where it gates."""
    written = keys("feed_forward_proj")
    gate, _, name = written.rpartition("-")
    name = "gelu_new" if written == "gated-gelu" else name
    if gate not in ("", "gated") or name not in ACTIVATIONS:
        keys.refuse("feed_forward_proj", f"{written!r} is no activation of ours")
    return {
        "type": "glu" if gate else "dense",
        "activation": ACTIVATIONS.get(name, "relu"),
        "d_ff": keys("d_ff"),
        "dropout": keys("dropout_rate"),
    }


def _unscaled(architecture: Architecture) -> Architecture:
    """With a factor of 1 of every attention's logits: T5 has none, so its queries take it."""
    encoder = architecture.encoder
    if encoder is not None:
        encoder = encoder.replace(layers=tuple(_without_scale(layer) for layer in encoder.layers))
    layers = tuple(_without_scale(layer) for layer in architecture.layers)
    return architecture.replace(layers=layers, encoder=encoder)


def _without_scale(layer: LayerConfig) -> LayerConfig:
    changes: dict[str, Any] = {}
    if isinstance(layer.mixer, AttentionConfig) and layer.mixer.qk_norm.type == "none":
        changes["mixer"] = layer.mixer.replace(scale=1.0)
    if layer.cross is not None:
        changes["cross"] = layer.cross.replace(scale=1.0)
    return layer.replace(**changes)


def _write(architecture: Architecture) -> dict[str, Any]:
    if architecture.encoder is None:
        raise no_counterpart("type", architecture.type, "t5")
    layer = architecture.layers[0]
    mixer = first_of(architecture, "mixer", AttentionConfig, "t5")
    norm = first_of(architecture, "norm", RMSNormConfig, "t5")
    if not isinstance(layer.mlp, DenseConfig | GatedConfig):
        raise no_counterpart("layers[0].mlp", layer.mlp.type, "t5")
    if not isinstance(mixer.position, RelativeConfig):
        raise no_counterpart("layers[0].mixer.position", mixer.position.type, "t5")
    return {
        "vocab_size": architecture.vocab_size,
        "d_model": architecture.d_model,
        "d_kv": mixer.head_dim,
        "d_ff": layer.mlp.d_ff,
        "num_layers": len(architecture.encoder.layers),
        "num_decoder_layers": len(architecture.layers),
        "num_heads": mixer.num_heads,
        "relative_attention_num_buckets": mixer.position.buckets or 32,
        "relative_attention_max_distance": mixer.position.max_distance,
        "dropout_rate": layer.dropout,
        "layer_norm_epsilon": norm.eps,
        "feed_forward_proj": _projection(layer.mlp),
        "is_encoder_decoder": True,
        "tie_word_embeddings": architecture.embedding.tie,
        "scale_decoder_outputs": architecture.head.scale is not None,
        "decoder_start_token_id": 0,
    }


def _projection(mlp: DenseConfig | GatedConfig) -> str:
    name = their_activation(mlp.activation, ("gelu_new",))
    if isinstance(mlp, DenseConfig):
        return name
    return "gated-gelu" if name == "gelu_new" else f"gated-{name}"


def _tensors(architecture: Architecture, names: Collection[str]) -> list[TensorMap]:
    assert architecture.encoder is not None
    maps = [
        one("embedding.weight", "shared.weight"),
        *part(names, "encoder.norm", "encoder.final_layer_norm"),
        *part(names, "head.norm", "decoder.final_layer_norm"),
    ]
    if not architecture.embedding.tie:
        maps.append(one("head.weight", "lm_head.weight"))
    maps += _stack(names, "encoder.layers", "encoder", architecture.encoder.layers)
    maps += _stack(names, "layers", "decoder", architecture.layers)
    return maps


def _stack(
    names: Collection[str], ours: str, theirs: str, layers: Iterable[LayerConfig]
) -> Iterator[TensorMap]:
    """Layers of one stack; a decoder's has cross-attention between the two parts."""
    table = "relative_attention_bias.weight"
    yield one(
        f"{ours}.0.mixer.position.weight",
        f"{theirs}.block.0.layer.0.SelfAttention.{table}",
        TRANSPOSED,
    )
    branches = [("mixer", _ATTENTION, "SelfAttention"), ("mlp", _DENSE, "DenseReluDense")]
    if theirs == "decoder":
        branches.insert(1, ("cross", _ATTENTION, "EncDecAttention"))
    for index, layer in enumerate(layers):
        gated = f"{ours}.{index}.mlp.gate.weight" in names
        for number, (branch, parts, module) in enumerate(branches):
            own, at = f"{ours}.{index}.{branch}", f"{theirs}.block.{index}.layer.{number}"
            yield from part(names, f"{own}_join.norm", f"{at}.layer_norm")
            for name, their_name in (_GATED if gated and branch == "mlp" else parts).items():
                scale = getattr(getattr(layer, branch), "scale", 1.0) if name == "q" else 1.0
                whole = SAME if scale == 1.0 else times(scale)
                yield from part(names, f"{own}.{name}", f"{at}.{module}.{their_name}", whole)


_ATTENTION = {"q": "q", "k": "k", "v": "v", "out": "o"}
_DENSE = {"up": "wi", "down": "wo"}
_GATED = {"gate": "wi_0", "up": "wi_1", "down": "wo"}

FAMILY = Family(
    "t5",
    "T5ForConditionalGeneration",
    _read,
    _write,
    _tensors,
    prefix="",
    tied=("lm_head.weight", "shared.weight"),
    stored_tie=True,
    copies=(
        ("encoder.embed_tokens.weight", "shared.weight"),
        ("decoder.embed_tokens.weight", "shared.weight"),
    ),
    # read by no version of the model: cross-attention has no positions
    beside=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    same=_unscaled,
    endless=True,
)
