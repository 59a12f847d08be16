"""Llama and what is built like it: Mistral, Mixtral, Qwen 2 and 3, OLMo 2, Gemma 1 to 3.

Each is a :class:`Dialect`: what it has beyond RMSNorm, rotary attention and a gated feed-forward.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from windtunnel.arch import Architecture, ArchSpec
from windtunnel.interop.hf.family import Family, Keys, their_activation
from windtunnel.interop.hf.mapping import TensorMap, one, part
from windtunnel.interop.hf.parts import (
    first_of,
    grouped,
    read_rope,
    read_windows,
    rope_of,
    write_rope,
)
from windtunnel.nn.mixers.attention import AttentionConfig
from windtunnel.nn.mlps.glu import GatedConfig
from windtunnel.nn.mlps.moe import MoEConfig
from windtunnel.nn.norms.rmsnorm import RMSNormConfig

_NORMS = {
    "pre": {"mixer_join.norm": "input_layernorm", "mlp_join.norm": "post_attention_layernorm"},
    "out": {
        "mixer_join.out_norm": "post_attention_layernorm",
        "mlp_join.out_norm": "post_feedforward_layernorm",
    },
    "sandwich": {
        "mixer_join.norm": "input_layernorm",
        "mixer_join.out_norm": "post_attention_layernorm",
        "mlp_join.norm": "pre_feedforward_layernorm",
        "mlp_join.out_norm": "post_feedforward_layernorm",
    },
}
"""Where our norms of each placement stand in theirs."""
_QWEN = ("qwen2", "qwen3")
"""They ask besides whether windows are used."""


@dataclass(frozen=True)
class Dialect:
    """What one model type has."""

    model_type: str
    causal_class: str
    placement: Literal["pre", "out", "sandwich"] = "pre"
    qk_norm: Literal["head", "all_heads"] | None = None
    windows: Literal["none", "all", "layer_types"] = "none"
    attention_bias: bool = False
    """Whether there is a key for it."""
    qkv_bias: bool = False
    """Whether queries, keys and values, but not the output, have biases; there is no key for it."""
    mlp_bias: bool = False
    """Whether there is a key for it."""
    own_head_dim: bool = True
    """Whether the width of a head may differ from that of the stream over the heads."""
    gemma: bool = False
    """Norms of 1 + weight, and embeddings times √d."""
    caps: bool = False
    """Keys for soft-caps and the scale of the logits (Gemma 2 and 3)."""
    attention_cap: bool = True
    """Whether the key for a soft-cap of attention's logits, where there is one, has an effect;
    transformers reads that of Gemma 3 and never uses it."""
    local_rope: bool = False
    """Whether layers with a window have rotary positions of their own (Gemma 3)."""
    experts: bool = False

    @property
    def activation_key(self) -> str:
        return "hidden_activation" if self.caps else "hidden_act"


def _read(dialect: Dialect, keys: Keys) -> ArchSpec:
    if dialect.model_type in _QWEN:
        keys.idle("use_sliding_window", "max_window_layers")  # layer_types is what is used
    keys.idle("pretraining_tp")
    norm: dict[str, Any] = {"type": "rmsnorm", "eps": float(keys("rms_norm_eps"))}
    if dialect.gemma:
        norm["unit_offset"] = True
        keys.must("use_bidirectional_attention", False)
    layer = {
        "norm": norm,
        "placement": dialect.placement,
        "mlp": _read_mlp(dialect, keys),
    }
    mixer = _read_attention(dialect, keys, norm)
    num_layers = keys("num_hidden_layers")
    windows = [None] * num_layers if dialect.windows == "none" else read_windows(keys, num_layers)
    head: dict[str, Any] = {"norm": norm}
    local = None
    if dialect.local_rope:
        keys.idle("_sliding_window_pattern")  # layer_types is what is used
        local = read_rope(keys, mixer["head_dim"], kind="sliding_attention")
    if dialect.caps:
        head["softcap"] = _float(keys("final_logit_softcapping"))
    return ArchSpec.model_validate(
        {
            "name": dialect.model_type,
            "vocab_size": keys("vocab_size"),
            "max_seq_len": keys("max_position_embeddings"),
            "d_model": keys("hidden_size"),
            "embedding": {"tie": keys("tie_word_embeddings", False), "scale": dialect.gemma},
            "layers": grouped([{**layer, "mixer": _seen(mixer, local, w)} for w in windows]),
            "head": head,
        }
    )


def _seen(mixer: dict[str, Any], local: dict[str, Any] | None, window: int | None) -> Any:
    """The mixer of a layer with that window, and with positions of its own where it has some."""
    own = {} if local is None or window is None else {"position": local}
    return {**mixer, "window": window, **own}


def _read_attention(dialect: Dialect, keys: Keys, norm: dict[str, Any]) -> dict[str, Any]:
    heads = keys("num_attention_heads")
    usual = keys("hidden_size") // heads
    head_dim = keys("head_dim", usual) if dialect.own_head_dim else usual
    mixer: dict[str, Any] = {
        "type": "attention",
        "num_heads": heads,
        "num_kv_heads": keys("num_key_value_heads", heads),
        "head_dim": head_dim,
        "position": read_rope(
            keys, head_dim, kind="full_attention" if dialect.local_rope else None
        ),
        "bias": dialect.qkv_bias or bool(dialect.attention_bias and keys("attention_bias", False)),
        "out_bias": False if dialect.qkv_bias else None,
        "dropout": float(keys("attention_dropout", 0.0)),
    }
    if dialect.qk_norm is not None:
        mixer |= {"qk_norm": norm, "qk_norm_over": dialect.qk_norm}
    if dialect.caps:
        cap = mixer["softcap"] = _float(keys("attn_logit_softcapping"))
        if cap is not None and not dialect.attention_cap:
            text = f"{cap}: {dialect.causal_class} has the key and does not use it"
            keys.refuse("attn_logit_softcapping", text)
        mixer["scale"] = float(keys("query_pre_attn_scalar")) ** -0.5
    return mixer


def _read_mlp(dialect: Dialect, keys: Keys) -> dict[str, Any]:
    glu = {
        "type": "glu",
        "d_ff": keys("intermediate_size"),
        "activation": keys.activation(dialect.activation_key),
        "bias": bool(dialect.mlp_bias and keys("mlp_bias", False)),
    }
    if not dialect.experts:
        return glu
    keys.training_only("router_jitter_noise", 0.0)
    keys.training_only("output_router_logits", False)
    keys.idle("router_aux_loss_coef")
    experts, chosen = keys("num_local_experts"), keys("num_experts_per_tok")
    if chosen == 1 < experts:
        keys.refuse("num_experts_per_tok", "one expert, always weighed 1, cannot be expressed")
        chosen = experts
    return {
        "type": "moe", "num_experts": experts, "top_k": chosen, "normalize": chosen > 1,
        "expert": glu,
    }  # fmt: skip


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _write(dialect: Dialect, architecture: Architecture) -> dict[str, Any]:
    name = dialect.model_type
    mixer = first_of(architecture, "mixer", AttentionConfig, name)
    norm = first_of(architecture, "norm", RMSNormConfig, name)
    head_dim = mixer.head_dim or 1
    values: dict[str, Any] = {
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.d_model,
        "num_hidden_layers": len(architecture.layers),
        "num_attention_heads": mixer.num_heads,
        "num_key_value_heads": mixer.num_kv_heads,
        "max_position_embeddings": architecture.max_seq_len,
        "rms_norm_eps": norm.eps,
        "tie_word_embeddings": architecture.embedding.tie,
        "rope_parameters": _write_rope(dialect, architecture, mixer),
        "attention_dropout": mixer.dropout,
        **_write_mlp(dialect, architecture),
    }
    if dialect.own_head_dim:
        values["head_dim"] = head_dim
    if dialect.attention_bias:
        values["attention_bias"] = mixer.bias
    if dialect.caps:
        values["final_logit_softcapping"] = architecture.head.softcap
        values["attn_logit_softcapping"] = mixer.softcap if dialect.attention_cap else None
        values["query_pre_attn_scalar"] = round((mixer.scale or 1.0) ** -2)
    return values | _write_windows(dialect, architecture)


def _write_rope(
    dialect: Dialect, architecture: Architecture, mixer: AttentionConfig
) -> dict[str, Any]:
    if not dialect.local_rope:
        return write_rope(rope_of(mixer), mixer.head_dim or 1)
    kinds: dict[str, Any] = {}
    for layer in architecture.layers:
        if isinstance(layer.mixer, AttentionConfig):
            kind = "full_attention" if layer.mixer.window is None else "sliding_attention"
            kinds.setdefault(kind, write_rope(rope_of(layer.mixer), layer.mixer.head_dim or 1))
    return kinds


def _write_mlp(dialect: Dialect, architecture: Architecture) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if dialect.experts:
        moe = first_of(architecture, "mlp", MoEConfig, dialect.model_type)
        values = {"num_local_experts": moe.num_experts, "num_experts_per_tok": moe.top_k}
        glu = moe.expert if isinstance(moe.expert, GatedConfig) else GatedConfig(d_ff=1)
    else:
        glu = first_of(architecture, "mlp", GatedConfig, dialect.model_type)
    if dialect.mlp_bias:
        values["mlp_bias"] = glu.bias
    activation = their_activation(glu.activation, ("gelu_pytorch_tanh",))
    return {"intermediate_size": glu.d_ff, dialect.activation_key: activation, **values}


def _write_windows(dialect: Dialect, architecture: Architecture) -> dict[str, Any]:
    windows = [getattr(layer.mixer, "window", None) for layer in architecture.layers]
    widest = max((window for window in windows if window is not None), default=None)
    if dialect.windows == "none":
        return {}
    values: dict[str, Any] = {"sliding_window": widest}
    if dialect.windows == "layer_types":
        if widest is None:
            del values["sliding_window"]  # Gemma 2 wants one, used or not
        values["layer_types"] = [
            "full_attention" if window is None else "sliding_attention" for window in windows
        ]
    if dialect.model_type in _QWEN:
        values["use_sliding_window"] = widest is not None
    return values


def _tensors(
    dialect: Dialect, architecture: Architecture, names: Collection[str]
) -> list[TensorMap]:
    maps = [
        one("embedding.weight", "model.embed_tokens.weight"),
        *part(names, "head.norm", "model.norm"),
        *part(names, "head", "lm_head"),
    ]
    for index in range(len(architecture.layers)):
        ours, theirs = f"layers.{index}", f"model.layers.{index}"
        for own, name in _NORMS[dialect.placement].items():
            maps += part(names, f"{ours}.{own}", f"{theirs}.{name}")
        for own, name in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("out", "o_proj")):
            maps += part(names, f"{ours}.mixer.{own}", f"{theirs}.self_attn.{name}")
        for own in ("q_norm", "k_norm"):
            maps += part(names, f"{ours}.mixer.{own}", f"{theirs}.self_attn.{own}")
        maps += _mlp_tensors(names, f"{ours}.mlp", theirs)
    return maps


def _mlp_tensors(names: Collection[str], ours: str, theirs: str) -> list[TensorMap]:
    maps: list[TensorMap] = []
    for own in ("gate", "up", "down"):
        maps += part(names, f"{ours}.{own}", f"{theirs}.mlp.{own}_proj")
    moe = f"{theirs}.block_sparse_moe"
    if f"{ours}.router" in names:
        maps.append(one(f"{ours}.router", f"{moe}.gate.weight"))
    expert = 0
    while f"{ours}.experts.{expert}.down.weight" in names:
        for own, name in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
            maps += part(names, f"{ours}.experts.{expert}.{own}", f"{moe}.experts.{expert}.{name}")
        expert += 1
    return maps


DIALECTS = (
    Dialect("llama", "LlamaForCausalLM", attention_bias=True, mlp_bias=True),
    Dialect("mistral", "MistralForCausalLM", windows="all"),
    Dialect("mixtral", "MixtralForCausalLM", windows="all", experts=True),
    Dialect(
        "qwen3", "Qwen3ForCausalLM", qk_norm="head", windows="layer_types", attention_bias=True
    ),
    Dialect(
        "olmo2", "Olmo2ForCausalLM", placement="out", qk_norm="all_heads", attention_bias=True,
        own_head_dim=False,
    ),
    Dialect(
        "gemma2", "Gemma2ForCausalLM", placement="sandwich", windows="layer_types",
        attention_bias=True, gemma=True, caps=True,
    ),
    Dialect("qwen2", "Qwen2ForCausalLM", qkv_bias=True, windows="layer_types", own_head_dim=False),
    Dialect("gemma", "GemmaForCausalLM", attention_bias=True, gemma=True),
    Dialect(
        "gemma3_text", "Gemma3ForCausalLM", placement="sandwich", windows="layer_types",
        qk_norm="head", attention_bias=True, gemma=True, caps=True, attention_cap=False,
        local_rope=True,
    ),
)  # fmt: skip
FAMILIES = tuple(
    Family(
        model_type=dialect.model_type,
        causal_class=dialect.causal_class,
        read=partial(_read, dialect),
        write=partial(_write, dialect),
        tensors=partial(_tensors, dialect),
        tied=("lm_head.weight", "model.embed_tokens.weight"),
    )
    for dialect in DIALECTS
)
