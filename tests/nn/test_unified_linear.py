"""Unified weights: over every mixer and feed-forward, against a naive reference, and folded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from windtunnel.arch import ArchSpec, Model, build, cost, fold, folded_to_write, resolve
from windtunnel.arch.resolve import try_resolve
from windtunnel.errors import ConfigError
from windtunnel.generate import SamplingConfig, generate
from windtunnel.nn.component import REGISTRIES
from windtunnel.nn.initialize import keyed_generator
from windtunnel.nn.linear import Linear
from windtunnel.nn.unified_linear import LinearConfig, linear_maps
from windtunnel.train.optimizers.config import is_matrix

KINDS: dict[str, Any] = {
    "biased": "biased",
    "direct": "unified",
    "multiply": {"type": "unified", "vectors": "multiply"},
    "add": {"type": "unified", "vectors": "add", "sides": "in"},
    "predicted": {"type": "unified", "kind": "predicted", "d_code": 3, "d_hidden": 5},
    "expanded": {"type": "unified", "kind": "expanded", "factor": 2, "d_hidden": 5, "sides": "out"},
}
MIXERS = [
    pytest.param(config, id=f"{name}-{index}")
    for name in REGISTRIES["mixer"].names()
    for index, config in enumerate(REGISTRIES["mixer"]._classes[name].examples())
]
MLPS = [
    pytest.param(config, id=f"{name}-{index}")
    for name in REGISTRIES["mlp"].names()
    if name != "none"
    for index, config in enumerate(REGISTRIES["mlp"]._classes[name].examples())
]


def spec(linear: Any, *, times: int = 2, **layer: Any) -> ArchSpec:
    own = {"mixer": {"type": "attention", "num_heads": 2}, **layer, "linear": linear}
    return ArchSpec.model_validate({"d_model": 16, "layers": ({**own, "repeat": times},)})


def moved(written: ArchSpec, *, dtype: torch.dtype = torch.float64) -> Model:
    """A model whose weights are all off their init, as training leaves them."""
    model = build(resolve(written, 30), seed=0).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=keyed_generator(0, name))
            parameter.add_(0.2 * noise.to(dtype))
    return model


def tokens(t: int = 9, b: int = 2) -> Tensor:
    return torch.randint(30, (b, t), generator=torch.Generator().manual_seed(0))


def check(model: Model) -> Model:
    """Chunks equal the whole, folding keeps the logits, the cost counts, gradients are there."""
    whole = model(tokens())
    state = model.initial_state(2)
    first, state = model.extend(tokens()[:, :5], state)
    second, _ = model.extend(tokens()[:, 5:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), whole)
    architecture = model.architecture
    assert cost(architecture).total.params == sum(p.numel() for p in model.parameters())
    assert resolve(architecture.to_spec()) == architecture
    folded = fold(model)
    torch.testing.assert_close(folded(tokens()), whole, rtol=1e-9, atol=1e-9)
    assert all(part.unified is None for _, part in linear_maps(folded))
    assert not any("linear_nets" in name for name, _ in folded.named_parameters())
    assert resolve(folded.architecture.to_spec()) == folded.architecture
    assert fold(folded).architecture == folded.architecture
    plain = cost(folded.architecture).total
    assert plain.params == sum(p.numel() for p in folded.parameters())
    return folded


def flops(model: Model, t: int) -> int:
    torch._C._set_mkldnn_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), FlopCounterMode(display=False) as found:
            model(tokens(t, 1))
        return int(found.get_total_flops())
    finally:
        torch._C._set_mkldnn_enabled(True)


def _is_idle(model: Model, path: str) -> bool:
    gradient = model.get_parameter(f"{path}.weight").grad
    return gradient is not None and not bool(gradient.any())


def every_gradient(model: Model) -> None:
    """Each parameter of ``linear`` has one, finite, and 0 only where an expert read no token: there
    the matrix has none either."""
    model.train()
    model(tokens(40, 4)).square().sum().backward()
    for name, parameter in model.named_parameters():
        path, own, _ = name.partition(".unified.")
        if own or "linear_nets" in name:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any() or (".experts." in path and _is_idle(model, path)), name


def is_refused(written: ArchSpec) -> bool:
    """Whether there is nothing to unify: in torch's own cells, as wide as the stream, alone."""
    _, problems = try_resolve(written, 30)
    for _, text in problems:
        assert "no linear map" in text
        assert written.layers[0].mixer.type in ("rnn", "lstm", "gru")
    return bool(problems)


