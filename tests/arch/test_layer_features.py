"""Parallel branches and shared parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
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
    preset_document,
    resolve,
    scope_of,
    without_effect,
)
from windtunnel.arch.spec import LayerSpec
from windtunnel.config import decode
from windtunnel.errors import ConfigError
from windtunnel.nn.auxiliary import collect_auxiliary
from windtunnel.nn.component import Span, after_update, has_updates
from windtunnel.nn.contracts.case import tensors
from windtunnel.nn.unit_weights import unit_dimensions


def architecture(*layers: dict[str, Any], **values: Any) -> Architecture:
    spec = ArchSpec.model_validate({"d_model": 16, "layers": layers, **values})
    return resolve(spec, 20)


def built(*layers: dict[str, Any], **values: Any) -> Model:
    return build(architecture(*layers, **values), seed=0).double().eval()


def tokens(t: int = 9) -> Tensor:
    return torch.randint(20, (2, t), generator=torch.Generator().manual_seed(0))


def check_whole_model(model: Model) -> None:
    """Chunks equal the whole, no token sees the future, and the cost counts what is there."""
    whole = model(tokens())
    state = model.initial_state(2)
    first, state = model.extend(tokens()[:, :4], state)
    second, _ = model.extend(tokens()[:, 4:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), whole)
    changed = tokens()
    changed[:, 5] = (changed[:, 5] + 1) % 20
    torch.testing.assert_close(model(changed)[:, :5], whole[:, :5])
    assert cost(model.architecture).total.params == sum(p.numel() for p in model.parameters())
    assert resolve(model.architecture.to_spec()) == model.architecture


ATTENTION = {"type": "attention", "num_heads": 2}
PARALLEL = {"mixer": ATTENTION, "parallel": True}


@pytest.mark.parametrize("shared_norm", [False, True])
@pytest.mark.parametrize("placement", ["pre", "sandwich", "none"])
def test_parallel_branches_read_the_same_stream(placement: str, shared_norm: bool) -> None:
    model = built({**PARALLEL, "shared_norm": shared_norm, "placement": placement})
    layer: Any = model.layers[0]
    x = torch.randn(2, 9, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def norm(join: Any, name: str, value: Tensor) -> Tensor:
        own = getattr(join, name)
        return value if own is None else own(value)

    read = norm(layer.mixer_join, "norm", x)
    other = read if shared_norm else norm(layer.mlp_join, "norm", x)
    mixed = norm(layer.mixer_join, "out_norm", layer.mixer(read, Span.of(9)))
    expected = x + mixed + norm(layer.mlp_join, "out_norm", layer.mlp(other))
    torch.testing.assert_close(layer(x, Span.of(9)), expected)
    check_whole_model(model)


def test_one_norm_less_is_built_where_it_is_shared() -> None:
    two = cost(architecture(PARALLEL)).total.params
    assert two - cost(architecture({**PARALLEL, "shared_norm": True})).total.params == 16
    one = built({**PARALLEL, "shared_norm": True})
    assert not any("mlp_join.norm" in name for name, _ in one.named_parameters())


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"parallel": True, "placement": "post"}, "would norm between the branches"),
        ({"shared_norm": True}, "no effect unless parallel"),
        ({"repeat": 4, "share": 3}, "share 3 does not divide repeat 4"),
        ({"repeat": 2, "share": 2, "share_with": 0}, "share has no effect"),
    ],
)
def test_a_layer_that_makes_no_sense_is_refused(layer: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        architecture({}, {**layer, "mixer": "lstm"})


def test_parallel_branches_need_a_residual() -> None:
    with pytest.raises(ValidationError, match="the mixer's output would be lost"):
        LayerSpec.model_validate({"parallel": True, "residual": "none"})


def test_parallel_without_a_feed_forward_is_told() -> None:
    spec = ArchSpec.model_validate({"d_model": 8, "layers": ({"parallel": True, "mlp": "none"},)})
    assert [path for path, _ in without_effect(spec)] == ["layers[0].parallel"]


def test_layers_that_share_have_one_set_of_parameters_and_a_state_each() -> None:
    shared = built({"mixer": "lstm", "repeat": 4, "share": 2})
    assert [layer.share_with for layer in shared.architecture.layers] == [None, 0, None, 2]
    names = {name.split(".")[1] for name, _ in shared.named_parameters() if "layers" in name}
    assert names == {"0", "2"}
    check_whole_model(shared)
    assert len(shared.initial_state(2).layers) == 4

    apart = built({"mixer": "lstm", "repeat": 4})
    weights = shared.state_dict()
    apart.load_state_dict(weights)
    torch.testing.assert_close(apart(tokens()), shared(tokens()))
    unlike = built({"mixer": "lstm", "repeat": 4})
    assert not torch.allclose(unlike(tokens()), shared(tokens()))
    layers = [p for p in cost(shared.architecture).parts if p.name.startswith("layers")]
    assert [bool(part.cost.params) for part in layers for _ in range(part.times)] == [
        True, False, True, False,
    ]  # fmt: skip


def test_a_pattern_repeats_by_naming_the_layer_whose_parameters_are_used() -> None:
    one, other = {"mixer": "lstm"}, {"mixer": ATTENTION, "mlp": "dense"}
    model = built(one, other, {**one, "share_with": 0}, {**other, "share_with": 1},
                  {**one, "share_with": 2})  # fmt: skip
    assert [layer.share_with for layer in model.architecture.layers] == [None, None, 0, 1, 0]
    check_whole_model(model)


@pytest.mark.parametrize(
    ("index", "message"), [(0, "is configured otherwise"), (3, "no layer 3 before")]
)
def test_what_cannot_be_shared_is_named_by_its_path(index: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        architecture({"mixer": "lstm"}, {"mixer": "gru", "repeat": 2}, {"mixer": "gru",
                     "share_with": index})  # fmt: skip
    assert "arch.layers[2].share_with" in str(caught.value)


def test_the_layer_whose_values_go_into_others_shares_with_none() -> None:
    """Its module could not tell which of its layers it is, and would read its own values."""
    mixer = {"type": "attention", "num_heads": 2, "value_residual": "fixed"}
    with pytest.raises(ConfigError, match="layer 0 is the first of which the values") as caught:
        architecture({"mixer": mixer, "repeat": 3, "share": 3})
    assert "arch.layers[0].mixer.value_residual" in str(caught.value)
    other = {**mixer, "num_kv_heads": 1}
    with pytest.raises(ConfigError, match="layer 1 is the first"):
        architecture({"mixer": mixer}, {"mixer": other}, {"mixer": other, "share_with": 1})


@pytest.mark.parametrize("index", [0, 1])
def test_layers_that_mix_in_first_values_read_all_tokens(index: int) -> None:
    """What a layer with depth reads are other tokens than those of the first layer."""
    mixer = {"type": "attention", "num_heads": 2, "value_residual": "fixed"}
    layers: list[dict[str, Any]] = [{"mixer": mixer} for _ in range(2)]
    layers[index]["depth"] = {"capacity": 0.5}
    with pytest.raises(ConfigError, match="a layer with depth reads some tokens alone") as caught:
        architecture(*layers)
    assert f"arch.layers[{index}].mixer.value_residual" in str(caught.value)


def test_layers_that_share_read_the_values_of_one_before_them() -> None:
    mixer = {"type": "attention", "num_heads": 2, "value_residual": "fixed"}
    shared = built({"mixer": mixer}, {"mixer": mixer, "repeat": 3, "share": 3})
    apart = built({"mixer": mixer, "repeat": 4})
    apart.load_state_dict(shared.state_dict())
    torch.testing.assert_close(shared(tokens()), apart(tokens()))
    check_whole_model(shared)


def test_every_layer_that_shares_adds_to_the_gradient() -> None:
    model = built({"mixer": "lstm", "repeat": 2, "share": 2})
    model(tokens()).square().sum().backward()
    shared = model.get_parameter("layers.0.mixer.weight_hh").grad
    apart = built({"mixer": "lstm", "repeat": 2})
    apart.load_state_dict(model.state_dict())
    apart(tokens()).square().sum().backward()
    grads = [apart.get_parameter(f"layers.{i}.mixer.weight_hh").grad for i in range(2)]
    assert shared is not None
    assert grads[0] is not None
    assert grads[1] is not None
    torch.testing.assert_close(shared, grads[0] + grads[1])


BUCKETS = {**ATTENTION, "scale": 1.0, "position": {"type": "relative", "buckets": 8}}


def test_layers_may_use_the_learned_position_of_the_first() -> None:
    shared = built({"mixer": BUCKETS, "repeat": 3, "share_position": True})
    assert [layer.position_with for layer in shared.architecture.layers] == [None, 0, 0]
    tables = [name for name, _ in shared.named_parameters() if "position" in name]
    assert tables == ["layers.0.mixer.position.weight"]
    with torch.no_grad():
        shared.get_parameter(tables[0]).normal_(generator=torch.Generator().manual_seed(2))
    check_whole_model(shared)

    apart = built({"mixer": BUCKETS, "repeat": 3})
    apart.load_state_dict(shared.state_dict())
    torch.testing.assert_close(apart(tokens()), shared(tokens()))
    for model in (shared, apart):
        model(tokens()).square().sum().backward()
    grads = [apart.get_parameter(f"layers.{i}.mixer.position.weight").grad for i in range(3)]
    summed = sum(grad for grad in grads if grad is not None)
    torch.testing.assert_close(shared.get_parameter(tables[0]).grad, summed)
    torch.testing.assert_close(fold(shared)(tokens()), shared(tokens()))


def test_a_hybrid_names_the_layer_whose_position_is_used() -> None:
    group = {"mixer": BUCKETS, "share": 2, "repeat": 4, "share_position": True}
    model = built({"mixer": "lstm"}, group, {"mixer": BUCKETS, "mlp": "none", "position_with": 3})
    assert [layer.position_with for layer in model.architecture.layers] == [
        None, None, None, 1, 1, 1,
    ]  # fmt: skip
    check_whole_model(model)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"mixer": "lstm", "position_with": 0}, "no learned position"),
        ({"mixer": ATTENTION, "repeat": 2, "share_position": True}, "no learned position"),
        ({"mixer": BUCKETS, "position_with": 1}, "no layer 1 before"),
        ({"mixer": {**BUCKETS, "num_heads": 4}, "position_with": 0}, "or for other heads"),
    ],
)
def test_a_position_that_cannot_be_shared_is_named(layer: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        architecture({"mixer": BUCKETS}, layer)
    assert "arch.layers[1]." in str(caught.value)


def test_a_position_shared_by_one_layer_alone_is_told() -> None:
    values = {"d_model": 16, "layers": ({"mixer": BUCKETS, "share_position": True},)}
    found = [path for path, _ in without_effect(ArchSpec.model_validate(values))]
    assert found == ["layers[0].share_position"]


# mixture of depths


@pytest.mark.parametrize("mixer", ["token_mlp", "long_conv", "short_conv"])
def test_a_chunk_of_which_nothing_is_read_is_one_of_pads(mixer: str) -> None:
    model = built({"mixer": mixer, "depth": {"capacity": 0.5}}).double().eval()
    with torch.no_grad():
        model.layers[0].depth.weight.zero_()
        model.layers[0].depth.bias.fill_(-1.0)  # every token goes around
        whole = model(tokens())
        first, state = model.extend(tokens()[:, :1], model.initial_state(len(tokens())))
        rest, _ = model.extend(tokens()[:, 1:], state)
    torch.testing.assert_close(torch.cat((first, rest), dim=1), whole)


DEPTH = {"mixer": ATTENTION, "depth": {"capacity": 0.5}}


@pytest.mark.parametrize("mixer", ["lstm", ATTENTION, {**ATTENTION, "window": 3}])
@pytest.mark.parametrize("capacity", [0.2, 0.7])
def test_a_layer_of_some_tokens_is_causal_and_cuts_anywhere(mixer: Any, capacity: float) -> None:
    layer = {"mixer": mixer, "depth": {"capacity": capacity}}
    model = built(layer, {"mixer": "lstm"}, layer)
    check_whole_model(model)
    whole, state = model(tokens()), model.initial_state(2)
    for t in range(9):
        step, state = model.extend(tokens()[:, t : t + 1], state)
        torch.testing.assert_close(step, whole[:, t : t + 1])


def test_tokens_around_a_layer_are_as_they_were_and_as_if_absent_to_the_others() -> None:
    model = built(DEPTH)
    layer: Any = model.layers[0]
    x = torch.randn(3, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rms = x / x.square().mean(-1, keepdim=True).sqrt()
    score = rms @ layer.depth.weight + layer.depth.bias
    y = layer(x, Span.of(12))
    plain = built({"mixer": ATTENTION})
    weights = {k: v for k, v in model.state_dict().items() if "depth" not in k}
    plain.load_state_dict(weights)
    for row in range(3):
        read = score[row] > 0
        assert 0 < int(read.sum()) < 12
        torch.testing.assert_close(y[row, ~read], x[row, ~read], rtol=0, atol=0)
        alone: Any = plain.layers[0]
        own = alone(x[row : row + 1, read], Span.of(int(read.sum())))[0]
        gate = score[row, read].sigmoid()[:, None]
        torch.testing.assert_close(y[row, read], x[row, read] + gate * (own - x[row, read]))


def test_a_padded_batch_of_some_tokens_equals_its_rows() -> None:
    model = built(DEPTH, DEPTH)
    ids, real = torch.zeros(2, 12, dtype=torch.long), torch.zeros(2, 12, dtype=torch.bool)
    ids[:, 3:], real[:, 3:] = tokens(), True
    torch.testing.assert_close(model(ids, real)[:, 3:], model(tokens()))


@pytest.mark.parametrize("capacity", [0.2, 0.5])
def test_the_part_of_tokens_that_is_read_is_held_at_the_capacity(capacity: float) -> None:
    model = built({"mixer": "lstm", "depth": {"capacity": capacity}}).train()
    router: Any = model.layers[0].depth
    x = torch.randn(4, 500, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def read() -> float:
        some = router.pick(x, Span.of(500), router.none_seen(4))
        return float(some.seen.sum()) / 2000

    assert read() == pytest.approx(capacity, abs=0.05)
    with torch.no_grad():
        router.bias += 1.0
    assert read() > capacity + 0.15
    optimizer = torch.optim.SGD(router.parameters(), lr=2.0)
    for _ in range(60):
        with collect_auxiliary() as auxiliary:
            router.pick(x, Span.of(500), router.none_seen(4))
        (loss,) = auxiliary.losses
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert read() == pytest.approx(capacity, abs=0.03)


def test_a_layer_of_some_tokens_costs_its_part() -> None:
    """Exactly, where exactly that part is read."""
    model = built(DEPTH).float()
    layer: Any = model.layers[0]
    x = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rms = x / x.square().mean(-1, keepdim=True).sqrt()
        middle = (rms @ layer.depth.weight).sort().values[0, 7:9].mean()
        layer.depth.bias.fill_(-middle)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        _, state = layer.extend(x, layer.initial_state(1), Span.of(16))
    found = layer_cost(model.architecture.layers[0], scope_of(model.architecture), 16)
    assert int(state.seen) == 8
    assert found.forward_flops * 16 == counter.get_total_flops()
    held = state.seen.numel() + sum(part.numel() for part in tensors(state.inner))
    assert found.state_values + 16 * found.state_values_per_token == held


def test_experts_balance_over_the_tokens_that_are_read() -> None:
    moe = {"type": "moe", "num_experts": 4, "balance": "loss_free"}
    model = built({**DEPTH, "mlp": moe, "placement": "none"}).train()
    layer: Any = model.layers[0]
    some = layer.depth.pick(model.embedding(tokens(), Span.of(9)), Span.of(9),
                            layer.depth.none_seen(2))  # fmt: skip
    assert some.span.padded
    model(tokens())
    assert int(layer.mlp.load.sum()) == 2 * int(some.seen.sum())


# the normalized transformer

NGPT = {
    "placement": "pre",
    "norm": {"type": "cosine", "length": 4.0},
    "mixer": {**ATTENTION, "qk_norm": "cosine", "scale": 8**0.5},
    "mlp": {"type": "glu", "ratio": 2.0},
    "residual": {"type": "slerp", "alpha": 0.3},
    "repeat": 2,
}


def lengths(model: Model) -> dict[str, Tensor]:
    """The lengths that nGPT holds at 1, by parameter."""
    found = {}
    for name, value in model.named_parameters():
        if value.ndim == 2:
            writes = name.endswith(("out.weight", "down.weight"))
            found[name] = torch.linalg.vector_norm(value.detach(), dim=0 if writes else 1)
    return found


def test_an_ngpt_stays_on_the_sphere() -> None:
    head = {"norm": {"type": "cosine", "length": 4.0}}
    model = built(NGPT, unit_weights=True, head=head, embedding={"tie": False})
    check_whole_model(model)
    x = model.layers[0](model.embedding(tokens(), Span.of(9)), Span.of(9))
    torch.testing.assert_close(torch.linalg.vector_norm(x, dim=-1), torch.ones_like(x[..., 0]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(8):
        for name, value in lengths(model).items():
            torch.testing.assert_close(value, torch.ones_like(value), msg=name)
        logits = model(tokens())[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, tokens()[:, 1:].flatten())
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        after_update(model, seed=0, step=1)
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize("width", [64, 256])
def test_the_preset_of_ngpt_scales_with_its_width(width: int) -> None:
    """Attention logits and what gates are made of have variance 1, as without the sphere; the
    former lie within ±√head_dim (section 2.3.2)."""
    document = preset_document("ngpt").edit(f"d_model={width}")
    model: Any = build(resolve(decode(document, ArchSpec), 64), seed=0).eval()
    layer, ids = model.layers[0], torch.arange(64)[None]
    head_dim = width // 4
    with torch.no_grad():
        x = model.embedding(ids, Span.of(64))
        read = layer.mixer_join.enter(x)[0]
        q, k, _ = layer.mixer._project(read, Span.of(64))
        logits = q @ k.mT * layer.mixer.config.scale
        gates = layer.mlp.gate(layer.mlp_join.enter(x)[0])
    assert logits.abs().max() <= head_dim**0.5 + 1e-4
    off = ~torch.eye(64, dtype=torch.bool)
    assert float(logits[..., off].std()) == pytest.approx(1.0, rel=0.15)
    assert float(gates.std()) == pytest.approx(1.0, rel=0.1)
    head = model.architecture.head.norm
    assert (head.length, head.scale) == pytest.approx((width**0.5, width**-0.5))


def test_what_no_linear_map_holds_is_left_alone() -> None:
    model = built(NGPT, {"mixer": "lstm"}, unit_weights=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)
    after_update(model, seed=0, step=1)
    for name, value in model.named_parameters():
        untouched = bool((value == 3.0).all())
        assert untouched == (value.ndim < 2 or "mixer.weight_" in name), name


@pytest.mark.parametrize(
    ("mixer", "as_wide", "otherwise"),
    [
        ("long_conv", {"filter_width": 16}, {"filter_width": 12}),
        ("latent_attention", {"rope_dim": 4, "kv_rank": 12}, {"rope_dim": 4, "kv_rank": 10}),
        ("latent_attention", {"q_rank": 16, "kv_rank": 16}, {"q_rank": 9, "kv_rank": 10}),
        ("mamba", {"expand": 1.0}, {"expand": 2.0}),
        ("gla", {"gate_rank": 16}, {"gate_rank": 3}),
    ],
)
def test_a_map_within_a_mixer_is_left_alone_though_as_wide_as_the_stream(
    mixer: str, as_wide: dict[str, Any], otherwise: dict[str, Any]
) -> None:
    heads = {"num_heads": 2} if mixer in ("gla", "latent_attention") else {}
    found = [
        unit_dimensions(
            built({**NGPT, "mixer": {"type": mixer, **heads, **values}}, unit_weights=True), 16
        )
        for values in (as_wide, otherwise)
    ]
    assert found[0] == found[1]
    inner = ("filter", "mixer.k.", "mixer.v.", "x_proj", "dt_proj", "forget_up")
    if mixer != "gla":
        assert not [name for name in found[0] if any(part in name for part in inner)]
    assert found[0].get("layers.0.mixer.down.weight", 1) == 1, "it reads the stream"


def test_weights_are_left_alone_unless_asked() -> None:
    assert not has_updates(built({"mixer": ATTENTION}))
    assert has_updates(built({"mixer": ATTENTION}, unit_weights=True))
