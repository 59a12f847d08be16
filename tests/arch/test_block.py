"""The short form of a layer: another way of writing the same mapping."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.arch import ArchSpec, expand_preset, parse_block, resolve, short_form
from windtunnel.arch.block import BlockError
from windtunnel.arch.spec import LayerSpec
from windtunnel.config import decode, parse_document
from windtunnel.errors import ConfigError

SAME: dict[str, dict[str, Any]] = {
    "norm > attention > + > norm > mlp > +": {},
    "rmsnorm > attention(num_heads=4) > + > rmsnorm > glu > +": {
        "mixer": {"type": "attention", "num_heads": 4}
    },
    "layernorm(eps=1e-5) > lstm > + > layernorm(eps=1e-5) > dense(ratio=8/3, bias=true) > +": {
        "norm": {"type": "layernorm", "eps": 1e-5},
        "mixer": "lstm",
        "mlp": {"type": "dense", "ratio": "8/3", "bias": True},
    },
    "norm > attention(position=rope(theta=1e6), window=8) > +": {
        "mixer": {"window": 8, "position": {"type": "rope", "theta": 1e6}},
        "mlp": "none",
    },
    "attention > + > norm > mlp > + > norm": {"placement": "post"},
    "norm > attention > norm > + > norm > mlp > norm > +": {"placement": "sandwich"},
    "attention > norm > + > mlp > norm > +": {"placement": "out"},
    "attention > + > mlp > +": {"placement": "none", "norm": "none"},
    "norm > attention > rezero > norm > mlp > rezero": {"residual": "rezero"},
    "norm > attention | mlp > +": {"parallel": True, "shared_norm": True},
    "norm > attention | norm > mlp > +": {"parallel": True},
    "norm > attention > norm | mlp > norm > +": {
        "placement": "sandwich", "parallel": True, "shared_norm": True
    },
    "attention | mlp > +": {"placement": "none", "norm": "none", "parallel": True},
    "norm > attention > + > norm > cross(num_heads=2) > + > norm > mlp > +": {
        "cross": {"num_heads": 2}
    },
    "norm > gru > + > norm > moe(num_experts=4, expert=dense(ratio=2)) > +": {
        "mixer": "gru",
        "mlp": {"type": "moe", "num_experts": 4, "expert": {"type": "dense", "ratio": 2}},
    },
    "norm > memory > + > norm > memory > +": {"mixer": "memory", "mlp": "memory"},
    "lstm": {"norm": "none", "placement": "none", "mixer": "lstm", "mlp": "none",
             "residual": "none"},
}  # fmt: skip


@pytest.mark.parametrize("text", SAME)
def test_a_block_means_the_layer_that_its_mapping_means(text: str) -> None:
    layer = LayerSpec.model_validate(text)
    assert layer == LayerSpec.model_validate(SAME[text])
    written = short_form(layer)
    assert written is not None
    assert LayerSpec.model_validate(written) == layer
    assert LayerSpec.model_validate({"block": text, "repeat": 3, "dropout": 0.1}) == layer.replace(
        repeat=3, dropout=0.1
    )


def test_blocks_and_mappings_have_one_digest() -> None:
    short = "d_model: 8\nvocab_size: 9\nlayers:\n  - repeat: 2\n    layers:\n" + (
        "      - norm > attention(num_heads=2) > + > norm > mlp > +\n      - lstm\n"
    )
    long = (
        "d_model: 8\nvocab_size: 9\nlayers: [{mixer: {num_heads: 2}}, &r {norm: none, placement: "
        "none, mixer: lstm, mlp: none, residual: none}, {mixer: {num_heads: 2}}, *r]"
    )
    digests = {
        resolve(decode(expand_preset(parse_document(text), ()), ArchSpec)).digest()
        for text in (short, long)
    }
    assert len(digests) == 1


def test_a_block_is_edited_by_path_as_the_mapping_is() -> None:
    document = expand_preset(parse_document("d_model: 8\nlayers: [norm > attention > +]"), ())
    edited = decode(document.edit("layers[0].mixer.num_heads=4"), ArchSpec)
    assert edited.layers[0].mixer == LayerSpec(mixer={"num_heads": 4}).mixer  # type: ignore[arg-type]
    assert edited.layers[0].mlp.type == "none"


def test_blocks_stand_in_both_stacks_of_an_encoder_decoder() -> None:
    text = (
        "type: encoder_decoder\nd_model: 8\nencoder: {layers: [norm > gru > +]}\n"
        "decoder: {layers: [{repeat: 2, layers: [norm > gru > +, lstm]}]}"
    )
    spec = decode(expand_preset(parse_document(text), ()), ArchSpec)
    assert spec.encoder is not None
    assert spec.decoder is not None
    assert [layer.mixer.type for layer in spec.encoder.layers] == ["gru"]
    assert [layer.mixer.type for layer in spec.decoder.layers] == ["gru", "lstm", "gru", "lstm"]


@pytest.mark.parametrize(
    ("text", "word", "message"),
    [
        ("norm > atention > +", "atention", "did you mean 'attention'?"),
        ("norm -> attention -> +", "-> attention", "expected (key=value, …) or >"),
        ("norm > attention > mlp > +", "mlp", "write + before it, or |"),
        ("norm > + > attention", "+", "nothing before it to add"),
        ("norm > attention > + > layernorm > mlp > +", "layernorm", "a layer has one norm"),
        ("norm > attention > + > norm > mlp > rezero", "rezero", "a layer has one residual"),
        ("mlp > + > attention > +", "mlp", "a layer is a mixer, then"),
        ("attention > + > lstm > +", "lstm", "a layer is a mixer, then"),
        ("attention > + > mlp > + > cross > +", "cross", "comes before the feed-forward"),
        ("attention(num_heads=4 > +", "(", "is never closed"),
        ("attention) > +", ")", "without its opening one"),
        ("attention(4) > +", "4", "expected key=value"),
        ("attention(window=) > +", ") > +", "a value is missing"),
        ("attention(bias=true, bias=true) > +", "bias=true) ", "written twice"),
        ("attention(window=1)(bias=true) > +", "(window", "expected (key=value, …) or >"),
        ("attention > + > norm > mlp > +", "mlp", "a layer has one placement"),
        ("norm > norm > attention", "norm > att", "a norm after a norm"),
        ("norm > attention > + > norm", "norm", "a norm with nothing after it"),
        ("attention > + | mlp > +", "mlp", "has no + of its own"),
        ("norm > attention > +(a=1)", "+(", "it has no keys"),
    ],
)
def test_a_mistake_is_told_at_its_word(text: str, word: str, message: str) -> None:
    with pytest.raises(BlockError) as caught:
        parse_block(text)
    assert message in str(caught.value)
    assert caught.value.offset == (text.rindex if word == "norm" else text.index)(word)


@pytest.mark.parametrize("text", ["", "norm >", "attention > + > mlp", "attention | mlp"])
def test_an_unfinished_block_is_told_at_its_end(text: str) -> None:
    with pytest.raises(BlockError, match="missing") as caught:
        parse_block(text)
    assert caught.value.offset == len(text)


def test_every_mistake_in_a_file_has_the_column_of_its_word() -> None:
    text = """\
