"""GPT-2 (Radford et al. 2019): ``GPT2LMHeadModel``.

Their maps are stored (in, out), and queries, keys and values are one map.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from windtunnel.arch import Architecture, ArchSpec
from windtunnel.interop.hf.family import Family, Keys, their_activation
from windtunnel.interop.hf.mapping import TRANSPOSED, TensorMap, joined, one, part
from windtunnel.interop.hf.parts import first_of, grouped
from windtunnel.nn.embedding_positions.learned import LearnedPositionConfig
from windtunnel.nn.mixers.attention import AttentionConfig
from windtunnel.nn.mlps.dense import DenseConfig
from windtunnel.nn.norms.layernorm import LayerNormConfig


def _read(keys: Keys) -> ArchSpec:
    keys.must("add_cross_attention", False)
    keys.idle("reorder_and_upcast_attn")  # the same numbers in another order
    keys.idle("summary_type", "summary_use_proj", "summary_activation", "summary_first_dropout")
    keys.idle("summary_proj_to_labels")
    d, heads = keys("n_embd"), keys("n_head")
    norm = {"type": "layernorm", "eps": float(keys("layer_norm_epsilon"))}
    scale = (d // heads) ** -0.5 if keys("scale_attn_weights", True) else 1.0
    falling = keys("scale_attn_by_inverse_layer_idx", False)
    layer = {
        "norm": norm,
        "dropout": float(keys("resid_pdrop", 0.0)),
        "mlp": {
            "type": "dense",
            "d_ff": keys("n_inner", 4 * d),
            "activation": keys.activation("activation_function"),
            "bias": True,
        },
    }
    mixer = {
        "type": "attention",
        "num_heads": heads,
        "position": "none",
        "bias": True,
        "dropout": float(keys("attn_pdrop", 0.0)),
    }
    scales = [scale / (index + 1) if falling else scale for index in range(keys("n_layer"))]
    return ArchSpec.model_validate(
        {
            "name": "gpt2",
            "vocab_size": keys("vocab_size"),
            "max_seq_len": keys("n_positions"),
            "d_model": d,
            "embedding": {
                "tie": keys("tie_word_embeddings", True),
                "position": "learned",
                "dropout": float(keys("embd_pdrop", 0.0)),
            },
            "layers": grouped([{**layer, "mixer": {**mixer, "scale": s}} for s in scales]),
            "head": {"norm": norm},
        }
    )


def _write(architecture: Architecture) -> dict[str, Any]:
    mixer = first_of(architecture, "mixer", AttentionConfig, "gpt2")
    mlp = first_of(architecture, "mlp", DenseConfig, "gpt2")
    norm = first_of(architecture, "norm", LayerNormConfig, "gpt2")
    second = architecture.layers[min(1, len(architecture.layers) - 1)].mixer
    return {
        "vocab_size": architecture.vocab_size,
        "n_positions": architecture.max_seq_len,
        "n_embd": architecture.d_model,
        "n_layer": len(architecture.layers),
        "n_head": mixer.num_heads,
        "n_inner": mlp.d_ff,
        "activation_function": their_activation(mlp.activation, ("gelu_new",)),
        "resid_pdrop": architecture.layers[0].dropout,
        "embd_pdrop": architecture.embedding.dropout,
        "attn_pdrop": mixer.dropout,
        "layer_norm_epsilon": norm.eps,
        "scale_attn_weights": mixer.scale != 1.0,
        "scale_attn_by_inverse_layer_idx": getattr(second, "scale", None) != mixer.scale,
        "tie_word_embeddings": architecture.embedding.tie,
    }


def _tensors(architecture: Architecture, names: Collection[str]) -> list[TensorMap]:
    position = isinstance(architecture.embedding.position, LearnedPositionConfig)
    assert position, "an architecture was mapped that its config does not give again"
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
            *part(names, qkv, f"{theirs}.attn.c_attn", joined(3, transposed=True)),
            *part(names, f"{ours}.mixer.out", f"{theirs}.attn.c_proj", TRANSPOSED),
            *part(names, f"{ours}.mlp_join.norm", f"{theirs}.ln_2"),
            *part(names, f"{ours}.mlp.up", f"{theirs}.mlp.c_fc", TRANSPOSED),
            *part(names, f"{ours}.mlp.down", f"{theirs}.mlp.c_proj", TRANSPOSED),
        ]
    return maps


FAMILY = Family(
    model_type="gpt2",
    causal_class="GPT2LMHeadModel",
    read=_read,
    write=_write,
    tensors=_tensors,
    prefix="transformer.",
    tied=("lm_head.weight", "transformer.wte.weight"),
    buffers=(r".*\.attn\.(bias|masked_bias)",),
)
