"""Any parts compose: random hybrids of everything registered resolve, build, train and decode."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional as F

from windtunnel.arch import (
    Architecture,
    ArchSpec,
    build,
    cost,
    expand_preset,
    resolve,
    short_form,
    try_resolve,
)
from windtunnel.arch.spec import LayerSpec
from windtunnel.config import annotated_yaml, decode, parse_document
from windtunnel.nn.component import REGISTRIES

D, VOCABULARY, T = 16, 11, 12
CUTS = ((0, 1), (1, 6), (6, 8), (8, 12))
EXAMPLES = {
    kind: [
        example.model_dump(mode="json", exclude_unset=True) | {"type": name}
        for name in registry.names()
        for example in registry._classes[name].examples()
    ]
    for kind, registry in REGISTRIES.items()
}


def one_of(kind: str) -> st.SearchStrategy[Any]:
    return st.sampled_from(EXAMPLES[kind])


@st.composite
def layers(draw: st.DrawFn, residual: Any) -> dict[str, Any]:
    layer: dict[str, Any] = {
        "norm": draw(one_of("norm")),
        "placement": draw(st.sampled_from(["pre", "post", "sandwich", "out", "none"])),
        "mixer": draw(one_of("mixer")),
        "mlp": draw(one_of("mlp")),
        "residual": draw(residual),
        "repeat": draw(st.sampled_from([1, 1, 2])),
    }
    if layer["mixer"]["type"] == "attention" and draw(st.booleans()):
        layer["mixer"] = layer["mixer"] | {"position": draw(one_of("position"))}
    if layer["placement"] != "post" and draw(st.integers(0, 3)) == 0:
        layer |= {"parallel": True, "shared_norm": draw(st.booleans())}
    if layer["repeat"] == 2 and draw(st.booleans()):
        layer["share"] = 2
    if draw(st.integers(0, 5)) == 0:
        layer["depth"] = {"capacity": 0.5}
    return layer


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """What is written for a hybrid of one to three kinds of layers, perhaps as a pattern."""
    residual = one_of("residual")
    if draw(st.booleans()):
        residual = st.just(draw(residual))  # streams must be alike in the whole stack
    stack = draw(st.lists(layers(residual), min_size=1, max_size=3))
    if draw(st.booleans()):
        stack = [{"repeat": 2, "layers": stack}]
    return {
        "vocab_size": VOCABULARY,
        "max_seq_len": 32,
        "d_model": D,
        "embedding": {
            "tie": draw(st.booleans()),
            "scale": draw(st.booleans()),
            "position": draw(one_of("embedding_position")),
        },
        "layers": stack,
        "head": {"norm": draw(one_of("norm")), "softcap": draw(st.sampled_from([None, 5.0]))},
    }


def written(tree: dict[str, Any]) -> ArchSpec:
    """The spec of a tree that went through YAML; parts that exclude each other are drawn anew."""
    document = expand_preset(parse_document(annotated_yaml(tree)), ())
    try:
        spec = ArchSpec.model_validate(document.tree)
    except ValidationError:
        assume(False)
        raise
    _, problems = try_resolve(spec)
    assume(not problems)
    return decode(document, ArchSpec)


def check(tree: dict[str, Any]) -> None:
    architecture = resolve(written(tree))
    check_that_it_can_be_written(architecture)
    model: Any = build(architecture, seed=0)
    assert cost(architecture).total.params == sum(p.numel() for p in model.parameters())
    check_that_it_decodes_and_sees_no_future(build(architecture, seed=0))
    check_that_it_trains(model)


def check_that_it_can_be_written(architecture: Architecture) -> None:
    spec = architecture.to_spec()
    again = decode(parse_document(annotated_yaml(spec)), ArchSpec)
    assert again == spec
    assert resolve(again).digest() == architecture.digest()
    for layer in spec.layers:
        text = short_form(layer)
        if text is not None:
            names = ("norm", "placement", "mixer", "mlp", "residual", "parallel", "shared_norm")
            short = LayerSpec.model_validate(text)
            assert all(getattr(short, n) == getattr(layer, n) for n in names), text


def check_that_it_decodes_and_sees_no_future(model: Any) -> None:
    model = model.double().eval()
    tokens = torch.randint(0, VOCABULARY, (2, T), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % VOCABULARY
    with torch.no_grad():
        whole = model(tokens)
        state = model.initial_state(2)
        pieces = []
        for start, end in CUTS:
            logits, state = model.extend(tokens[:, start:end], state)
            pieces.append(logits)
        torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-8, rtol=1e-6)
        other = model(changed)
    torch.testing.assert_close(other[:, :7], whole[:, :7], atol=1e-9, rtol=1e-9)


def check_that_it_trains(model: Any) -> None:
    tokens = torch.randint(0, VOCABULARY, (2, T), generator=torch.Generator().manual_seed(2))
    model.train()
    losses = []
    for _ in range(2):
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, f"{name} gets no gradient"
            assert bool(parameter.grad.isfinite().all()), f"{name}: not finite"
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 1e-3 * parameter.grad
                parameter.grad = None
        losses.append(loss.item())
    assert all(torch.tensor(losses).isfinite())


@pytest.mark.parametrize("bias", [-1e3, 0.0, 1e3], ids=["none", "some", "all"])
@pytest.mark.parametrize("mixer", EXAMPLES["mixer"], ids=lambda mixer: mixer["type"])
def test_however_many_tokens_a_layer_reads_every_parameter_has_a_gradient(
    mixer: dict[str, Any], bias: float
) -> None:
    layer = {"mixer": mixer, "mlp": "none", "norm": "rmsnorm", "depth": {"capacity": 0.5}}
    tree = {"vocab_size": VOCABULARY, "max_seq_len": 32, "d_model": D, "layers": [layer]}
    model: Any = build(resolve(decode(parse_document(annotated_yaml(tree)), ArchSpec)), seed=0)
    with torch.no_grad():
        model.layers[0].depth.bias.fill_(bias)
    check_that_it_trains(model)


@pytest.mark.parametrize("mixer", EXAMPLES["mixer"], ids=lambda mixer: mixer["type"])
def test_one_token_at_a_time_equals_all_at_once_to_1e_5_in_float32(mixer: dict[str, Any]) -> None:
    layer = {"mixer": mixer, "mlp": "none", "norm": "rmsnorm", "residual": "none"}
    tree = {"vocab_size": VOCABULARY, "max_seq_len": 64, "d_model": D, "layers": [layer]}
    model: Any = build(resolve(decode(parse_document(annotated_yaml(tree)), ArchSpec)), seed=0)
    tokens = torch.randint(0, VOCABULARY, (2, 64), generator=torch.Generator().manual_seed(3))
    model.eval()
    with torch.no_grad():
        whole, state, steps = model.hidden(tokens), model.initial_state(2), []
        for i in range(64):
            hidden, state = model.extend_hidden(tokens[:, i : i + 1], state)
            steps.append(hidden)
    assert whole.dtype == torch.float32
    # No recurrence: a long filter is a sine of sines, whose float32 alone is off by 6e-5 here.
    atol = 1e-4 if mixer["type"] == "long_conv" else 1e-5
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=atol, rtol=1e-5)


LOOSE = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=LOOSE)
@given(specs())
def test_any_parts_compose(tree: dict[str, Any]) -> None:
    check(tree)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, derandomize=True, suppress_health_check=LOOSE)
@given(specs())
def test_any_parts_compose_at_length(tree: dict[str, Any]) -> None:
    check(tree)


@pytest.mark.parametrize("kind", ["mixer", "mlp", "norm", "residual"])
def test_every_component_is_among_the_parts(kind: str) -> None:
    assert {example["type"] for example in EXAMPLES[kind]} == set(REGISTRIES[kind].names())
