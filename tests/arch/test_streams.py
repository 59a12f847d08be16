"""Hyper-connections in whole models: at the start the plain network, and the contracts after."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from windtunnel.arch import (
    Architecture,
    ArchSpec,
    Model,
    build,
    cost,
    fold,
    layer_cost,
    resolve,
    scope_of,
)
from windtunnel.errors import ConfigError
from windtunnel.nn.component import Span, reorder
from windtunnel.nn.initialize import keyed_generator
from windtunnel.nn.residuals.manifold_hyper import doubly_stochastic
from windtunnel.nn.streams import gathered, spread

V, D, T = 20, 16, 9
ATTENTION = {"type": "attention", "num_heads": 2}
HYPER = {"type": "hyper"}
STATIC = {"type": "hyper", "streams": 2, "dynamic": False}
MANIFOLD = {"type": "manifold_hyper"}
KINDS = {"hyper": HYPER, "static": STATIC, "manifold": MANIFOLD}
LAYERS: dict[str, dict[str, Any]] = {
    "pre": {"mixer": ATTENTION},
    "post": {"mixer": ATTENTION, "placement": "post"},
    "sandwich": {"mixer": "lstm", "placement": "sandwich", "norm": "layernorm"},
    "out": {"mixer": ATTENTION, "placement": "out"},
    "none": {"mixer": "gru", "placement": "none"},
    "parallel": {"mixer": ATTENTION, "parallel": True},
    "no mlp": {"mixer": "mamba", "mlp": "none"},
    "shared": {"mixer": ATTENTION, "share": 2},
    "depth": {"mixer": ATTENTION, "depth": {"capacity": 0.6}},
}


def architecture(layer: dict[str, Any], residual: Any, **values: Any) -> Architecture:
    layers = ({**layer, "repeat": 4, "residual": residual},)
    return resolve(ArchSpec.model_validate({"d_model": D, "layers": layers, **values}), V)


def double(residual: Any) -> Architecture:
    """An encoder_decoder whose two stacks are as wide."""
    layer = {"repeat": 2, "mixer": ATTENTION, "residual": residual}
    stacks = {"encoder": {"layers": (layer,)}, "decoder": {"layers": (layer,)}}
    return resolve(ArchSpec.model_validate({"type": "encoder_decoder", "d_model": D, **stacks}), V)


def moved(model: Any) -> Any:
    """The model with every parameter off its init, where streams differ."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=keyed_generator(0, "moved", name))
            parameter.add_(0.1 * noise.to(parameter.dtype))
    return model


def built(layer: dict[str, Any], residual: Any, **values: Any) -> Model:
    return moved(build(architecture(layer, residual, **values)).double().eval())


