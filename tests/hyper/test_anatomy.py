"""Anatomy: every parameter by its name and shape, or its part named as one that is not known."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hyper.tiny import FAMILIES, member, written

from windtunnel.arch import Architecture, ArchSpec, build, preset_document, preset_names, resolve
from windtunnel.config import decode
from windtunnel.hyper.anatomy import Anatomy, anatomy_of
from windtunnel.spaces.families import family_of

SIZES = st.fixed_dictionaries(
    {
        "d_model": st.sampled_from([2, 6, 8, 12, 24]),
        "n_layer": st.integers(1, 5),
        "n_head": st.sampled_from([1, 2]),
        "ff_ratio": st.integers(1, 5),
        "tie_weights": st.booleans(),
        "vocab_size": st.integers(1, 30),
        "max_seq_len": st.integers(1, 9),
        "p_drop": st.sampled_from([0.0, 0.1]),
    }
)


def built(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    model = build(architecture, device="meta")
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


def told(anatomy: Anatomy) -> dict[str, tuple[int, ...]]:
    found = {slot.name: slot.shape for slot in anatomy.slots}
    assert len(found) == len(anatomy.slots), "a parameter is told twice"
    return found


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(sizes=SIZES)
def test_all_parameters_of_a_family_are_told(family: str, sizes: dict[str, Any]) -> None:
    architecture = member(family, **sizes)
    anatomy = anatomy_of(architecture)
    assert anatomy.unknown == ()
    assert told(anatomy) == built(architecture)
    values = sum(_size(shape) for shape in told(anatomy).values())
    assert values == family_of(family).params(sizes)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_and_names_make_no_difference(family: str) -> None:
    one, other = member(family, p_drop=0.0), member(family, p_drop=0.3)
    assert one.digest() != other.digest()
    assert anatomy_of(one) == anatomy_of(other.named("else"))


def test_twins_have_one_anatomy() -> None:
    assert anatomy_of(member("gpt_encoder")) == anatomy_of(member("mini_gpt"))


def check(architecture: Architecture) -> Anatomy:
    """Whatever is told is right, and what is not told has its part named."""
    anatomy, real = anatomy_of(architecture), built(architecture)
    for name, shape in told(anatomy).items():
        assert real.get(name) == shape, f"{name} is told as {shape}, and is {real.get(name)}"
    if not anatomy.unknown:
        assert told(anatomy) == real
    for slot in anatomy.slots:
        assert len(slot.axes) == len(slot.shape)
        assert slot.shape[-1] % slot.heads == 0 or slot.shape[0] % slot.heads == 0
    return anatomy


@pytest.mark.parametrize("name", preset_names())
def test_no_preset_is_told_wrong(name: str) -> None:
    spec = decode(preset_document(name), ArchSpec)
    layers = [layer.replace(repeat=min(layer.repeat, 2 * layer.share)) for layer in spec.layers]
    shallow = spec.replace(layers=tuple(layers))
    check(resolve(shallow, 11 if spec.vocab_size == "auto" else None))


@pytest.mark.parametrize("name", ["llama", "mistral", "tinyllama-1.1b", "smollm2-135m"])
def test_llamas_are_told_in_full(name: str) -> None:
    architecture = resolve(decode(preset_document(name), ArchSpec), 11)
    anatomy = anatomy_of(architecture)
    assert anatomy.unknown == ()
    assert told(anatomy) == built(architecture)
    roles = {slot.role for slot in anatomy.slots}
    assert {"glu_gate_weight", "glu_up_weight", "glu_down_weight"} <= roles
    assert "up_weight" not in roles, "a gated feed-forward would be written as a plain one"


NOT_IN_FULL: dict[str, tuple[dict[str, Any], str]] = {
    "one norm for parallel branches": (
        {"layers[0].parallel": True, "layers[0].shared_norm": True}, "parallel",
    ),
    "layers that share": ({"layers[0].share": 2}, "share_with"),
    "a router": ({"layers[0].depth": {"capacity": 0.5}}, "depth"),
    "biased maps": (
        {"layers[0].mixer.bias": False, "layers[0].mlp.bias": False, "layers[0].linear": "biased"},
        "linear",
    ),
    "unified maps": ({"layers[0].linear": "unified"}, "linear"),
    "wide heads": ({"layers[0].mixer.head_dim": 6}, "head_dim"),
    "narrow heads": ({"layers[0].mixer.head_dim": 2}, "head_dim"),
    "norms of keys": ({"layers[0].mixer.qk_norm": "rmsnorm"}, "attention"),
    "a learned scale": ({"layers[0].mixer.learned_scale": "head"}, "attention"),
    "a learned bias of distances": ({"layers[0].mixer.position": "relative"}, "attention"),
    "a fused gate": ({"layers[0].mlp": {"type": "glu", "fused": True}}, "fused"),
    "another mixer": ({"layers[0].mixer": "mamba"}, "mamba"),
    "another feed-forward": ({"layers[0].mlp": "moe"}, "moe"),
    "an offset of norms": ({"layers[0].norm": {"type": "rmsnorm", "unit_offset": True}}, "rmsnorm"),
    "another norm": ({"layers[0].norm": "scalenorm"}, "scalenorm"),
    "another residual": ({"layers[0].residual": "rezero"}, "rezero"),
    "several streams": ({"layers[0].residual": "hyper"}, "hyper"),
    "kinds of tokens": ({"embedding.token_types": 2}, "embedding"),
    "a unified embedding": ({"embedding.unified": {}, "embedding.tie": False}, "embedding"),
    "a bias of logits": ({"head.bias": True}, "head"),
    "a transform before the head": ({"head.transform": {}}, "head"),
    "classes": ({"head": {"type": "classification", "num_classes": 3},
                 "embedding.tie": False}, "head"),
    "unit weights": ({"unit_weights": True}, "unit_weights"),
    "another hidden width": ({"layers[0].mixer": {"type": "lstm", "d_hidden": 6}}, "d_hidden"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_IN_FULL)
def test_what_is_not_told_in_full_is_named(case: str) -> None:
    edits, part = NOT_IN_FULL[case]
    anatomy = check(gpt(edits))
    assert part in anatomy.unknown


IN_FULL: dict[str, dict[str, Any]] = {
    "grouped heads": {"layers[0].mixer.num_kv_heads": 2},
    "one bias": {"layers[0].mixer.bias": False, "layers[0].mixer.out_bias": True},
    "norms after": {"layers[0].placement": "post"},
    "norms around": {"layers[0].placement": "sandwich"},
    "norms on the way out": {"layers[0].placement": "out"},
    "no norms": {"layers[0].placement": "none"},
    "norms without weights": {"layers[0].norm": {"type": "layernorm", "affine": False}},
    "no feed-forward": {"layers[0].mlp": "none"},
    "no residual": {"layers[0].residual": "none"},
    "a norm of embeddings": {"embedding.norm": "layernorm"},
    "no learned positions": {"embedding.position": "none"},
    "no head": {"head": {"type": "none"}, "embedding.tie": False},
    "vectors as input": {"input": "embeddings", "embedding.tie": False},
    "a gate with biases": {"layers[0].mlp": {"type": "glu", "bias": True}},
    "a window": {"layers[0].mixer.window": 3, "layers[0].mixer.softcap": 5.0},
}


@pytest.mark.parametrize("case", IN_FULL)
def test_these_are_told_in_full(case: str) -> None:
    anatomy = check(gpt(IN_FULL[case]))
    assert anatomy.unknown == ()


def gpt(edits: dict[str, Any]) -> Architecture:
    arch: dict[str, Any] = {"preset": "mini_gpt", "vocab_size": 11, "max_seq_len": 6, "d_model": 16}
    usual = {"layers[0].repeat": 2, "layers[0].mixer.num_heads": 4}
    return written({**arch, "set": {**usual, **edits}})


def test_the_widest_layer_counts() -> None:
    layer = {"mixer": {"type": "attention", "num_heads": 2}, "mlp": {"type": "dense", "d_ff": 4}}
    wide = {"mixer": {"type": "attention", "num_heads": 4}, "mlp": {"type": "dense", "d_ff": 24}}
    anatomy = anatomy_of(written({"d_model": 8, "layers": [layer, wide]}))
    assert (anatomy.d_ff, anatomy.n_head) == (24, 4)


def test_every_slot_belongs_to_its_operation() -> None:
    anatomy = anatomy_of(member("mini_gpt", n_layer=3))
    for slot in anatomy.slots:
        op = anatomy.ops[slot.op]
        layer = slot.name.split(".")[1] if slot.name.startswith("layers.") else None
        assert str(op.layer) == str(layer)
        assert op.kind in slot.role
