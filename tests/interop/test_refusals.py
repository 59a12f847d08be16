"""What one side has and the other has not is refused by name; nothing is dropped in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from small_models import BASE, VARIANTS, saved, small_model

from windtunnel.arch import Architecture, ArchSpec, build, resolve
from windtunnel.errors import UsageError
from windtunnel.interop.hf.export import write_folder
from windtunnel.interop.hf.families import FAMILIES, family_for, family_of
from windtunnel.interop.hf.family import NotExpressible
from windtunnel.interop.hf.load import read_pretrained
from windtunnel.train.checkpoint import kept_tensors


def spec_of(model_type: str, **changes: Any) -> ArchSpec:
    values = {**VARIANTS[model_type][1], **changes}
    config = transformers.AutoConfig.for_model(model_type, **values)
    return family_of(model_type).to_spec(config.to_dict())


def llama(**changes: Any) -> Architecture:
    """A small Llama with one of its four layers, number 2, changed."""
    plain: dict[str, Any] = {"norm": "rmsnorm", "mixer": {"type": "attention", "num_heads": 4}}
    layers = ({**plain, "repeat": 2}, {**plain, **changes}, plain)
    return resolve(
        ArchSpec(d_model=32, vocab_size=64, embedding={"tie": False}, layers=layers)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("model_type", "changes", "told"),
    [
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention: True"),
        ("gpt2", {"activation_function": "tanh"}, "activation_function: 'tanh'"),
        ("llama", {"hidden_act": "sigmoid"}, "hidden_act: 'sigmoid'"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "rope_parameters.rope_type: 'dynamic' cannot be expressed, only default, linear",
        ),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "mscale": 0.7,
                    "mscale_all_dim": 1.0, "original_max_position_embeddings": 16,
                },
            },
            "rope_parameters.mscale: ",
        ),
        ("mixtral", {"num_experts_per_tok": 1}, "num_experts_per_tok: one expert"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention: True"),
        ("gemma2", {"layer_types": ["chunked_attention"] * 3}, "layer_types: "),
        (
            "llama",  # LlamaRotaryEmbedding passes over it and turns whole heads
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "rope_parameters.partial_rotary_factor: 0.5 cannot be expressed: llama turns whole",
        ),
        (
            "gpt_neox",
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.4}},
            "rope_parameters.partial_rotary_factor: turns 3 dimensions",
        ),
    ],
)  # fmt: skip
def test_a_key_that_we_cannot_express_is_named(
    model_type: str, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(NotExpressible) as refusal:
        spec_of(model_type, **changes)
    assert f"{model_type} config: {told}" in str(refusal.value)
    assert refusal.value.exit_code == 2


def test_a_cap_that_gemma_3_has_a_key_for_and_never_uses_is_refused_both_ways() -> None:
    gemma, values = family_of("gemma3_text"), VARIANTS["gemma3"][1]
    capped = transformers.AutoConfig.for_model(
        "gemma3_text", **{**values, "attn_logit_softcapping": 4.0}
    )
    with pytest.raises(NotExpressible, match=r"attn_logit_softcapping: 4\.0: Gemma3"):
        gemma.to_spec(capped.to_dict())
    config = transformers.AutoConfig.for_model("gemma3_text", **values)
    plain = resolve(gemma.to_spec(config.to_dict()))
    layers = tuple(
        layer.replace(mixer=layer.mixer.replace(softcap=4.0))  # type: ignore[call-arg]
        for layer in plain.layers
    )
    with pytest.raises(NotExpressible, match=r"layers\[0\]\.mixer\.softcap: 4\.0 has no"):
        gemma.to_config(plain.replace(layers=layers))


def test_what_transformers_makes_otherwise_of_a_config_is_not_written(tmp_path: Path) -> None:
    """GemmaConfig takes "gelu" for the approximation of it."""
    gemma = resolve(spec_of("gemma"))
    layers = tuple(
        layer.replace(mlp=layer.mlp.replace(activation="gelu"))  # type: ignore[call-arg]
        for layer in gemma.layers
    )
    exact = gemma.replace(layers=layers)
    for architecture, fits in ((gemma, True), (exact, False)):
        out, weights = tmp_path / str(fits), kept_tensors(build(architecture))
        if fits:
            write_folder(out, family_of("gemma"), architecture, weights, None)
            continue
        with pytest.raises(NotExpressible, match="makes gelu_tanh of it") as refusal:
            write_folder(out, family_of("gemma"), architecture, weights, None)
        assert "layers[0].mlp.activation: gelu has no counterpart in gemma" in str(refusal.value)
        assert not out.exists()


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "mixtral", "gpt_neox"])
def test_a_key_that_nobody_looks_at_is_refused(model_type: str) -> None:
    values = transformers.AutoConfig.for_model(model_type, **VARIANTS[model_type][1]).to_dict()
    with pytest.raises(NotExpressible, match="a_new_feature: 3 is not known"):
        family_of(model_type).to_spec({**values, "a_new_feature": 3})


def test_what_acts_in_training_alone_is_told() -> None:
    notes: list[str] = []
    values = {**BASE, "router_jitter_noise": 0.1}
    config = transformers.AutoConfig.for_model("mixtral", **values).to_dict()
    family_of("mixtral").to_spec(config, notes)
    assert notes == ["router_jitter_noise = 0.1 acts in training alone and is left out"]
    notes.clear()
    family_of("llama").to_config(llama().replace(embedding={"tie": False, "dropout": 0.1}), notes)
    assert notes == ["embedding.dropout = 0.1 acts in training alone and is left out"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mixer": {"type": "gla", "num_heads": 4}}, "layers[2].mixer: gla"),
        ({"mixer": "lstm"}, "layers[2].mixer: lstm"),
        ({"mlp": "dense"}, "layers[2].mlp: dense"),
        ({"norm": "layernorm"}, "layers[2].norm: layernorm"),
        ({"residual": "rezero"}, "layers[2].residual: rezero"),
        ({"placement": "post"}, "layers[2].placement: post"),
        ({"parallel": True}, "layers[2].parallel: True"),
        (
            {"mixer": {"type": "attention", "num_heads": 4, "softcap": 5.0}},
            "layers[2].mixer.softcap: 5.0",
        ),
        ({"share_with": 0, "mixer": {"type": "attention", "num_heads": 4}}, "layers[2].share_with"),
    ],
)
def test_a_part_without_a_counterpart_is_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(NotExpressible) as refusal:
        family_of("llama").to_config(llama(**changes))
    assert f"{told}" in str(refusal.value)
    assert "has no counterpart in llama" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_without_any_attention_the_first_layer_is_named() -> None:
    architecture = resolve(ArchSpec(d_model=8, vocab_size=9, layers=({"mixer": "gru"},)))  # type: ignore[arg-type]
    with pytest.raises(NotExpressible, match=r"layers\[0\].mixer: gru has no counterpart in"):
        family_for(architecture)


def test_a_choice_that_the_bias_of_balance_moves_is_no_matter_of_training_alone() -> None:
    moe = {"type": "moe", "num_experts": 4, "expert": {"type": "glu", "d_ff": 8}}
    plain: dict[str, Any] = {"mixer": {"type": "attention", "num_heads": 4}}

    def mixtral(balance: str) -> Architecture:
        layer = {**plain, "mlp": {**moe, "balance": balance}}
        return resolve(
            ArchSpec(d_model=32, vocab_size=64, embedding={"tie": False}, layers=(layer,))  # type: ignore[arg-type]
        )

    assert family_for(mixtral("loss")).model_type == "mixtral"
    with pytest.raises(NotExpressible, match=r"layers\[0\].mlp.balance: loss_free"):
        family_of("mixtral").to_config(mixtral("loss_free"))


def test_windows_in_some_layers_find_the_family_that_has_them() -> None:
    windowed = llama(mixer={"type": "attention", "num_heads": 4, "window": 3})
    with pytest.raises(NotExpressible, match=r"layers\[0\].mixer.window"):
        family_of("mistral").to_config(windowed)
    normed = spec_of("qwen3", use_sliding_window=True, sliding_window=5, max_window_layers=1)
    assert family_for(resolve(normed)).model_type == "qwen3"


@pytest.mark.parametrize("name", VARIANTS)
def test_the_family_of_an_architecture_is_found(name: str) -> None:
    model_type, values = VARIANTS[name]
    config = transformers.AutoConfig.for_model(model_type, **values)
    architecture = resolve(FAMILIES[model_type].to_spec(config.to_dict()))
    found = family_for(architecture).model_type
    # Of two that express the same, the first is found.
    assert found == {"mistral-full": "llama", "gpt_bigcode-heads": "gpt2"}.get(name, model_type)
    assert resolve(family_of(found).to_spec(family_of(found).to_config(architecture))).digest() == (
        architecture.digest()
    )


def test_an_unknown_family_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model_type 'lama' is not known here; did you mean"):
        family_of("lama")
    config = transformers.AutoConfig.for_model("opt", hidden_size=16)
    config.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="model_type 'opt' is not known here"):
        read_pretrained(str(tmp_path))


def test_a_remark_in_a_config_that_their_class_passes_over_is_told(tmp_path: Path) -> None:
    model = small_model("llama")
    model.config.is_llama_config = True
    found = read_pretrained(saved(model, tmp_path / "m"))
    assert "is_llama_config: LlamaConfig does not know it, so it is passed over" in found.notes
