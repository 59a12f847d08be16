"""Architectures: resolving, presets, cost, building, digest, diff."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from windtunnel.arch import (
    ArchSpec,
    Step,
    build,
    cost,
    diff,
    expand_preset,
    preset_document,
    preset_names,
    resolve,
    settled,
    train_memory,
    without_effect,
)
from windtunnel.config import Document, decode, parse_document
from windtunnel.errors import ConfigError, UsageError

VOCABULARY = 300
SMALL = [name for name in preset_names() if "vocab_size" not in preset_document(name).tree]
"""Presets that are not at a published size: those are in test_published."""
LARGE_PARAMS = 20e6
"""A preset beyond that is counted as it is, and built small."""
SMALL_SIZES: dict[str, dict[str, int]] = {
    "mixer": {"num_heads": 4, "num_kv_heads": 2},
    "cross": {"num_heads": 4},
    "mlp": {},
}


def spec_of(text: str) -> ArchSpec:
    tree = expand_preset(parse_document(text, "f.yaml"), ()).tree
    return decode(Document(tree), ArchSpec)


DECODERS = [
    name for name in SMALL if preset_document(name).tree.get("type", "decoder") == "decoder"
]


def tiny(name: str) -> ArchSpec:
    """A preset made small: its kinds of layers, once each, at a small width."""
    tree = preset_document(name).edit("d_model=48").tree
    for stack in ("encoder", "decoder"):
        if stack in tree:
            tree[stack] = {**tree[stack], "layers": small_layers(tree[stack]["layers"])}
    if "layers" in tree:
        tree["layers"] = small_layers(tree["layers"])
    return decode(Document(tree), ArchSpec)


def small_layers(written: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    layers: list[dict[str, Any]] = []
    for full in written:
        layer = {**full, "repeat": 1}
        for part, sizes in SMALL_SIZES.items():
            if isinstance(layer.get(part), dict):
                kept = {k: v for k, v in layer[part].items() if k not in ("d_ff", "head_dim")}
                layer[part] = {k: sizes.get(k, v) for k, v in kept.items()}
        if layer not in layers:
            layers.append(layer)
    return tuple(layers)


@pytest.mark.parametrize("name", SMALL)
def test_a_preset_begins_at_the_loss_of_knowing_nothing(name: str) -> None:
    architecture = resolve(decode(preset_document(name), ArchSpec), VOCABULARY)
    if cost(architecture).total.params > LARGE_PARAMS:
        architecture = resolve(tiny(name).replace(vocab_size=VOCABULARY))
    model = build(architecture, seed=1)
    tokens = torch.randint(0, VOCABULARY, (4, 65), generator=torch.Generator().manual_seed(0))
    source = (tokens.flip(1),) if architecture.type == "encoder_decoder" else ()
    with torch.no_grad():
        logits = model(*source, tokens[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    assert loss == pytest.approx(math.log(VOCABULARY), rel=0.02)


@pytest.mark.parametrize("name", [n for n in SMALL if n not in DECODERS])
def test_cross_attention_has_biases_where_self_attention_has(name: str) -> None:
    architecture = resolve(decode(preset_document(name), ArchSpec), VOCABULARY)
    for layer in architecture.layers:
        if layer.cross is not None:
            assert (layer.cross.bias, layer.cross.out_bias) == (layer.mixer.bias,) * 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SMALL)
def test_the_cost_counts_the_parameters_that_are_built(name: str) -> None:
    architecture = resolve(decode(preset_document(name), ArchSpec), VOCABULARY)
    model = build(architecture, device="meta")
    built = sum(p.numel() for p in model.parameters())
    assert cost(architecture).total.params == built


@pytest.mark.parametrize("name", DECODERS)
def test_a_whole_model_gives_the_same_in_one_piece_in_chunks_and_padded(name: str) -> None:
    model = build(resolve(tiny(name).replace(vocab_size=50)), seed=0).double().eval()
    tokens = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(tokens)
        state = model.initial_state(3)
        pieces = []
        for start, end in ((0, 1), (1, 6), (6, 7), (7, 12)):
            logits, state = model.extend(tokens[:, start:end], state)
            pieces.append(logits)
        torch.testing.assert_close(torch.cat(pieces, 1), whole)
        for pad_left in (0, 2, 5):
            padded = torch.zeros(3, 17, dtype=torch.long)
            real = torch.zeros(3, 17, dtype=torch.bool)
            padded[:, pad_left : pad_left + 12] = tokens
            real[:, pad_left : pad_left + 12] = True
            found = model(padded, real)[:, pad_left : pad_left + 12]
            torch.testing.assert_close(found, whole)


@pytest.mark.parametrize("name", DECODERS)
def test_no_token_sees_the_future(name: str) -> None:
    model = build(resolve(tiny(name).replace(vocab_size=50)), seed=0).eval()
    tokens = torch.randint(0, 50, (1, 20), generator=torch.Generator().manual_seed(2))
    changed = tokens.clone()
    changed[0, 11] = (changed[0, 11] + 1) % 50
    with torch.no_grad():
        difference = (model(tokens) - model(changed)).abs()
    assert difference[0, :11].max() <= 1e-6
    assert difference[0, 11:].max() > 1e-4


def test_equal_names_and_shapes_begin_with_equal_weights() -> None:
    one = build(resolve(spec_of("preset: llama"), VOCABULARY), seed=3)
    other = build(
        resolve(spec_of("preset: llama\nset: {'layers[*].mlp.activation': gelu}"), VOCABULARY), 3
    )
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(one.head.weight, build(one.architecture, seed=4).head.weight)


def test_a_resolved_architecture_written_again_is_the_same() -> None:
    spec = spec_of(
        "d_model: 32\nlayers: [{repeat: 2, mixer: lstm}, {mixer: {type: attention, num_heads: 2}}, "
        "{mixer: lstm}]"
    )
    architecture = resolve(spec, VOCABULARY)
    assert len(architecture.layers) == 4
    again = architecture.to_spec()
    assert [group.repeat for group in again.layers] == [2, 1, 1]
    assert resolve(again) == architecture
    assert resolve(settled(spec, architecture)) == architecture


def test_the_digest_leaves_out_the_name_alone() -> None:
    architecture = resolve(spec_of("preset: gpt2"), VOCABULARY)
    assert architecture.named("other").digest() == architecture.digest()
    wider = resolve(spec_of("preset: gpt2\nd_model: 64"), VOCABULARY)
    assert wider.digest() != architecture.digest()


def test_keys_beside_a_preset_are_laid_over_it_and_set_edits_it() -> None:
    spec = spec_of(
        "preset: llama\nd_model: 64\nembedding: {tie: true}\n"
        "set: {'layers[0].mixer.num_heads': 8, 'layers[0].repeat': 2}"
    )
    assert spec.d_model == 64
    assert spec.embedding.tie
    assert spec.layers[0].mixer.num_heads == 8
    assert spec.layers[0].mixer.num_kv_heads == 2
    assert spec.layers[0].repeat == 2


def test_a_placement_may_stand_in_the_norm() -> None:
    inside = spec_of("d_model: 8\nlayers: [{norm: {type: rmsnorm, placement: post}, mixer: lstm}]")
    beside = spec_of("d_model: 8\nlayers: [{norm: rmsnorm, placement: post, mixer: lstm}]")
    assert inside == beside
    with pytest.raises(ConfigError, match="written twice"):
        spec_of("d_model: 8\nlayers: [{norm: {type: rmsnorm, placement: post}, placement: pre}]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preset: lama", "unknown preset 'lama'; did you mean 'llama'?"),
        ("preset: llama\nset: 3", "expected a mapping"),
        ("preset: llama\nset: {'layers[9].repeat': 1}", "has 1 entries, none at 9"),
        ("d_model: 8\nlayers: []", "needs at least 1, not 0"),
        ("d_model: 8\nlayers: [{repeat: 0}]", "must be ≥ 1, not 0"),
        ("d_model: 8\nlayers: [{placement: prey}]", "did you mean 'pre'?"),
    ],
)
def test_a_bad_architecture_is_a_clear_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec_of(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("d_model: 10\nlayers: [{mixer: {type: attention, num_heads: 3}}]", "does not divide"),
        ("d_model: 8\nlayers: [{}]\nvocab_size: 20", "less than the tokenizer's 300"),
        ("d_model: 8\nlayers: [{repeat: 100000}, {}]", "100,001 layers"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(spec_of(text), VOCABULARY)
    assert message in str(caught.value)


def test_a_large_architecture_is_counted_without_being_built() -> None:
    spec = spec_of(
        "preset: llama\nvocab_size: 128256\nd_model: 8192\nmax_seq_len: 8192\n"
        "set: {'layers[0].repeat': 80, 'layers[0].mixer.num_heads': 64, "
        "'layers[0].mixer.num_kv_heads': 8, 'layers[0].mlp.d_ff': 28672, 'layers[0].mlp.ratio': ~}"
    )
    architecture = resolve(spec)
    assert cost(architecture).total.params == 70_553_706_496  # Llama 3 70B's own count
    step = Step(precision="bfloat16")
    memory = train_memory(architecture, seq_len=8192, batch_size=1, step=step)
    assert sum(memory.terms().values()) == memory.total
    assert memory.total > 70_553_706_496 * 14


def test_a_model_that_no_memory_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "name: huge\nd_model: 1000000000\nlayers: [{mixer: lstm}]"
    with pytest.raises(UsageError, match=r"huge has 1.6e\+19 parameters: no memory holds them"):
        build(resolve(spec_of(text), VOCABULARY), device="meta")

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(torch.nn.Module, "to_empty", full)
    with pytest.raises(UsageError, match="cpu has no memory for them"):
        build(resolve(spec_of(text.replace("1000000000", "8")), VOCABULARY))


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm", "scalenorm"])
def test_an_infinite_eps_is_refused(norm: str) -> None:
    with pytest.raises(ConfigError, match="finite"):
        spec_of(f"d_model: 8\nlayers: [{{mixer: lstm, norm: {{type: {norm}, eps: .inf}}}}]")


def test_diff_names_every_leaf_that_differs() -> None:
    first = resolve(spec_of("preset: llama"), VOCABULARY)
    second = resolve(spec_of("preset: llama\nset: {'layers[*].mlp.activation': gelu}"), VOCABULARY)
    assert [d.path for d in diff(first, second)] == [
        f"layers[{i}].mlp.activation" for i in range(4)
    ]
    assert diff(first, first) == []


def test_a_norm_that_stands_nowhere_is_told() -> None:
    spec = spec_of("d_model: 8\nlayers: [{norm: rmsnorm, placement: none, mixer: lstm}]")
    assert [path for path, _ in without_effect(spec)] == ["layers[0].norm"]


def test_a_shared_norm_that_is_nowhere_is_told() -> None:
    spec = spec_of("d_model: 64\nlayers: [{parallel: true, shared_norm: true, placement: out}]")
    assert [path for path, _ in without_effect(spec)] == ["layers[0].shared_norm"]


layers = st.fixed_dictionaries(
    {
        "norm": st.sampled_from(["layernorm", "rmsnorm", "scalenorm", "cosine", "none"]),
        "placement": st.sampled_from(["pre", "post", "sandwich", "none"]),
        "mixer": st.sampled_from(["lstm", "gru", "rnn"])
        | st.fixed_dictionaries(
            {
                "type": st.just("attention"),
                "num_heads": st.sampled_from([1, 2, 4]),
                "num_kv_heads": st.just(1),
                "head_dim": st.sampled_from([4, 8]),
                "position": st.sampled_from(["rope", "alibi", "none"]),
                "window": st.sampled_from([None, 3]),
                "softcap": st.sampled_from([None, 5.0]),
            }
        ),
        "mlp": st.sampled_from(["glu", "dense", "none"]),
        "residual": st.sampled_from(["add", "rezero", "scaled", "learned"]),
    }
)


@settings(max_examples=15, deadline=None)
@given(st.lists(layers, min_size=1, max_size=3).map(tuple), st.booleans())
def test_any_two_parts_compose(stack: tuple[dict[str, object], ...], tie: bool) -> None:
    spec = ArchSpec.model_validate({"d_model": 16, "embedding": {"tie": tie}, "layers": stack})
    architecture = resolve(spec, 20)
    assert resolve(architecture.to_spec()) == architecture
    model = build(architecture, seed=0)
    assert cost(architecture).total.params == sum(p.numel() for p in model.parameters())
    tokens = torch.randint(0, 20, (2, 9), generator=torch.Generator().manual_seed(0))
    whole = model(tokens)
    F.cross_entropy(whole.flatten(0, 1), tokens.flatten()).backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        state = model.initial_state(2)
        first, state = model.extend(tokens[:, :4], state)
        second, _ = model.extend(tokens[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-4, rtol=1e-4)
