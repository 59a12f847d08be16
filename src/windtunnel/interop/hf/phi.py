"""Phi 1 to 2 (Gunasekar et al. 2023, arXiv 2306.11644): ``PhiForCausalLM``.

Parallel branches behind one LayerNorm, partly turned heads, biases everywhere.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from windtunnel.arch import Architecture, ArchSpec
from windtunnel.interop.hf.family import Family, Keys, their_activation
from windtunnel.interop.hf.mapping import TensorMap, one, part
from windtunnel.interop.hf.parts import first_of, read_rope, rope_of, write_rope
from windtunnel.nn.mixers.attention import AttentionConfig
from windtunnel.nn.mlps.dense import DenseConfig
from windtunnel.nn.norms.layernorm import LayerNormConfig


def _read(keys: Keys) -> ArchSpec:
    keys.must("qk_layernorm", False)
    keys.idle("partial_rotary_factor")  # what counts stands in rope_parameters
    d, heads = keys("hidden_size"), keys("num_attention_heads")
    norm = {"type": "layernorm", "eps": float(keys("layer_norm_eps"))}
    mixer = {
        "type": "attention",
        "num_heads": heads,
        "num_kv_heads": keys("num_key_value_heads", heads),
        "position": read_rope(keys, d // heads, partial=True),
        "bias": True,
        "dropout": float(keys("attention_dropout", 0.0)),
    }
    mlp = {
        "type": "dense",
        "d_ff": keys("intermediate_size"),
        "activation": keys.activation("hidden_act"),
        "bias": True,
    }
    layer = {
        "repeat": keys("num_hidden_layers"),
        "norm": norm,
        "parallel": True,
        "shared_norm": True,
        "mixer": mixer,
        "mlp": mlp,
        "dropout": float(keys("resid_pdrop", 0.0)),
    }
    return ArchSpec.model_validate(
        {
            "name": "phi",
            "vocab_size": keys("vocab_size"),
            "max_seq_len": keys("max_position_embeddings"),
            "d_model": d,
            "embedding": {
                "tie": keys("tie_word_embeddings", False),
                "dropout": float(keys("embd_pdrop", 0.0)),
            },
            "layers": (layer,),
            "head": {"norm": norm, "bias": True},
        }
    )


def _write(architecture: Architecture) -> dict[str, Any]:
    mixer = first_of(architecture, "mixer", AttentionConfig, "phi")
    mlp = first_of(architecture, "mlp", DenseConfig, "phi")
    norm = first_of(architecture, "norm", LayerNormConfig, "phi")
    return {
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.d_model,
        "intermediate_size": mlp.d_ff,
        "num_hidden_layers": len(architecture.layers),
        "num_attention_heads": mixer.num_heads,
        "num_key_value_heads": mixer.num_kv_heads,
        "resid_pdrop": architecture.layers[0].dropout,
        "embd_pdrop": architecture.embedding.dropout,
        "attention_dropout": mixer.dropout,
        "hidden_act": their_activation(mlp.activation, ("gelu_new",)),
        "max_position_embeddings": architecture.max_seq_len,
        "layer_norm_eps": norm.eps,
        "tie_word_embeddings": architecture.embedding.tie,
        "rope_parameters": write_rope(rope_of(mixer), mixer.head_dim or 1, partial=True),
    }


def _tensors(architecture: Architecture, names: Collection[str]) -> list[TensorMap]:
    maps = [
        one("embedding.weight", "model.embed_tokens.weight"),
        *part(names, "head.norm", "model.final_layernorm"),
        one("head.bias", "lm_head.bias"),
    ]
    if not architecture.embedding.tie:
        maps.append(one("head.weight", "lm_head.weight"))
    for index in range(len(architecture.layers)):
        ours, theirs = f"layers.{index}", f"model.layers.{index}"
        for name, their_name in _LAYER.items():
            maps += part(names, f"{ours}.{name}", f"{theirs}.{their_name}")
    return maps


_LAYER = {
    "mixer_join.norm": "input_layernorm",
    "mixer.q": "self_attn.q_proj",
    "mixer.k": "self_attn.k_proj",
    "mixer.v": "self_attn.v_proj",
    "mixer.out": "self_attn.dense",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}

FAMILY = Family(
    model_type="phi",
    causal_class="PhiForCausalLM",
    read=_read,
    write=_write,
    tensors=_tensors,
    tied=("lm_head.weight", "model.embed_tokens.weight"),
)
