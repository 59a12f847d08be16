"""Encoders, encoder-decoders, decoders with a memory; inputs as vectors; the kinds of heads."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from windtunnel.arch import (
    ArchSpec,
    EncoderDecoder,
    Model,
    build,
    cost,
    example_inputs,
    expand_preset,
    resolve,
    settled,
    train_memory,
    without_effect,
)
from windtunnel.config import decode, parse_document
from windtunnel.errors import ConfigError, UsageError
from windtunnel.nn.component import reorder
from windtunnel.nn.contracts.cost import _measured_flops as measured_flops
from windtunnel.nn.initialize import keyed_generator
from windtunnel.trace.tracing import trace_named

V, D = 40, 16
LAYERS = "[{repeat: 2, mixer: {type: attention, num_heads: 2}, mlp: {type: dense}}]"
ENCODER = f"type: encoder\nvocab_size: {V}\nd_model: {D}\nlayers: {LAYERS}\n"
DOUBLE = f"""
type: encoder_decoder
vocab_size: {V}
d_model: {D}
encoder: {{layers: {LAYERS}}}
decoder:
  layers:
    - {{mixer: {{type: attention, num_heads: 2}}}}
    - {{mixer: lstm, cross: {{num_heads: 4}}}}
"""
OWN_SOURCE = DOUBLE.replace(
    "encoder: {", "encoder: {embedding: {position: sinusoidal}, vocab_size: 30, ", 1
)
CROSSED = f"""
vocab_size: {V}
d_model: {D}
layers: [{{mixer: {{type: attention, num_heads: 2}}, cross: attention}}]
"""
ALL = {"encoder": ENCODER, "double": DOUBLE, "own source": OWN_SOURCE, "crossed": CROSSED}


def spec_of(text: str) -> ArchSpec:
    return decode(parse_document(text), ArchSpec)


def model_of(text: str) -> Any:
    """In float64, its weights moved off their init, so that nothing is hidden by a 0 or a 1."""
    model = build(resolve(spec_of(text)), seed=0).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=keyed_generator(0, "moved", name))
            parameter.add_(0.1 * noise)
    return model


def ids(b: int, t: int, seed: int = 0, below: int = 30) -> Tensor:
    return torch.randint(0, below, (b, t), generator=torch.Generator().manual_seed(seed))


def vectors(b: int, t: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(b, t, D, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_resolving_what_was_resolved_changes_nothing(text: str) -> None:
    spec = spec_of(text)
    architecture = resolve(spec)
    assert resolve(architecture.to_spec()) == architecture
    assert resolve(settled(spec, architecture)) == architecture
    written = architecture.to_spec().model_dump(mode="json")
    assert resolve(ArchSpec.model_validate(_tuples(written))) == architecture
    assert architecture.named("other").digest() == architecture.digest()


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def test_every_part_decides_the_digest() -> None:
    texts = [
        *ALL.values(),
        ENCODER + "input: embeddings",
        DOUBLE.replace("num_heads: 4", "num_heads: 8"),
    ]
    texts += [
        ENCODER + f"head: {head}" for head in ("none", "{type: classification, num_classes: 3}")
    ]
    texts += [DOUBLE.replace("encoder: {", "encoder: {norm: layernorm, ", 1)]
    texts += [DOUBLE.replace("encoder: {", "encoder: {causal: true, ", 1)]
    assert len({resolve(spec_of(text)).digest() for text in texts}) == len(texts)


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_the_cost_counts_the_parameters_that_are_built(text: str) -> None:
    architecture = resolve(spec_of(text))
    built = sum(p.numel() for p in build(architecture, device="meta").parameters())
    assert cost(architecture).total.params == built


HEADS = [
    "none",
    "{transform: {activation: silu}, scale: rsqrt, bias: true}",
    "{type: classification, num_classes: 5, pooling: first, bias: true}",
    "vocabulary",
]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("source", ["tokens", "embeddings"])
def test_the_cost_of_every_input_and_head_is_what_is_measured(source: str, head: str) -> None:
    architecture = resolve(spec_of(ENCODER + f"input: {source}\nhead: {head}"))
    model = build(architecture)
    counted = cost(architecture, 12).total
    assert counted.params == sum(p.numel() for p in model.parameters())
    x = ids(1, 12) if source == "tokens" else vectors(1, 12).float()
    assert measured_flops(lambda: model(x)) == pytest.approx(12 * counted.forward_flops)
    assert counted.decode_flops == counted.state_values_per_token == 0
    assert train_memory(architecture, seq_len=12, batch_size=2).total > 0


@pytest.mark.parametrize("name", ["double", "own source"])
@pytest.mark.parametrize(("t", "s"), [(9, 9), (6, 15)])
def test_the_flops_of_source_and_target_are_what_is_measured(name: str, t: int, s: int) -> None:
    architecture = resolve(spec_of(ALL[name]))
    model = build(architecture)
    counted = cost(architecture, t, source_len=s).total
    found = measured_flops(lambda: model(ids(1, s), ids(1, t)))
    assert found == pytest.approx(t * counted.forward_flops, rel=1e-9)
    state = model.extend(ids(1, t), model.initial_state(1, model.encode(ids(1, s))))[1]
    assert measured_flops(lambda: model.extend(ids(1, 1), state)) == pytest.approx(
        counted.decode_flops,
        rel=0.02,  # one more key than there are tokens before
    )


def test_an_encoder_sees_both_sides_and_a_decoder_the_past_alone() -> None:
    tokens, changed = ids(1, 8), ids(1, 8)
    changed[0, 5] += 1
    encoder, decoder = (
        model_of(ENCODER),
        model_of(ENCODER.replace("type: encoder", "type: decoder")),
    )
    assert (encoder(tokens) - encoder(changed)).abs().amax(2).min() > 1e-6
    difference = (decoder(tokens) - decoder(changed)).abs().amax(2)[0]
    assert difference[:5].max() == 0 < difference[5:].min()


def test_a_target_sees_its_past_and_the_whole_source() -> None:
    model = model_of(DOUBLE)
    source, target = ids(2, 7, 1), ids(2, 6, 2)
    logits = model(source, target)
    assert logits.shape == (2, 6, V)
    later = target.clone()
    later[:, 4:] += 1
    assert torch.equal(model(source, later)[:, :4], logits[:, :4])
    other = source.clone()
    other[:, 6] += 1
    assert (model(other, target) - logits).abs().amax(2).min() > 1e-8


def test_a_causal_encoder_reads_a_source_as_it_comes() -> None:
    model = model_of(DOUBLE.replace("encoder: {", "encoder: {causal: true, ", 1))
    source = ids(1, 7)
    torch.testing.assert_close(model.encode(source)[:, :4], model.encode(source[:, :4]))


@pytest.mark.parametrize("name", ["double", "own source"])
def test_pads_of_source_and_target_change_nothing(name: str) -> None:
    model = model_of(ALL[name])
    source, target = ids(3, 7, 1), ids(3, 6, 2)
    source_real = torch.ones(3, 7, dtype=torch.bool)
    source_real[0, 4:], source_real[1, :2], source_real[2, [1, 3]] = False, False, False
    target_real = torch.ones(3, 6, dtype=torch.bool)
    target_real[0, :2], target_real[1, 4:] = False, False
    logits = model(source, target, source_real, target_real)
    assert bool(logits.isfinite().all())
    for row in range(3):
        alone = model(
            source[row : row + 1, source_real[row]], target[row : row + 1, target_real[row]]
        )
        torch.testing.assert_close(logits[row, target_real[row]], alone[0])


def test_pads_of_an_encoder_change_nothing_whatever_stands_there() -> None:
    model = model_of(ENCODER + "input: embeddings\nhead: none")
    x = vectors(2, 9)
    real = torch.ones(2, 9, dtype=torch.bool)
    real[0, 6:], real[1, [0, 4]] = False, False
    found = model(torch.where(real[..., None], x, 1e4), real)
    for row in range(2):
        torch.testing.assert_close(found[row, real[row]], model(x[row : row + 1, real[row]])[0])


def test_a_row_whose_source_is_all_pads_reads_nothing_and_stays_finite() -> None:
    model = model_of(DOUBLE)
    real = torch.tensor([[True] * 4, [False] * 4])
    logits = model(ids(2, 4), ids(2, 5), real)
    logits.sum().backward()
    assert bool(logits.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("text", [DOUBLE, OWN_SOURCE], ids=["double", "own source"])
def test_decoding_token_by_token_equals_the_whole(text: str) -> None:
    model = model_of(text)
    source, target = ids(3, 7, 1), ids(3, 9, 2)
    source_real = torch.ones(3, 7, dtype=torch.bool)
    source_real[1, 5:] = False
    whole = model(source, target, source_real)
    state = model.initial_state(3, model.encode(source, source_real), source_real)
    parts = []
    for start, end in ((0, 1), (1, 4), (4, 5), (5, 9)):
        logits, state = model.extend(target[:, start:end], state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_rows_of_a_state_may_be_picked_with_their_memory() -> None:
    model = model_of(DOUBLE)
    source, target = ids(2, 7, 1), ids(2, 6, 2)
    _, state = model.extend(target[:, :4], model.initial_state(2, model.encode(source)))
    rows = torch.tensor([1, 0, 1])
    found, _ = model.extend(target[rows, 4:], reorder(state, rows))
    torch.testing.assert_close(found, model(source, target)[rows, 4:])


def test_a_decoder_with_cross_attention_reads_a_memory_that_is_handed_in() -> None:
    model = model_of(CROSSED)
    tokens, memory = ids(2, 5), vectors(2, 4, 1)
    real = torch.tensor([[True] * 4, [True, True, False, False]])
    logits = model(tokens, None, memory, real)
    alone = model(tokens[1:], None, memory[1:, :2])
    torch.testing.assert_close(logits[1:], alone)
    state = model.initial_state(2, memory, real)
    first, state = model.extend(tokens[:, :2], state)
    second, _ = model.extend(tokens[:, 2:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), logits)
    with pytest.raises(UsageError, match="give it a memory"):
        model(tokens)
    plain = model_of(ENCODER.replace("type: encoder", "type: decoder"))
    with pytest.raises(UsageError, match="no layer has cross-attention"):
        plain(tokens, None, memory)


def test_source_and_target_share_an_embedding_unless_told() -> None:
    shared, own = model_of(DOUBLE), model_of(OWN_SOURCE)
    assert isinstance(shared, EncoderDecoder)
    assert not [n for n, _ in shared.named_parameters() if n.startswith("encoder.embedding")]
    assert dict(own.named_parameters())["encoder.embedding.weight"].shape == (30, D)


def test_cross_attention_has_as_many_heads_as_its_mixer_unless_told() -> None:
    spec = spec_of(DOUBLE.replace("mixer: lstm, cross: {num_heads: 4}", "cross: {head_dim: 4}"))
    layers = resolve(spec).layers
    assert [layer.cross and layer.cross.num_heads for layer in layers] == [2, 4]


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_classes_are_read_from_the_real_tokens(pooling: str) -> None:
    head = f"head: {{type: classification, num_classes: 3, pooling: {pooling}}}"
    model = model_of(ENCODER + head)
    tokens = ids(3, 8)
    real = torch.ones(3, 8, dtype=torch.bool)
    real[0, 5:], real[1, :3] = False, False
    found = model(tokens, real)
    assert found.shape == (3, 3)
    for row in range(3):
        picked = tokens[row : row + 1, real[row]]
        torch.testing.assert_close(found[row : row + 1], model(picked))
        hidden = model.hidden(picked)[0]
        vector = {"mean": hidden.mean(0), "first": hidden[0], "last": hidden[-1]}[pooling]
        torch.testing.assert_close(found[row], model.head.weight @ vector)
    nothing = model(tokens, torch.zeros_like(real))
    assert bool(nothing.isfinite().all())


def test_without_a_head_the_normed_stream_comes_out() -> None:
    model = model_of(ENCODER + "head: none")
    tokens = ids(2, 5)
    assert torch.equal(model(tokens), model.hidden(tokens))
    assert [n for n, _ in model.named_parameters() if n.startswith("head")] == ["head.norm.weight"]


def test_vectors_come_in_where_the_spec_says_so_and_need_no_vocabulary() -> None:
    text = f"input: embeddings\nhead: none\nd_model: {D}\nlayers: {LAYERS}\n"
    architecture = resolve(spec_of(text))
    assert architecture.vocab_size == 0
    model = model_of(text)
    x = vectors(2, 6)
    whole = model(x)
    assert whole.shape == (2, 6, D)
    first, state = model.extend(x[:, :2], model.initial_state(2))
    torch.testing.assert_close(torch.cat([first, model.extend(x[:, 2:], state)[0]], 1), whole)


def test_positions_are_added_to_vectors_too() -> None:
    layers = "layers: [{mixer: {type: attention, num_heads: 2, position: none}}]"
    text = f"type: encoder\ninput: embeddings\nhead: none\nd_model: {D}\n{layers}\n"
    x = vectors(1, 1).expand(1, 4, D)
    assert (model_of(text)(x) - model_of(text)(x)[:, :1]).abs().max() < 1e-12
    placed = model_of(text + "embedding: {position: sinusoidal}")(x)
    assert (placed - placed[:, :1])[:, 1:].abs().amax(2).min() > 1e-3


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_every_topology_trains(text: str) -> None:
    model = build(resolve(spec_of(text)), seed=0)
    inputs: tuple[Any, ...] = (ids(4, 6),)
    if isinstance(model, EncoderDecoder):
        inputs = (ids(4, 5, 1), ids(4, 6))
    elif text == CROSSED:
        inputs = (ids(4, 6), None, vectors(4, 3).float())
    targets = ids(4, 6, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(model(*inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_equal_seeds_give_equal_weights_and_the_decoder_is_named_as_a_decoder() -> None:
    one, other = build(resolve(spec_of(DOUBLE)), 3), build(resolve(spec_of(DOUBLE)), 3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    names = [name for name, _ in one.named_parameters()]
    assert "layers.0.cross.k.weight" in names
    assert "layers.0.cross_join.norm.weight" in names
    assert "encoder.layers.1.mixer.q.weight" in names


@pytest.mark.parametrize("text", [*ALL.values(), ENCODER + "input: embeddings"])
def test_example_inputs_are_what_a_model_takes(text: str) -> None:
    architecture = resolve(spec_of(text))
    assert build(architecture)(*example_inputs(architecture, 2, 5)).shape == (2, 5, V)


def test_a_trace_names_the_parts_of_both_stacks() -> None:
    model = build(resolve(spec_of(DOUBLE)))
    traced = trace_named(
        model, lambda b, t: (ids(b, 7), ids(b, t)), batch=2, time_steps=5, dims={"d": D, "V": V}
    )
    paths = {call.path: call for call in traced.root.walk()}
    assert paths[""].output.text() == "(b, t, V)"
    assert paths["encoder"].output.text() == "(b, 7, d)"
    assert paths["layers.1.cross"].output.text() == "(b, t, d)"


def test_an_encoder_has_no_state_and_classes_have_no_next_token() -> None:
    with pytest.raises(UsageError, match="reads whole sequences"):
        model_of(ENCODER).initial_state(1)
    model: Model = model_of(
        ENCODER.replace("type: encoder", "type: decoder")
        + "head: {type: classification, num_classes: 2}"
    )
    with pytest.raises(UsageError, match="whole sequences"):
        model.extend(ids(1, 2), model.initial_state(1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENCODER + f"encoder: {{layers: {LAYERS}}}", "belongs to an encoder_decoder"),
        (DOUBLE + f"layers: {LAYERS}", "under `encoder` and `decoder`"),
        (
            f"type: encoder_decoder\nd_model: 8\ndecoder: {{layers: {LAYERS}}}",
            "`encoder` is required",
        ),
        ("type: encodr\nd_model: 8\nlayers: [{}]", "did you mean 'encoder'?"),
        ("d_model: 8", "layers: needs at least 1"),
        (ENCODER + "head: {type: classification}", "needs num_classes"),
        (
            ENCODER + "head: {num_classes: 3}",
            "num_classes has no effect on a head of type vocabulary",
        ),
        (ENCODER + "head: {type: none, bias: true}", "bias has no effect on a head of type none"),
        (ENCODER + "head: {poling: mean}", "did you mean 'pooling'?"),
        (DOUBLE.replace("encoder: {", "encoder: {vocab_size: 3, ", 1), "shared embedding"),
        (DOUBLE.replace("cross: {num_heads", "cross: {num_hads"), "did you mean 'num_heads'?"),
    ],
)
def test_a_bad_topology_is_a_clear_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec_of(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CROSSED + "\ntype: encoder", "arch.layers[0].cross: an encoder has no memory"),
        (
            DOUBLE.replace("[{repeat: 2,", "[{repeat: 2, cross: {num_heads: 2},", 1),
            "arch.encoder.layers[0].cross: an encoder has no memory",
        ),
        (
            DOUBLE.replace("num_heads: 4", "num_heads: 3"),
            "arch.decoder.layers[1].cross: num_heads 3",
        ),
        (
            DOUBLE.replace("num_heads: 2", "num_heads: 5", 1),
            "arch.encoder.layers[0].mixer: num_heads 5",
        ),
    ],
)
def test_what_does_not_fit_is_named_by_its_stack(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(spec_of(text))
    assert message in str(caught.value)


def test_keys_without_effect_are_told() -> None:
    text = f"input: embeddings\nhead: none\nvocab_size: 9\nd_model: {D}\nlayers: {LAYERS}\n"
    spec = spec_of(text + "embedding: {tie: true, scale: true}")
    assert [path for path, _ in without_effect(spec)] == [
        "embedding.tie", "vocab_size", "embedding.scale",
    ]  # fmt: skip
    assert list(without_effect(spec_of(DOUBLE))) == []
    assert not resolve(spec).embedding.tie
    assert replace(cost(resolve(spec)), parts=()).source_len == 0


def test_the_page_s_blocks_run() -> None:
    page = (Path(__file__).parents[2] / "docs" / "topologies.md").read_text(encoding="utf-8")
    encoder, double, streams = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    (python,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert build(resolve(spec_of(encoder), V))(ids(2, 5)).shape == (2, 5)
    pattern = expand_preset(parse_document(streams), ())
    wide = build(resolve(decode(pattern, ArchSpec), V))
    assert wide(ids(2, 5)).shape == (2, 5, V)
    assert wide.streams == 4
    values: dict[str, Any] = {
        "model": build(resolve(spec_of(double), V)),
        "source": ids(2, 6),
        "source_real": torch.ones(2, 6, dtype=torch.bool),
        "target": ids(2, 3, 1),
    }
    exec(python, values)
    assert values["logits"].shape == (2, 1, V)
