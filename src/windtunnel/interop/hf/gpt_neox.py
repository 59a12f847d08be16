"""GPT-NeoX (Black et al. 2022, arXiv 2204.06745) and Pythia: ``GPTNeoXForCausalLM``.

Their queries, keys and values are one map, head after head.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from windtunnel.arch import Architecture, ArchSpec
from windtunnel.interop.hf.family import Family, Keys, their_activation
from windtunnel.interop.hf.mapping import TensorMap, joined_by_head, one, part
from windtunnel.interop.hf.parts import first_of, read_rope, rope_of, write_rope
from windtunnel.nn.mixers.attention import AttentionConfig
from windtunnel.nn.mlps.dense import DenseConfig
from windtunnel.nn.norms.layernorm import LayerNormConfig


def _read(keys: Keys) -> ArchSpec:
    keys.idle("is_decoder")
    d, heads = keys("hidden_size"), keys("num_attention_heads")
    norm = {"type": "layernorm", "eps": float(keys("layer_norm_eps"))}
    dropout = float(keys("hidden_dropout", 0.0))
    layer = {
        "repeat": keys("num_hidden_layers"),
        "norm": norm,
        "parallel": keys("use_parallel_residual", True),
        "dropout": dropout,
        "mixer": {
            "type": "attention",
            "num_heads": heads,
            "position": read_rope(keys, d // heads, partial=True),
            "bias": keys("attention_bias", True),
            "dropout": float(keys("attention_dropout", 0.0)),
        },
        "mlp": {
            "type": "dense",
            "d_ff": keys("intermediate_size"),
            "activation": keys.activation("hidden_act"),
            "bias": True,
        },
    }
    return ArchSpec.model_validate(
        {
            "name": "gpt-neox",
            "vocab_size": keys("vocab_size"),
            "max_seq_len": keys("max_position_embeddings"),
            "d_model": d,
            "embedding": {"tie": keys("tie_word_embeddings", False), "dropout": dropout},
            "layers": (layer,),
            "head": {"norm": norm},
        }
    )


def _write(architecture: Architecture) -> dict[str, Any]:
    mixer = first_of(architecture, "mixer", AttentionConfig, "gpt_neox")
    mlp = first_of(architecture, "mlp", DenseConfig, "gpt_neox")
    norm = first_of(architecture, "norm", LayerNormConfig, "gpt_neox")
    return {
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.d_model,
        "num_hidden_layers": len(architecture.layers),
        "num_attention_heads": mixer.num_heads,
        "intermediate_size": mlp.d_ff,
        "hidden_act": their_activation(mlp.activation),
        "attention_dropout": mixer.dropout,
        "hidden_dropout": architecture.layers[0].dropout,
        "max_position_embeddings": architecture.max_seq_len,
        "layer_norm_eps": norm.eps,
        "tie_word_embeddings": architecture.embedding.tie,
        "use_parallel_residual": architecture.layers[0].parallel,
        "rope_parameters": write_rope(rope_of(mixer), mixer.head_dim or 1, partial=True),
        "attention_bias": mixer.bias,
    }


def _tensors(architecture: Architecture, names: Collection[str]) -> list[TensorMap]:
    maps = [
        one("embedding.weight", "gpt_neox.embed_in.weight"),
        *part(names, "head.norm", "gpt_neox.final_layer_norm"),
        *part(names, "head", "embed_out"),
    ]
    for index, layer in enumerate(architecture.layers):
        assert isinstance(layer.mixer, AttentionConfig), "an unchecked architecture was mapped"
        ours, theirs = f"layers.{index}", f"gpt_neox.layers.{index}"
        qkv = [f"{ours}.mixer.{name}" for name in "qkv"]
        by_head = joined_by_head(layer.mixer.num_heads or 1)
        maps += [
            *part(names, f"{ours}.mixer_join.norm", f"{theirs}.input_layernorm"),
            *part(names, qkv, f"{theirs}.attention.query_key_value", by_head),
            *part(names, f"{ours}.mixer.out", f"{theirs}.attention.dense"),
            *part(names, f"{ours}.mlp_join.norm", f"{theirs}.post_attention_layernorm"),
            *part(names, f"{ours}.mlp.up", f"{theirs}.mlp.dense_h_to_4h"),
            *part(names, f"{ours}.mlp.down", f"{theirs}.mlp.dense_4h_to_h"),
        ]
    return maps


FAMILY = Family(
    model_type="gpt_neox",
    causal_class="GPTNeoXForCausalLM",
    read=_read,
    write=_write,
    tensors=_tensors,
    prefix="gpt_neox.",
    tied=("embed_out.weight", "gpt_neox.embed_in.weight"),
    buffers=(r".*\.attention\.(bias|masked_bias)", r".*\.rotary_emb\.inv_freq"),
)