layers:
  - norm > atention > +
  - "norm > attention > + > norm > mpl > +"
  - {repeat: 2, layers: ['norm > lstmm > +']}
  - repeat: 3
    block: norm > attention >
  - {block: lstm, norm: rmsnorm}
  - {block: 3}
"""
    with pytest.raises(ConfigError) as caught:
        expand_preset(parse_document(text, "f.yaml"), ())
    assert [(problem.place, problem.path) for problem in caught.value.problems] == [
        ("f.yaml:2:12", "layers[0]"),
        ("f.yaml:3:36", "layers[1]"),
        ("f.yaml:4:34", "layers[2].layers[0]"),
        ("f.yaml:6:30", "layers[3].block"),
        ("f.yaml:7:19", "layers[4].norm"),
        ("f.yaml:8:13", "layers[5].block"),
    ]


def test_a_wrong_key_of_a_part_has_the_column_of_the_key() -> None:
    text = "d_model: 8\nlayers:\n  - norm > attention(num_heds=2) > +\n"
    with pytest.raises(ConfigError) as caught:
        decode(expand_preset(parse_document(text, "f.yaml"), ()), ArchSpec)
    (problem,) = caught.value.problems
    assert problem.place == "f.yaml:3:22"
    assert problem.path == "layers[0].mixer.num_heds"
    assert "did you mean 'num_heads'?" in problem.message


@pytest.mark.parametrize(
    "layer",
    [
        {"placement": "none", "norm": "rmsnorm"},
        {"residual": "none"},
        {"parallel": True, "mlp": "none"},
        {"residual": "none", "mlp": "none", "placement": "post"},
        {"parallel": True, "shared_norm": True, "placement": "out"},
    ],
)
def test_what_the_grammar_cannot_write_has_no_short_form(layer: dict[str, Any]) -> None:
    assert short_form(LayerSpec.model_validate(layer)) is None


parts = st.fixed_dictionaries(
    {
        "norm": st.sampled_from(
            ["rmsnorm", "cosine", {"type": "layernorm", "eps": 1e-5, "bias": False}]
        ),
        "placement": st.sampled_from(["pre", "post", "sandwich", "out"]),
        "mixer": st.sampled_from(
            ["gru", "mamba", {"num_heads": 2, "qk_norm": {"type": "rmsnorm"}, "softcap": 3.5}]
        ),
        "mlp": st.sampled_from(
            ["none", "glu", {"type": "dense", "activation": "silu"}, {"type": "moe", "top_k": 1}]
        ),
        "cross": st.sampled_from([None, {"num_heads": 2}]),
        "residual": st.sampled_from(["add", "rezero", "learned"]),
    }
)


@settings(max_examples=60, deadline=None)
@given(parts, st.booleans(), st.booleans())
def test_the_short_form_of_any_layer_means_that_layer(
    written: dict[str, Any], parallel: bool, shared: bool
) -> None:
    if parallel and written["placement"] != "post":
        written = {**written, "parallel": True, "shared_norm": shared}
    layer = LayerSpec.model_validate(written)
    text = short_form(layer)
    idle = layer.shared_norm and layer.placement == "out"
    if idle or (layer.parallel and (layer.cross is not None or layer.mlp.type == "none")):
        assert text is None
    elif text is not None:
        assert LayerSpec.model_validate(text) == layer
    else:
        pytest.fail(f"no short form: {written}")