def tokens(t: int = T, seed: int = 0) -> Tensor:
    return torch.randint(V, (2, t), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_at_the_start_it_is_the_plain_network(kind: str, layer: dict[str, Any]) -> None:
    plain = build(architecture(layer, "add"))(tokens())
    found = build(architecture(layer, KINDS[kind]))(tokens())
    if kind == "manifold":
        torch.testing.assert_close(found, plain)
    else:
        assert torch.equal(found, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_start_an_encoder_decoder_and_an_encoder_are_the_plain_ones(kind: str) -> None:
    source = tokens(7, seed=1)
    plain, found = (build(double(r))(source, tokens()) for r in ("add", KINDS[kind]))
    torch.testing.assert_close(found, plain)
    values = {"type": "encoder", "head": {"type": "classification", "num_classes": 3}}
    plain, found = (
        build(architecture(LAYERS["pre"], r, **values))(tokens()) for r in ("add", KINDS[kind])
    )
    torch.testing.assert_close(found, plain)


def test_away_from_the_start_it_is_another_network() -> None:
    plain = built(LAYERS["pre"], "add")(tokens())
    for residual in KINDS.values():
        assert (built(LAYERS["pre"], residual)(tokens()) - plain).abs().max() > 1e-2


@pytest.mark.parametrize("parallel", [False, True])
def test_a_layer_is_what_the_equations_say(parallel: bool) -> None:
    """Static links, written as sums: each branch reads before it is joined."""
    model = built({**LAYERS["pre"], "parallel": parallel}, STATIC)
    layer: Any = model.layers[1]
    x = torch.randn(2, T, 2, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def read(join: Any, x: Tensor) -> Tensor:
        a = join.residual.read_from
        return join.norm(a[0] * x[:, :, 0] + a[1] * x[:, :, 1])

    def joined(join: Any, x: Tensor, y: Tensor) -> Tensor:
        a, b = join.residual.mix, join.residual.write
        first = a[0] * x[:, :, 0] + a[2] * x[:, :, 1] + b[0] * y
        return torch.stack((first, a[1] * x[:, :, 0] + a[3] * x[:, :, 1] + b[1] * y), 2)

    mixed = joined(layer.mixer_join, x, layer.mixer(read(layer.mixer_join, x), Span.of(T)))
    entered = read(layer.mlp_join, x if parallel else mixed)
    torch.testing.assert_close(
        layer(x, Span.of(T)), joined(layer.mlp_join, mixed, layer.mlp(entered))
    )


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("residual", KINDS.values(), ids=KINDS)
def test_the_contracts_of_a_model_hold(residual: Any, layer: dict[str, Any]) -> None:
    """Pieces and a padded batch equal the whole, none sees the future, the cost counts all."""
    model = built(layer, residual)
    whole, state = model(tokens()), model.initial_state(2)
    pieces = []
    for start, end in ((0, 1), (1, 5), (5, T)):
        piece, state = model.extend(tokens()[:, start:end], state)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, 1), whole)
    ids, real = torch.zeros(2, T + 4, dtype=torch.long), torch.zeros(2, T + 4, dtype=torch.bool)
    ids[:, 3:-1], real[:, 3:-1] = tokens(), True
    torch.testing.assert_close(model(ids, real)[:, 3:-1], whole)
    later = tokens()
    later[:, 5] = (later[:, 5] + 1) % V
    if layer is LAYERS["depth"]:  # the tokens read stand in products of other widths
        torch.testing.assert_close(model(later)[:, :5], whole[:, :5], rtol=0, atol=1e-12)
    else:
        assert torch.equal(model(later)[:, :5], whole[:, :5])
    assert (model(later)[:, 5:] - whole[:, 5:]).abs().max() > 1e-3
    assert cost(model.architecture).total.params == sum(p.numel() for p in model.parameters())
    assert resolve(model.architecture.to_spec()) == model.architecture


@pytest.mark.parametrize("residual", KINDS.values(), ids=KINDS)
def test_every_parameter_of_a_model_gets_a_gradient(residual: Any) -> None:
    for make in (lambda r: architecture(LAYERS["pre"], r), double):
        model = moved(build(make(residual)))
        inputs = (tokens(),) if model.architecture.encoder is None else (tokens(seed=1), tokens())
        with torch.enable_grad():
            logits = model(*inputs).flatten(0, 1)
            torch.autograd.backward(F.cross_entropy(logits, tokens().flatten()))
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("residual", KINDS.values(), ids=KINDS)
def test_a_decoder_with_cross_attention_goes_on_from_its_state(residual: Any) -> None:
    model = moved(build(double(residual)).double().eval())
    source, real = tokens(6, seed=1), torch.ones(2, 6, dtype=torch.bool)
    real[1, 4:] = False
    whole = model(source, tokens(), real)
    state = model.initial_state(2, model.encode(source, real), real)
    first, state = model.extend(tokens()[:, :4], state)
    second, _ = model.extend(tokens()[:, 4:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), whole)
    turned = model.extend(tokens()[:, 4:].flip(0), reorder(state, torch.tensor([1, 0])))[0]
    assert turned.shape == second.shape
    assert cost(model.architecture).total.params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("placement", ["pre", "post", "sandwich"])
@pytest.mark.parametrize("residual", KINDS.values(), ids=KINDS)
def test_a_layer_costs_what_is_measured(residual: Any, placement: str) -> None:
    """FLOPs to the number, and what is kept for the backward within a tenth."""
    layer = {"mixer": ATTENTION, "mlp": "dense", "placement": placement}
    model = build(architecture(layer, residual))
    found = layer_cost(model.architecture.layers[0], scope_of(model.architecture), 32)
    module: Any = model.layers[0]
    n = model.streams

    def forward(batch: int) -> Tensor:
        x = torch.randn(batch, 32, n, D, generator=torch.Generator().manual_seed(1))
        y: Tensor = module(x.requires_grad_(), Span.of(32))
        return y

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        forward(1)
    assert found.forward_flops * 32 == counter.get_total_flops()

    def kept(batch: int) -> int:
        sizes: dict[int, int] = {}

        def keep(value: Tensor) -> Tensor:
            storage = value.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            held.append(value)
            return value

        held: list[Tensor] = []
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda v: v):
            held.append(forward(batch))
        return sum(sizes.values())

    measured = (kept(4) - kept(2)) / 4 / 64
    assert found.activation_values == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("layers", "place", "message"),
    [
        (({"residual": HYPER}, {}), "layers[1].residual", "a single stream, but 4 streams in the"),
        (({}, {"residual": MANIFOLD}), "layers[1].residual", "4 streams, but a single stream in"),
        (({"residual": HYPER}, {"residual": STATIC}), "layers[1].residual", "2 streams, but 4"),
    ],
)
def test_layers_of_other_widths_are_named(layers: Any, place: str, message: str) -> None:
    layers = tuple({"mixer": "lstm", **layer} for layer in layers)
    with pytest.raises(ConfigError) as caught:
        resolve(ArchSpec.model_validate({"d_model": D, "layers": layers}), V)
    assert f"arch.{place}: {message}" in str(caught.value)


