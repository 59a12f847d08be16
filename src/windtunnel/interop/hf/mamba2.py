"""Mamba-2 (Dao & Gu 2024, arXiv 2405.21060)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from windtunnel.arch import Architecture, ArchSpec
from windtunnel.interop.hf.family import Family, Keys
from windtunnel.interop.hf.mapping import TensorMap, one, part
from windtunnel.interop.hf.parts import first_of
from windtunnel.nn.mixers.mamba2 import Mamba2Config
from windtunnel.nn.norms.rmsnorm import RMSNormConfig


def _read(keys: Keys) -> ArchSpec:
    keys.must("hidden_act", "silu", "swish")
    keys.idle("time_step_floor", "time_step_rank", "rescale_prenorm_residual")
    keys.idle("residual_in_fp32")  # matters to bfloat16 alone
    limit = keys("time_step_limit")
    if limit is not None and [float(value) for value in limit] != [0.0, float("inf")]:
        keys.refuse("time_step_limit", f"{limit} cannot be expressed, only [0, inf]")
    d, head_dim = keys("hidden_size"), keys("head_dim")
    inner = int(keys("expand") * d)
    keys.must("num_heads", inner // head_dim)
    eps = keys("layer_norm_epsilon")
    mixer = {
        "type": "mamba2",
        "d_state": keys("state_size"),
        "d_inner": inner,
        "head_dim": head_dim,
        "num_groups": keys("n_groups"),
        "chunk_size": keys("chunk_size"),
        "conv_size": keys("conv_kernel"),
        "conv_bias": keys("use_conv_bias"),
        "bias": keys("use_bias"),
        "eps": eps,
        "dt_min": keys("time_step_min"),
        "dt_max": keys("time_step_max"),
    }
    norm = {"type": "rmsnorm", "eps": eps}
    layer = {"norm": norm, "mixer": mixer, "mlp": "none", "repeat": keys("num_hidden_layers")}
    return ArchSpec.model_validate(
        {
            "name": "mamba2",
            "vocab_size": keys("vocab_size"),
            "d_model": d,
            "embedding": {"tie": keys("tie_word_embeddings")},
            "layers": (layer,),
            "head": {"norm": norm},
        }
    )


def _write(architecture: Architecture) -> dict[str, Any]:
    mixer = first_of(architecture, "mixer", Mamba2Config, "mamba2")
    norm = first_of(architecture, "norm", RMSNormConfig, "mamba2")
    expand = max(1, (mixer.d_inner or 0) // architecture.d_model)
    head_dim = mixer.head_dim or 1
    return {
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.d_model,
        "num_hidden_layers": len(architecture.layers),
        "expand": expand,
        "head_dim": head_dim,
        "num_heads": expand * architecture.d_model // head_dim,
        "layer_norm_epsilon": norm.eps,
        "tie_word_embeddings": architecture.embedding.tie,
        "state_size": mixer.d_state,
        "n_groups": mixer.num_groups,
        "chunk_size": mixer.chunk_size,
        "conv_kernel": mixer.conv_size,
        "use_conv_bias": mixer.conv_bias,
        "use_bias": mixer.bias,
        "time_step_min": mixer.dt_min,
        "time_step_max": mixer.dt_max,
    }


def _tensors(architecture: Architecture, names: Collection[str]) -> list[TensorMap]:
    maps = [
        one("embedding.weight", "backbone.embeddings.weight"),
        *part(names, "head.norm", "backbone.norm_f"),
    ]
    if not architecture.embedding.tie:
        maps.append(one("head.weight", "lm_head.weight"))
    for index in range(len(architecture.layers)):
        ours, theirs = f"layers.{index}", f"backbone.layers.{index}"
        maps += part(names, f"{ours}.mixer_join.norm", f"{theirs}.norm")
        for name, their_name in _MAPS.items():
            maps += part(names, f"{ours}.mixer.{name}", f"{theirs}.mixer.{their_name}")
        for name, their_name in _VECTORS.items():
            maps.append(one(f"{ours}.mixer.{name}", f"{theirs}.mixer.{their_name}"))
    return maps


_MAPS = {"in_proj": "in_proj", "conv": "conv1d", "out": "out_proj"}
_VECTORS = {"dt_bias": "dt_bias", "a_log": "A_log", "skip": "D", "norm_weight": "norm.weight"}

FAMILY = Family(
    "mamba2",
    "Mamba2ForCausalLM",
    _read,
    _write,
    _tensors,
    prefix="backbone.",
    tied=("lm_head.weight", "backbone.embeddings.weight"),
    renamed=((r"^backbone\.embedding\.", "backbone.embeddings."),),
    endless=True,
)
