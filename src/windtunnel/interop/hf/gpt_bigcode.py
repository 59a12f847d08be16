"""GPT-BigCode (Allal et al. 2023, arXiv 2301.03988; StarCoder): ``GPTBigCodeForCausalLM``.

GPT-2 with multi-query attention, and with its maps stored (out, in).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from windtunnel.arch import Architecture, ArchSpec
from windtunnel.interop.hf.family import Family, Keys, their_activation
from windtunnel.interop.hf.mapping import TensorMap, cut, joined_by_head, one, part
from windtunnel.interop.hf.parts import first_of
from windtunnel.nn.mixers.attention import AttentionConfig
from windtunnel.nn.mlps.dense import DenseConfig
from windtunnel.nn.norms.layernorm import LayerNormConfig


def _read(keys: Keys) -> ArchSpec:
    keys.must("add_cross_attention", False)
    keys.idle("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32")  # bfloat16 alone
    d, heads, shared = keys("n_embd"), keys("n_head"), keys("multi_query", True)
    keys.must("num_key_value_heads", 1 if shared else heads)
    norm = {"type": "layernorm", "eps": float(keys("layer_norm_epsilon"))}
    mixer = {
        "type": "attention",
        "num_heads": heads,
        "num_kv_heads": 1 if shared else heads,
        "position": "none",
        "bias": True,
        "scale": None if keys("scale_attn_weights", True) else 1.0,
        "dropout": float(keys("attn_pdrop", 0.0)),
    }
    mlp = {
        "type": "dense",
        "d_ff": keys("n_inner", 4 * d),
        "activation": keys.activation("activation_function"),
        "bias": True,
    }
    layer = {
        "repeat": keys("n_layer"),
        "norm": norm,
        "mixer": mixer,
        "mlp": mlp,
        "dropout": float(keys("resid_pdrop", 0.0)),
    }
    return ArchSpec.model_validate(
        {
            "name": "gpt_bigcode",
            "vocab_size": keys("vocab_size"),
            "max_seq_len": keys("n_positions"),
            "d_model": d,
            "embedding": {
                "tie": keys("tie_word_embeddings", True),
                "position": "learned",
                "dropout": float(keys("embd_pdrop", 0.0)),
            },
            "layers": (layer,),
            "head": {"norm": norm},
        }
    )


def _write(architecture: Architecture) -> dict[str, Any]:
    mixer = first_of(architecture, "mixer", AttentionConfig, "gpt_bigcode")
    mlp = first_of(architecture, "mlp", DenseConfig, "gpt_bigcode")
    norm = first_of(architecture, "norm", LayerNormConfig, "gpt_bigcode")
    return {
        "vocab_size": architecture.vocab_size,
        "n_positions": architecture.max_seq_len,
        "n_embd": architecture.d_model,
        "n_layer": len(architecture.layers),
        "n_head": mixer.num_heads,
        "n_inner": mlp.d_ff,
        "multi_query": mixer.num_kv_heads == 1,
        "activation_function": their_activation(mlp.activation, ("gelu_pytorch_tanh",)),
        "resid_pdrop": architecture.layers[0].dropout,
        "embd_pdrop": architecture.embedding.dropout,
        "attn_pdrop": mixer.dropout,
        "layer_norm_epsilon": norm.eps,
        "scale_attn_weights": mixer.scale != 1.0,
        "tie_word_embeddings": architecture.embedding.tie,
    }


def _tensors(architecture: Architecture, names: Collection[str]) -> list[TensorMap]:
    mixer = first_of(architecture, "mixer", AttentionConfig, "gpt_bigcode")
    heads, head_dim = mixer.num_heads or 1, mixer.head_dim or 1
    if mixer.num_kv_heads == 1:
        whole = cut((heads * head_dim, head_dim, head_dim))
    else:
        whole = joined_by_head(heads)
    maps = [
        one("embedding.weight", "transformer.wte.weight"),
        one("embedding.position.weight", "transformer.wpe.weight"),
        *part(names, "head.norm", "transformer.ln_f"),
        *part(names, "head", "lm_head"),
    ]
    for index in range(len(architecture.layers)):
        ours, theirs = f"layers.{index}", f"transformer.h.{index}"
        qkv = [f"{ours}.mixer.{name}" for name in "qkv"]
        maps += [
            *part(names, f"{ours}.mixer_join.norm", f"{theirs}.ln_1"),
            *part(names, qkv, f"{theirs}.attn.c_attn", whole),
            *part(names, f"{ours}.mixer.out", f"{theirs}.attn.c_proj"),
            *part(names, f"{ours}.mlp_join.norm", f"{theirs}.ln_2"),
            *part(names, f"{ours}.mlp.up", f"{theirs}.mlp.c_fc"),
            *part(names, f"{ours}.mlp.down", f"{theirs}.mlp.c_proj"),
        ]
    return maps


FAMILY = Family(
    model_type="gpt_bigcode",
    causal_class="GPTBigCodeForCausalLM",
    read=_read,
    write=_write,
    tensors=_tensors,
    prefix="transformer.",
    tied=("lm_head.weight", "transformer.wte.weight"),
    buffers=(r".*\.attn\.(bias|masked_bias)",),
)