def test_a_norm_that_branches_share_is_refused() -> None:
    layer = {"mixer": "lstm", "parallel": True, "shared_norm": True}
    with pytest.raises(ValueError, match="each branch reads a mix of the streams"):
        architecture(layer, HYPER)


def test_a_token_goes_around_a_layer_with_all_its_streams() -> None:
    model = built(LAYERS["depth"], HYPER)
    layer: Any = model.layers[0]
    x = torch.randn(2, 12, 4, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mean = x.mean(2)
    rms = mean / mean.square().mean(-1, keepdim=True).sqrt()
    score = rms @ layer.depth.weight + layer.depth.bias
    y = layer(x, Span.of(12))
    whole = built({"mixer": ATTENTION}, HYPER)
    whole.load_state_dict({k: v for k, v in model.state_dict().items() if "depth" not in k})
    for row in range(2):
        read = score[row] > 0
        assert 0 < int(read.sum()) < 12
        assert torch.equal(y[row, ~read], x[row, ~read])
        alone: Any = whole.layers[0]
        own = alone(x[row : row + 1, read], Span.of(int(read.sum())))[0]
        gate = score[row, read].sigmoid()[:, None, None]
        torch.testing.assert_close(y[row, read], x[row, read] + gate * (own - x[row, read]))


def test_kinds_of_links_may_differ_between_layers() -> None:
    layers = [{"mixer": "lstm", "residual": {**r, "streams": 2}} for r in KINDS.values()]
    spec = ArchSpec.model_validate({"d_model": D, "layers": tuple(layers)})
    model = build(resolve(spec, V))
    plain = tuple({"mixer": "lstm"} for _ in layers)
    expected = build(resolve(ArchSpec.model_validate({"d_model": D, "layers": plain}), V))
    torch.testing.assert_close(model(tokens()), expected(tokens()))


def test_branches_begin_to_read_the_streams_in_turn() -> None:
    model: Any = build(architecture(LAYERS["pre"], HYPER))
    joins = [join for layer in model.layers for join in (layer.mixer_join, layer.mlp_join)]
    assert [int(join.residual.read_from.argmax()) for join in joins] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_folding_leaves_the_streams() -> None:
    unified = {"tie": False, "unified": {"factor": 2.0}}
    model = built(LAYERS["pre"], HYPER, embedding=unified)
    plain = fold(model)
    torch.testing.assert_close(plain(tokens()), model(tokens()))
    assert plain.architecture.streams == 4
    assert plain.architecture.embedding.unified is None


@pytest.mark.parametrize("residual", KINDS.values(), ids=KINDS)
def test_the_streams_part_in_training_and_the_loss_falls(residual: Any) -> None:
    model = build(architecture(LAYERS["pre"], residual))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        with torch.enable_grad():
            logits = model(tokens())[:, :-1].flatten(0, 1)
            loss = F.cross_entropy(logits, tokens()[:, 1:].flatten())
            optimizer.zero_grad()
            torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4
    x = spread(model.embedding(tokens(), Span.of(T)), model.streams)
    for layer in model.layers:
        x = layer(x, Span.of(T))
    assert (x - gathered(x, 1)[..., None, :]).abs().max() > 0.1


def test_one_width_is_left_as_it_is() -> None:
    x = torch.randn(2, 3, D)
    assert spread(x, None) is x
    assert gathered(x, None) is x


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.floats(0.1, 1.0), st.integers(0, 99))
def test_a_doubly_stochastic_matrix_has_sums_of_one(n: int, size: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = size * torch.randn(n, n, generator=generator, dtype=torch.float64)
    ones = torch.ones(n, dtype=torch.float64)
    torch.testing.assert_close(doubly_stochastic(logits, 1).sum(1), ones)
    mix = doubly_stochastic(logits, 300)
    assert float(mix.min()) > 0
    torch.testing.assert_close(mix.sum(0), ones)
    torch.testing.assert_close(mix.sum(1), ones)
    torch.testing.assert_close(doubly_stochastic(logits + 1e4, 300), mix)
    assert bool(doubly_stochastic(1e6 * logits, 300).isfinite().all())