def on_parts(layer: dict[str, Any], kind: str) -> None:
    linear = KINDS[kind]
    if is_refused(spec(linear, times=1, **layer)):
        return
    model = moved(spec(linear, times=1, **layer))
    check(model)
    every_gradient(model)
    small = moved(spec(linear, times=1, **layer), dtype=torch.float32)
    for t in (1, 12):
        expected = cost(small.architecture, t).total.forward_flops * t
        assert flops(small, t) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["direct", "predicted"])
@pytest.mark.parametrize("config", MIXERS)
def test_every_mixer_takes_unified_weights(config: Any, kind: str) -> None:
    on_parts({"mixer": config, "mlp": "none"}, kind)


@pytest.mark.parametrize("kind", ["direct", "expanded"])
@pytest.mark.parametrize("config", MLPS)
def test_every_feed_forward_takes_unified_weights(config: Any, kind: str) -> None:
    on_parts({"mlp": config}, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_on_a_layer(kind: str) -> None:
    on_parts({}, kind)
    plain = build(resolve(spec(None), 30), seed=3)
    model = build(resolve(spec(KINDS[kind]), 30), seed=3)
    assert torch.equal(model(tokens()), plain(tokens())), "it starts as the plain model"
    inits = dict(model.named_parameters())
    assert all(torch.equal(inits[name], value) for name, value in plain.named_parameters())


def test_multiplied_maps_fold_into_the_architecture_without() -> None:
    folded = check(moved(spec(KINDS["multiply"])))
    assert folded.architecture == resolve(spec(None), 30)


@pytest.mark.parametrize("kind", ["direct", "multiply", "add", "predicted", "expanded"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_unified_map_equals_the_naive_one(kind: str, bias: bool) -> None:
    model = moved(spec(KINDS[kind], mlp={"type": "dense", "bias": bias}))
    linear = model.get_submodule("layers.1.mlp.up")
    assert isinstance(linear, Linear)
    config = model.architecture.layers[1].linear
    assert config is not None
    weights = dict(model.named_parameters())
    d_in, d_out = linear.in_features, linear.out_features

    def net(side: str, width: int, code: str) -> Tensor:
        at = f"linear_nets.0.{side}_{width}"
        z = weights[f"layers.1.mlp.up.unified.{code}"]
        h = weights[f"{at}.inner.weight"] @ z + weights[f"{at}.inner.bias"]
        h = h * (1 + torch.erf(h / 2**0.5)) / 2
        return weights[f"{at}.outer.weight"] @ h + weights[f"{at}.outer.bias"]

    def vectors(side: str, width: int) -> tuple[Any, Any]:
        if config.sides not in ("both", side):
            return 1.0, 0.0
        if config.kind == "direct":
            own = f"layers.1.mlp.up.unified.{side}"
            return weights.get(f"{own}_multiply", 1.0), weights.get(f"{own}_add", 0.0)
        read = net(side, width, "code" if config.kind == "predicted" else f"{side}_code")
        return 1 + read[:width], read[width:]

    generator = torch.Generator().manual_seed(5)
    x = torch.randn(3, d_in, generator=generator, dtype=torch.float64, requires_grad=True)
    (mi, ai), (mo, ao) = vectors("in", d_in), vectors("out", d_out)
    rows = [mo * (linear.weight @ (mi * (row + ai))) + ao for row in x]
    expected = torch.stack([row if linear.bias is None else row + linear.bias for row in rows])
    found = linear(x)
    torch.testing.assert_close(found, expected)
    used = [p for n, p in weights.items() if n.startswith("layers.1.mlp.up.")]
    used += [p for n, p in weights.items() if n.startswith("linear_nets.")]
    wanted, probe = [x, *used], torch.randn(found.shape, generator=generator, dtype=torch.float64)
    pairs = zip(
        torch.autograd.grad((found * probe).sum(), wanted, allow_unused=True),
        torch.autograd.grad((expected * probe).sum(), wanted, allow_unused=True),
        strict=True,
    )
    for one, other in pairs:
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_networks_are_shared_by_all_layers_and_vectors_are_not() -> None:
    one, three = (resolve(spec(KINDS["predicted"], times=n), 30) for n in (1, 3))
    nets = [part for part in cost(three).parts if part.name == "linear_nets"]
    assert nets == [part for part in cost(one).parts if part.name == "linear_nets"]
    model = moved(spec(KINDS["predicted"], times=3))
    for name, part in linear_maps(model.layers):
        assert part.unified is not None, name
    shared = spec(KINDS["predicted"], share=2)
    check(moved(shared))


def test_an_encoder_decoder_folds_on_both_sides() -> None:
    layer = {"mixer": {"type": "attention", "num_heads": 2}, "linear": KINDS["predicted"]}
    written = ArchSpec.model_validate({
        "type": "encoder_decoder", "d_model": 16,
        "encoder": {"layers": (layer,)}, "decoder": {"layers": (layer,)},
    })  # fmt: skip
    model: Any = moved(written)
    assert cost(model.architecture).total.params == sum(p.numel() for p in model.parameters())
    folded: Any = fold(model)
    torch.testing.assert_close(folded(tokens(), tokens(5)), model(tokens(), tokens(5)))
    assert all(part.unified is None for _, part in linear_maps(folded))
    small: Any = moved(written, dtype=torch.float32)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as found, torch.no_grad():
        small(tokens(7, 1), tokens(5, 1))
    expected = cost(small.architecture, 5, source_len=7).total.forward_flops * 5
    assert found.get_total_flops() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_counts_the_vectors_that_each_token_pays(kind: str) -> None:
    cross = {"type": "attention", "num_heads": 2}
    model = moved(spec(KINDS[kind], cross=cross), dtype=torch.float32)
    memory = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(0))
    state = model.initial_state(1, memory)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        _, state = model.extend(tokens(8, 1), state)
        with FlopCounterMode(display=False) as found:
            model.extend(tokens(1, 1), state)
    expected = cost(model.architecture, 8, source_len=6).total.decode_flops
    assert found.get_total_flops() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("other", "value"),
    [("kind", "predicted"), ("kind", "expanded"), ("sides", "in"), ("sides", "out"),
     ("vectors", "multiply"), ("vectors", "add")],
)  # fmt: skip
def test_a_knob_changes_what_is_built(other: str, value: str) -> None:
    def shapes(linear: Any) -> dict[str, torch.Size]:
        model = build(resolve(spec(linear), 30), device="meta")
        return {name: parameter.shape for name, parameter in model.named_parameters()}

    assert shapes({"type": "unified", other: value}) != shapes("unified")
    if other == "kind":
        width = "d_code" if value == "predicted" else "factor"
        for knob in (width, "d_hidden"):
            own = {"type": "unified", "kind": value}
            assert shapes({**own, knob: 3}) != shapes(own)


@pytest.mark.parametrize(
    ("linear", "message"),
    [
        ({"type": "biased", "sides": "in"}, "sides has no effect: it is for unified"),
        ({"type": "unified", "d_code": 3}, "d_code has no effect: it is for predicted"),
        ({"type": "unified", "kind": "predicted", "factor": 3}, "factor has no effect"),
        ({"type": "unified", "d_hidden": 3}, "d_hidden has no effect"),
    ],
)
def test_what_has_no_effect_is_refused(linear: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearConfig.model_validate(linear)


def test_a_layer_without_linear_maps_and_a_sphere_refuse_it() -> None:
    with pytest.raises(ConfigError, match=r"layers\[0\].linear.*no linear map"):
        resolve(spec("unified", mixer="rnn", mlp="none"), 30)
    with pytest.raises(ConfigError, match="off the sphere"):
        resolve(spec("unified").replace(unit_weights=True), 30)


def test_unwritten_it_is_in_no_dump() -> None:
    assert "linear" not in str(resolve(spec(None), 30).model_dump(mode="json")["layers"][0].keys())


def test_weight_decay_spares_vectors_and_codes() -> None:
    for kind in ("direct", "predicted", "expanded"):
        model = build(resolve(spec(KINDS[kind]), 30), device="meta")
        for name, parameter in model.named_parameters():
            decays = is_matrix(name, tuple(parameter.shape))
            if ".unified." in name:
                assert not decays, name
            if "linear_nets" in name:
                assert decays == name.endswith("weight"), name


def test_texts_are_made_with_the_folded_model() -> None:
    model = moved(spec("unified"))
    written = folded_to_write(model)
    assert all(part.unified is None for _, part in linear_maps(written))
    torch.testing.assert_close(written(tokens()), model(tokens()), rtol=1e-9, atol=1e-9)
    prompts, greedy = [[1, 2, 3], [4]], SamplingConfig(temperature=0.0)
    found = [
        generate(each, prompts, max_new_tokens=8, sampling=greedy) for each in (model, written)
    ]
    assert found[0] == found[1]
    assert folded_to_write(written) is written
