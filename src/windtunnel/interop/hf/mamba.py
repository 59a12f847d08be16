"""Mamba (Gu & Dao 2023, arXiv 2312.00752)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from windtunnel.arch import Architecture, ArchSpec
from windtunnel.interop.hf.family import Family, Keys
from windtunnel.interop.hf.mapping import TensorMap, one, part
from windtunnel.interop.hf.parts import first_of
from windtunnel.nn.mixers.mamba import MambaConfig
from windtunnel.nn.norms.rmsnorm import RMSNormConfig


def _read(keys: Keys) -> ArchSpec:
    keys.must("hidden_act", "silu", "swish")
    keys.idle("time_step_scale", "time_step_init_scheme", "time_step_floor")
    keys.idle("use_mambapy", "use_associative_scan", "rescale_prenorm_residual")
    keys.idle("residual_in_fp32")  # matters to bfloat16 alone
    norm = {"type": "rmsnorm", "eps": keys("layer_norm_epsilon")}
    d, rank = keys("hidden_size"), keys("time_step_rank", "auto")
    inner = int(keys("expand") * d)
    keys.must("intermediate_size", inner)
    mixer = {
        "type": "mamba",
        "d_state": keys("state_size"),
        "d_inner": inner,
        "dt_rank": None if rank == "auto" else rank,
        "conv_size": keys("conv_kernel"),
        "conv_bias": keys("use_conv_bias"),
        "bias": keys("use_bias"),
        "dt_min": keys("time_step_min"),
        "dt_max": keys("time_step_max"),
    }
    layer = {
        "repeat": keys("num_hidden_layers"),
        "norm": norm,
        "mixer": mixer,
        "mlp": "none",
    }
    return ArchSpec.model_validate(
        {
            "name": "mamba",
            "vocab_size": keys("vocab_size"),
            "d_model": d,
            "embedding": {"tie": keys("tie_word_embeddings")},
            "layers": (layer,),
            "head": {"norm": norm},
        }
    )


def _write(architecture: Architecture) -> dict[str, Any]:
    mixer = first_of(architecture, "mixer", MambaConfig, "mamba")
    norm = first_of(architecture, "norm", RMSNormConfig, "mamba")
    return {
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.d_model,
        "num_hidden_layers": len(architecture.layers),
        "expand": max(1, (mixer.d_inner or 0) // architecture.d_model),
        "layer_norm_epsilon": norm.eps,
        "tie_word_embeddings": architecture.embedding.tie,
        "state_size": mixer.d_state,
        "time_step_rank": mixer.dt_rank,
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
        maps.append(one(f"{ours}.mixer.a_log", f"{theirs}.mixer.A_log"))
        maps.append(one(f"{ours}.mixer.skip", f"{theirs}.mixer.D"))
    return maps


_MAPS = {
    "in_proj": "in_proj",
    "conv": "conv1d",
    "x_proj": "x_proj",
    "dt_proj": "dt_proj",
    "out": "out_proj",
}

FAMILY = Family(
    "mamba",
    "MambaForCausalLM",
    _read,
    _write,
    _tensors,
    prefix="backbone.",
    tied=("lm_head.weight", "backbone.embeddings.weight"),
    renamed=((r"^backbone\.embedding\.", "backbone.embeddings."),),
    endless=True,
)
