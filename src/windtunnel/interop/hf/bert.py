"""BERT (Devlin et al. 2018, arXiv 1810.04805) with its head of masked tokens."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from windtunnel.arch import Architecture, ArchSpec
from windtunnel.interop.hf.family import Family, Keys, their_activation
from windtunnel.interop.hf.mapping import TensorMap, one, part
from windtunnel.interop.hf.parts import first_of
from windtunnel.nn.mixers.attention import AttentionConfig
from windtunnel.nn.mlps.dense import DenseConfig
from windtunnel.nn.norms.layernorm import LayerNormConfig


def _read(keys: Keys) -> ArchSpec:
    keys.must("is_decoder", False)
    keys.must("add_cross_attention", False)
    keys.must("tie_word_embeddings", True)
    norm = {"type": "layernorm", "eps": keys("layer_norm_eps")}
    activation = keys.activation("hidden_act")
    return ArchSpec.model_validate(
        {
            "name": "bert",
            "type": "encoder",
            "vocab_size": keys("vocab_size"),
            "max_seq_len": keys("max_position_embeddings"),
            "d_model": keys("hidden_size"),
            "embedding": {
                "tie": True,
                "position": "learned",
                "token_types": keys("type_vocab_size"),
                "norm": norm,
                "dropout": keys("hidden_dropout_prob"),
            },
            "layers": (_read_layer(keys, norm, activation),),
            "head": {
                "norm": "none",
                "transform": {"activation": activation, "norm": norm},
                "bias": True,
            },
        }
    )


def _read_layer(keys: Keys, norm: dict[str, Any], activation: str) -> dict[str, Any]:
    mixer = {
        "type": "attention",
        "num_heads": keys("num_attention_heads"),
        "bias": True,
        "position": "none",
        "dropout": keys("attention_probs_dropout_prob"),
    }
    mlp = {
        "type": "dense",
        "activation": activation,
        "d_ff": keys("intermediate_size"),
        "bias": True,
    }
    return {
        "repeat": keys("num_hidden_layers"),
        "norm": norm,
        "placement": "post",
        "mixer": mixer,
        "mlp": mlp,
        "dropout": keys("hidden_dropout_prob"),
    }


def _write(architecture: Architecture) -> dict[str, Any]:
    mixer = first_of(architecture, "mixer", AttentionConfig, "bert")
    mlp = first_of(architecture, "mlp", DenseConfig, "bert")
    norm = first_of(architecture, "norm", LayerNormConfig, "bert")
    return {
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.d_model,
        "num_hidden_layers": len(architecture.layers),
        "num_attention_heads": mixer.num_heads,
        "intermediate_size": mlp.d_ff,
        "hidden_act": their_activation(mlp.activation, ("gelu_new",)),
        "hidden_dropout_prob": architecture.layers[0].dropout,
        "attention_probs_dropout_prob": mixer.dropout,
        "max_position_embeddings": architecture.max_seq_len,
        "type_vocab_size": architecture.embedding.token_types or 1,
        "layer_norm_eps": norm.eps,
    }


def _tensors(architecture: Architecture, names: Collection[str]) -> list[TensorMap]:
    maps = [
        one("embedding.weight", "bert.embeddings.word_embeddings.weight"),
        one("embedding.position.weight", "bert.embeddings.position_embeddings.weight"),
        one("embedding.token_types", "bert.embeddings.token_type_embeddings.weight"),
        *part(names, "embedding.norm", "bert.embeddings.LayerNorm"),
        *part(names, "head.transform.linear", "cls.predictions.transform.dense"),
        *part(names, "head.transform.norm", "cls.predictions.transform.LayerNorm"),
        one("head.bias", "cls.predictions.bias"),
    ]
    for index in range(len(architecture.layers)):
        for ours, theirs in _LAYER.items():
            maps += part(names, f"layers.{index}.{ours}", f"bert.encoder.layer.{index}.{theirs}")
    return maps


_LAYER = {
    "mixer.q": "attention.self.query",
    "mixer.k": "attention.self.key",
    "mixer.v": "attention.self.value",
    "mixer.out": "attention.output.dense",
    "mixer_join.post_norm": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
    "mlp_join.post_norm": "output.LayerNorm",
}

FAMILY = Family(
    "bert",
    "BertForMaskedLM",
    _read,
    _write,
    _tensors,
    prefix="bert.",
    tied=("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    copies=(("cls.predictions.decoder.bias", "cls.predictions.bias"),),
    buffers=(r"bert\.embeddings\.(position_ids|token_type_ids)",),
    beside=(r"bert\.pooler\..*", r"cls\.seq_relationship\..*"),
    renamed=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
)
