"""Small models of transformers with random weights, and ours made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

BASE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_NEOX = {key: value for key, value in BASE.items() if key != "num_key_value_heads"}
_GPT2 = {
    "vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
_YARN = {
    "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
_MAMBA = {
    "vocab_size": 64, "hidden_size": 32, "state_size": 5, "num_hidden_layers": 3,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_MAMBA2 = {**_MAMBA, "head_dim": 8, "num_heads": 8, "n_groups": 2, "chunk_size": 8}
_LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", _GPT2),
    "gpt2-untied": ("gpt2", {**_GPT2, "tie_word_embeddings": False, "n_inner": 40}),
    "gpt2-scales": (
        "gpt2",
        {**_GPT2, "scale_attn_by_inverse_layer_idx": True, "activation_function": "relu"},
    ),
    "gpt2-unscaled": ("gpt2", {**_GPT2, "scale_attn_weights": False}),
    "llama": ("llama", BASE),
    "llama-tied": ("llama", {**BASE, "tie_word_embeddings": True, "head_dim": 12}),
    "llama-biases": ("llama", {**BASE, "attention_bias": True, "mlp_bias": True}),
    "llama-llama3": ("llama", {**BASE, "rope_parameters": _LLAMA3}),
    "llama-yarn": ("llama", {**BASE, "rope_parameters": _YARN}),
    "llama-yarn-all": (
        "llama",
        {
            **BASE,
            "rope_parameters": {
                **_YARN, "attention_factor": 1.3, "beta_fast": 9.0, "beta_slow": 0.5,
                "truncate": False,
            },
        },
    ),
    "llama-linear": ("llama", {**BASE, "rope_parameters": _LINEAR}),
    "mistral": ("mistral", {**BASE, "sliding_window": 5}),
    "mistral-full": ("mistral", {**BASE, "sliding_window": None}),
    "mixtral": ("mixtral", {**BASE, "num_local_experts": 4}),
    "mixtral-three": (
        "mixtral",
        {**BASE, "num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 6},
    ),
    "qwen3": ("qwen3", {**BASE, "head_dim": 16}),
    "qwen3-windows": (
        "qwen3",
        {
            **BASE, "head_dim": 16, "use_sliding_window": True, "sliding_window": 5,
            "max_window_layers": 1, "attention_bias": True,
        },
    ),
    "olmo2": ("olmo2", {**BASE, "pad_token_id": 0}),
    "gemma2": ("gemma2", {**BASE, "head_dim": 16, "sliding_window": 5}),
    "gemma2-caps": (
        "gemma2",
        {
            **BASE, "head_dim": 8, "query_pre_attn_scalar": 24, "attn_logit_softcapping": None,
            "final_logit_softcapping": 2.0, "layer_types": ["full_attention"] * 3,
        },
    ),
    "gpt_neox": ("gpt_neox", _NEOX),
    "gpt_neox-serial": (
        "gpt_neox",
        {
            **_NEOX, "use_parallel_residual": False, "attention_bias": False,
            "rope_parameters": {"rope_theta": 50.0, "partial_rotary_factor": 0.5},
        },
    ),
    "qwen2": ("qwen2", BASE),
    "qwen2-windows": (
        "qwen2",
        {
            **BASE, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2,
            "tie_word_embeddings": True,
        },
    ),
    "gemma": ("gemma", {**BASE, "head_dim": 16}),
    "gemma3": (
        "gemma3_text",
        {
            **BASE, "head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 24,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 900.0, "factor": 4.0},
            },
        },
    ),
    "phi": ("phi", BASE),
    "phi-tied": (
        "phi",
        {
            **BASE, "num_key_value_heads": 4, "tie_word_embeddings": True,
            "rope_parameters": {"rope_theta": 50.0, "partial_rotary_factor": 0.25},
        },
    ),
    "gpt_bigcode": ("gpt_bigcode", _GPT2),
    "gpt_bigcode-heads": (
        "gpt_bigcode",
        {
            **_GPT2, "multi_query": False, "n_inner": 40, "scale_attn_weights": False,
            "tie_word_embeddings": False,
        },
    ),
    "mamba": ("mamba", _MAMBA),
    "mamba-untied": (
        "mamba",
        {
            **_MAMBA, "tie_word_embeddings": False, "use_conv_bias": False, "expand": 3,
            "time_step_rank": 5, "conv_kernel": 3,
        },
    ),
    "mamba2": ("mamba2", _MAMBA2),
    "mamba2-tied": (
        "mamba2",
        {
            **_MAMBA2, "use_conv_bias": False, "n_groups": 1, "tie_word_embeddings": True,
            "layer_norm_epsilon": 1e-3,
        },
    ),
}  # fmt: skip
"""(model_type, config) by the name of the test."""


def small_model(name: str, seed: int = 0) -> Any:
    """Of random weights in which every tensor, norms and biases too, has an effect."""
    model_type, values = VARIANTS[name]
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(model_type, **values)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def saved(model: Any, folder: Path, **options: Any) -> str:
    """The path of a folder with the model."""
    model.save_pretrained(folder, **options)
    return str(folder)
