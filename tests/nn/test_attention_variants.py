from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from windtunnel.arch import ArchSpec, build, resolve
from windtunnel.errors import UsageError
from windtunnel.nn.component import REGISTRIES, Mixer, Scope, Span, build_component
from windtunnel.nn.initialize import initialize
from windtunnel.nn.mixers.attention import Attention
from windtunnel.nn.mixers.latent_attention import LatentAttention
from windtunnel.nn.ops.attention import visible
from windtunnel.nn.ops.long_convolution import long_convolution
from windtunnel.nn.positions.relative import RelativeConfig, bucket_starts

SCOPE = Scope(d_model=16)
NEW: dict[str, dict[str, Any]] = {
    "attention": {"num_heads": 2, "window": 3, "global_tokens": 2},
    "differential_attention": {"num_heads": 2},
    "latent_attention": {"num_heads": 2},
    "memory": {"num_slots": 4},
    "short_conv": {},
    "long_conv": {"filter_width": 8},
    "token_mlp": {},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _build(name: str, scope: Scope = SCOPE, dtype: Any = torch.float32, **values: Any) -> Any:
    cls = REGISTRIES["mixer"].config_class(name)
    assert cls is not None
    module = build_component("mixer", cls.model_validate(values).resolve(scope), scope)
    initialize(module, 0)
    return module.to(dtype).eval()


def _random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _in_chunks(module: Mixer[Any], x: Tensor, cuts: list[int]) -> Tensor:
    state, parts = module.initial_state(len(x)), []
    for start, end in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        y, state = module.extend(x[:, start:end], state, Span.of(end - start, start=start))
        parts.append(y)
    return torch.cat(parts, dim=1)


# masks

PATTERNS: list[dict[str, Any]] = [
    {"window": None},
    {"window": 4},
    {"window": 3, "dilation": 2},
    {"window": 2, "stride": 4},
    {"window": 1, "stride": 3},
    {"window": 2, "global_tokens": 3},
    {"window": 2, "dilation": 3, "stride": 5, "global_tokens": 1},
]


def _dense_mask(t: int, causal: bool, **pattern: Any) -> Tensor:
    """From the words of the config, one pair at a time."""
    window, dilation = pattern["window"], pattern.get("dilation", 1)
    stride, first = pattern.get("stride"), pattern.get("global_tokens", 0)
    mask = torch.zeros(t, t, dtype=torch.bool)
    for i in range(t):
        for j in range(t):
            far = abs(i - j)
            sees = window is None or far in [dilation * n for n in range(window)]
            sees = sees or (stride is not None and far in range(0, t, stride))
            sees = sees or i in range(first) or j in range(first)
            mask[i, j] = sees and (not causal or j <= i)
    return mask


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_a_mask_equals_the_dense_one(pattern: dict[str, Any], causal: bool) -> None:
    positions = torch.arange(13)[None]
    found = visible(positions, positions, causal=causal, **pattern)[0, 0]
    assert torch.equal(found, _dense_mask(13, causal, **pattern))


@pytest.mark.parametrize("t", [13, 240])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_attention_equals_a_softmax_under_the_dense_mask(pattern: dict[str, Any], t: int) -> None:
    module = _build("attention", num_heads=2, position="none", dtype=torch.float64, **pattern)
    x = _random(2, t, 16).double()
    q, k, v = (getattr(module, name)(x).view(2, t, 2, 8).transpose(1, 2) for name in "qkv")
    logits = q @ k.transpose(2, 3) / 8**0.5
    hidden = ~_dense_mask(t, True, **pattern)
    read = logits.masked_fill(hidden, float("-inf")).softmax(-1) @ v
    expected = module.out(read.transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x, Span.of(t)), expected, rtol=1e-9, atol=1e-10)
    cuts = [1, 2, 5, 12] if t == 13 else [7, 200]
    torch.testing.assert_close(_in_chunks(module, x, cuts), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("attention", {"position": {"type": "relative", "mode": "add", "max_distance": 2}}),
        ("attention", {"position": {"type": "relative", "mode": "multiply"}, "dilation": 2}),
        ("attention", {"num_kv_heads": 1, "position": "alibi", "dilation": 2}),
        ("differential_attention", {"num_kv_heads": 1, "position": "alibi"}),
        ("differential_attention", {"position": {"type": "relative", "mode": "multiply"}}),
    ],
)
def test_a_band_equals_the_square(name: str, values: dict[str, Any]) -> None:
    module = _build(name, num_heads=2, window=3, dtype=torch.float64, **values)
    assert module.config.executed_keys(240) < 240
    with torch.no_grad():
        for weight in module.position.parameters():
            weight.add_(_random(*weight.shape))
    x = _random(2, 240, 16).double()
    as_padded = Span(torch.arange(240)[None], padded=True)
    weights = list(module.parameters())
    y, square = module(x, Span.of(240)), module(x, as_padded)
    torch.testing.assert_close(y, square, rtol=1e-10, atol=1e-11)
    grads = [torch.autograd.grad(z.square().sum(), weights) for z in (y, square)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ({"window": 3, "global_tokens": 2}, [0, 1, 9, 10]),
        ({"window": 3, "dilation": 2}, [7, 8, 9, 10]),
        ({"window": 1, "global_tokens": 1}, [0]),
        ({"window": 2, "stride": 5}, list(range(11))),
    ],
)
def test_a_state_keeps_what_can_still_be_seen(pattern: dict[str, Any], kept: list[int]) -> None:
    module = _build("attention", num_heads=2, **pattern)
    x = _random(2, 11, 16)
    state = module.extend(x, module.initial_state(2), Span.of(11))[1]
    assert state.positions.tolist() == [kept] * 2
    cost = module.config.cost(SCOPE, 11)
    numbers = sum(part.numel() for part in (state.k, state.v, state.positions)) // 2
    assert cost.state_values + 11 * cost.state_values_per_token == numbers


def test_a_ragged_state_keeps_each_rows_first_and_last_tokens() -> None:
    module = _build("attention", num_heads=2, window=3, global_tokens=2)
    real = torch.ones(2, 11, dtype=torch.bool)
    real[0, [0, 4, 7, 8, 9]] = False
    state = module.extend(_random(2, 11, 16), module.initial_state(2), Span.of_real(real))[1]
    assert state.positions.tolist() == [[0, 1, 4, 5], [0, 1, 9, 10]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stride": 2}, "stride: without a window"),
        ({"dilation": 2, "global_tokens": 1}, "dilation, global_tokens: without a window"),
        ({"window": 1, "dilation": 2}, "no effect on a window of 1"),
        ({"qk_norm": "rmsnorm", "k_norm": "rmsnorm"}, "norms the keys already"),
        ({"window": 2, "stride": 1}, "greater than or equal to 2"),
    ],
)
def test_knobs_without_effect_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Attention.Config.model_validate(values)


# what is learned: positions, temperature, norms, values of the first layer


def test_learned_numbers_can_be_the_slopes_of_alibi() -> None:
    relative = {"type": "relative", "max_distance": 20}
    learned = _build("attention", num_heads=4, position=relative)
    alibi = _build("attention", num_heads=4, position="alibi")
    with torch.no_grad():
        distance = torch.arange(21)
        learned.position.weight.copy_(-torch.tensor(alibi.position.slopes)[:, None] * distance)
    x = _random(2, 9, 16)
    torch.testing.assert_close(learned(x, Span.of(9)), alibi(x, Span.of(9)))


@pytest.mark.parametrize("mode", ["add", "multiply"])
def test_a_relative_position_starts_without_effect(mode: str) -> None:
    module = _build("attention", num_heads=2, position={"type": "relative", "mode": mode})
    plain = _build("attention", num_heads=2, position="none")
    x = _random(2, 9, 16)
    torch.testing.assert_close(module(x, Span.of(9)), plain(x, Span.of(9)))


@pytest.mark.parametrize("mode", ["add", "multiply"])
@pytest.mark.parametrize("window", [None, 3])
def test_layers_do_not_share_what_their_positions_learn(mode: str, window: int | None) -> None:
    position = {"type": "relative", "mode": mode}
    one, other = (
        _build("attention", num_heads=2, window=window, position=position) for _ in range(2)
    )
    with torch.no_grad():
        other.position.weight.add_(_random(*other.position.weight.shape))
    x, span = _random(1, 9, 16), Span.of(9)
    alone = other(x, Span.of(9))
    one(x, span)
    assert torch.equal(other(x, span), alone)
    other.position.weight.grad = None
    for _ in range(2):  # a span that is used again holds nothing of an earlier graph
        other(x, span).sum().backward()
    assert float(other.position.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ({"qk_norm": "cosine"}, 8**0.5),
        ({"qk_norm": {"type": "cosine", "length": 2.0}}, 8**0.5 / 4),
        ({"qk_norm": {"type": "cosine", "length": "sqrt"}}, 8**-0.5),
        ({"qk_norm": "rmsnorm"}, 8**-0.5),
        ({"k_norm": "cosine"}, 1.0),
        ({"qk_norm": "cosine", "qk_norm_over": "all_heads"}, 16 / 8**0.5),
        ({"qk_norm": "cosine", "num_kv_heads": 1, "qk_norm_over": "all_heads"}, 2**0.5 * 8**0.5),
        ({"qk_norm": "cosine", "scale": 0.5}, 0.5),
    ],
)
def test_the_usual_scale_makes_up_for_the_length_of_queries_and_keys(
    values: dict[str, Any], scale: float
) -> None:
    resolved = Attention.Config.model_validate({"num_heads": 2, **values}).resolve(SCOPE)
    assert resolved.scale == pytest.approx(scale)
    assert resolved.resolve(SCOPE) == resolved


@pytest.mark.parametrize("over", ["head", "all_heads"])
def test_attention_of_cosines_is_as_sharp_as_that_of_rms_norms(over: str) -> None:
    """And its logits lie within ±√head_dim, head by head."""
    cosines, plain = (
        _build("attention", num_heads=2, qk_norm=norm, qk_norm_over=over)
        for norm in ("cosine", "rmsnorm")
    )
    x, span = _random(2, 40, 16), Span.of(40)
    torch.testing.assert_close(cosines(x, span), plain(x, span))
    q, k, _ = cosines._project(x, span)
    logits = q @ k.mT * cosines.config.scale
    assert logits.std() > 0.8
    if over == "head":
        assert logits.abs().max() <= 8**0.5 + 1e-5


def test_norms_of_all_heads_derive_their_length_from_their_own_widths() -> None:
    norm = {"type": "cosine", "length": "sqrt"}
    module = _build("attention", num_heads=4, num_kv_heads=1, qk_norm=norm,
                    qk_norm_over="all_heads")  # fmt: skip
    q, k, _ = module._project(_random(1, 3, 16), Span.of(3))
    torch.testing.assert_close(q.square().sum((1, 3)), torch.full((1, 3), 16.0))
    torch.testing.assert_close(k.square().sum((1, 3)), torch.full((1, 3), 4.0))
    latent = _build("latent_attention", num_heads=2, q_rank=6, kv_rank=4, norm=norm)
    low = latent.q_norm(_random(1, 3, 6)), latent.norm(_random(1, 3, 4))
    torch.testing.assert_close(low[0].square().sum(2), torch.full((1, 3), 6.0))
    torch.testing.assert_close(low[1].square().sum(2), torch.full((1, 3), 4.0))


def test_a_temperature_is_a_factor_of_the_scale() -> None:
    scaled = _build("attention", num_heads=2, learned_scale="head")
    with torch.no_grad():
        scaled.log_scale.fill_(torch.tensor(3.0).log())
    plain = _build("attention", num_heads=2, scale=3 * 8**-0.5)
    x = _random(2, 9, 16)
    torch.testing.assert_close(scaled(x, Span.of(9)), plain(x, Span.of(9)))


def test_normed_values_have_one_size() -> None:
    module = _build("attention", num_heads=2, window=1, v_norm="rmsnorm")
    x = _random(1, 5, 16)
    x = torch.cat((x, 50 * x), dim=1)
    y = module(x, Span.of(10))
    torch.testing.assert_close(y[:, 5:], y[:, :5])


def _two_layers(kind: str) -> list[Any]:
    layers = [
        _build("attention", Scope(d_model=16, layer=index), num_heads=2, value_residual=kind)
        for index in range(2)
    ]
    with torch.no_grad():
        layers[1].v.weight.copy_(_random(16, 16))
        if kind == "learned":
            layers[1].value_mix.copy_(torch.tensor([0.25, 2.0]))
    return layers


@pytest.mark.parametrize(("kind", "mix"), [("fixed", (0.5, 0.5)), ("learned", (0.25, 2.0))])
def test_later_layers_mix_in_the_values_of_the_first(kind: str, mix: tuple[float, float]) -> None:
    first, second = _two_layers(kind)
    plain = _build("attention", num_heads=2)
    x, z = _random(2, 6, 16), _random(2, 6, 16, seed=2)
    span = Span.of(6)
    torch.testing.assert_close(first(x, span), plain(x, Span.of(6)))  # ½ v + ½ v
    mixed = mix[0] * first.v(x) + mix[1] * second.v(z)
    q, k, _ = second._project(z, Span.of(6))
    expected = second._join(second._read(q, k, mixed.view(2, 6, 2, 8).transpose(1, 2), span))
    torch.testing.assert_close(second(z, span), expected)
    # A span that is used again: the first layer's new values are mixed in, not the old ones.
    first(2 * x, span)
    assert not torch.allclose(second(z, span), expected)
    first(x, span)
    torch.testing.assert_close(second(z, span), expected)


def test_values_of_other_shapes_are_not_mixed() -> None:
    first, second = _two_layers("fixed")
    other = _build("attention", Scope(d_model=16, layer=1), num_heads=4, value_residual="fixed")
    x, span = _random(2, 6, 16), Span.of(6)
    first(x, span)
    torch.testing.assert_close(other(x, span), other(x, Span.of(6)))
    assert not torch.allclose(second(x, span), second(x, Span.of(6)))


@pytest.mark.parametrize("kind", ["fixed", "learned"])
def test_a_model_with_value_residuals_decodes_as_it_trains(kind: str) -> None:
    mixer = {"type": "attention", "num_heads": 2, "value_residual": kind}
    layers = ({"mixer": "short_conv"}, {"repeat": 3, "mixer": mixer})
    spec = ArchSpec.model_validate({"d_model": 16, "vocab_size": 30, "layers": layers})
    model = build(resolve(spec), dtype=torch.float64).eval()
    tokens = torch.randint(30, (2, 9), generator=torch.Generator().manual_seed(0))
    whole, state, parts = model(tokens), model.initial_state(2), []
    for start, end in ((0, 4), (4, 5), (5, 9)):
        logits, state = model.extend(tokens[:, start:end], state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-9, atol=1e-10)
    padded = torch.cat((torch.zeros(2, 2, dtype=torch.long), tokens), dim=1)
    real = torch.cat((torch.zeros(2, 2), torch.ones(2, 9)), dim=1).bool()
    torch.testing.assert_close(model(padded, real)[:, 2:], whole, rtol=1e-9, atol=1e-10)


# latent and differential attention, memory


def test_the_latent_state_is_small_and_grows_not_with_the_heads() -> None:
    scope = Scope(d_model=256)
    latent = LatentAttention.Config(num_heads=8).resolve(scope)
    full = Attention.Config(num_heads=8).resolve(scope)
    assert latent.cost(scope, 100).state_values_per_token == 128 + 16 + 1
    assert full.cost(scope, 100).state_values_per_token == 2 * 256 + 1
    more = LatentAttention.Config(num_heads=16, head_dim=32, kv_rank=128).resolve(scope)
    assert more.cost(scope, 100).state_values_per_token == 128 + 16 + 1


def test_a_latent_attention_of_one_full_latent_is_multi_query_attention() -> None:
    """With W_k = W_v = 1 for each head, all heads read the latent as key and value."""
    latent = _build(
        "latent_attention", num_heads=2, kv_rank=8, norm="none", position="none", scale=0.3
    )
    plain = _build("attention", num_heads=2, num_kv_heads=1, position="none", scale=0.3)
    with torch.no_grad():
        eye = torch.eye(8).repeat(2, 1)
        latent.k.weight.copy_(eye)
        latent.v.weight.copy_(eye)
        latent.down.weight[8:] = 0.0  # the shared key
        plain.k.weight.copy_(latent.down.weight[:8])
        plain.v.weight.copy_(latent.down.weight[:8])
        plain.q.weight.copy_(latent.q.weight.view(2, -1, 16)[:, :8].flatten(0, 1))
        plain.out.weight.copy_(latent.out.weight)
    x = _random(2, 7, 16)
    torch.testing.assert_close(latent(x, Span.of(7)), plain(x, Span.of(7)))
    torch.testing.assert_close(_in_chunks(latent, x, [1, 2, 5]), plain(x, Span.of(7)))


def test_lambda_follows_the_layer_and_leaves_the_config_alone() -> None:
    places = [Scope(d_model=16, layer=layer) for layer in (0, 1, 20)]
    modules = [_build("differential_attention", place, num_heads=2) for place in places]
    assert [m.lambda_init for m in modules] == pytest.approx([0.2, 0.3555, 0.7985], abs=1e-4)
    assert modules[0].config == modules[2].config
    assert _build("differential_attention", num_heads=2, lambda_init=0.5).lambda_init == 0.5


def test_equal_maps_cancel_and_without_lambda_the_first_alone_is_read() -> None:
    values = {"num_heads": 2, "norm": "none", "lambda_init": 0.0}
    module = _build("differential_attention", **values)
    x, span = _random(2, 7, 16), Span.of(7)
    with torch.no_grad():
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
            getattr(module, name).zero_()
    before = module(x, span)
    with torch.no_grad():
        module.q.weight[8:] = 5.0
    torch.testing.assert_close(module(x, span), before)
    with torch.no_grad():
        module.q.weight[8:] = module.q.weight[:8]
        module.k.weight[8:] = module.k.weight[:8]
        module.lambda_q1[0] = module.lambda_k1[0] = torch.tensor(2.0).log().sqrt()  # λ = 2 − 1
    torch.testing.assert_close(module(x, span), torch.zeros_like(x), atol=1e-6, rtol=0)


def test_a_differential_head_keeps_no_square_in_training() -> None:
    module = _build("differential_attention", num_heads=1).train()
    x, largest = _random(1, 512, 16).requires_grad_(), 0

    def note(value: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        module(x, Span.of(512))
    assert largest < 512 * 512 / 4


def test_a_memory_reads_a_slot_that_a_token_matches() -> None:
    module = _build("memory", num_slots=3, num_heads=1, scale=50.0)
    with torch.no_grad():
        module.q.weight.copy_(torch.eye(16))
        module.keys.copy_(torch.eye(16)[None, :3])
    y = module(torch.eye(16)[None, [1, 0, 1]], Span.of(3))
    torch.testing.assert_close(y[0], module.out(module.values[0, [1, 0, 1]]))
    assert module.initial_state(2) == ()


# convolutions and the token MLP


@pytest.mark.parametrize("t", [1, 31, 33, 70, 200])
def test_a_long_convolution_is_the_sum_over_the_past(t: int) -> None:
    x, taps = _random(2, t, 3).double(), _random(t, 3, seed=2).double()
    for z in (x.requires_grad_(), taps.requires_grad_()):
        z.grad = None
    found = long_convolution(x, taps)
    rows = [(taps[: i + 1].flip(0) * x[:, : i + 1]).sum(1) for i in range(t)]
    expected = torch.stack(rows, dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    probe = _random(2, t, 3, seed=3).double()
    ours = torch.autograd.grad((found * probe).sum(), (x, taps))
    theirs = torch.autograd.grad((expected * probe).sum(), (x, taps))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_a_long_convolution_does_not_leak_the_future_by_rounding() -> None:
    x, taps = _random(1, 100, 4), _random(100, 4, seed=2)
    before = long_convolution(x, taps)
    for cut in (1, 31, 32, 40, 64, 99):
        edited = x.clone()
        edited[:, cut:] = 1e8
        assert torch.equal(long_convolution(edited, taps)[:, :cut], before[:, :cut])


@pytest.mark.parametrize("name", ["long_conv", "token_mlp", "short_conv", "latent_attention"])
def test_steps_equal_the_parallel_form_in_float32(name: str) -> None:
    module, x = _build(name, **NEW[name]), _random(2, 100, 16)
    with torch.no_grad():
        whole = module(x, Span.of(100))
        steps = _in_chunks(module, x, list(range(60, 100)))
    torch.testing.assert_close(steps, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["short_conv", "long_conv", "token_mlp", "latent_attention"])
def test_without_causality_the_future_is_seen_and_nothing_can_follow(name: str) -> None:
    module = _build(name, Scope(d_model=16, causal=False), **NEW[name])
    x = _random(1, 6, 16)
    edited = x.clone()
    edited[:, 4] += 1.0
    y, state = module.extend(x, module.initial_state(1), Span.of(6))
    torch.testing.assert_close(y, module(x, Span.of(6)))
    assert not torch.allclose(module(edited, Span.of(6))[:, 3], y[:, 3])
    with pytest.raises(UsageError, match="whole sequences"):
        module.extend(x, state, Span.of(6, start=6))


def test_a_token_mlp_ends_at_max_seq_len() -> None:
    module = _build("token_mlp", Scope(d_model=16, max_seq_len=6))
    x = _random(1, 6, 16)
    _, state = module.extend(x, module.initial_state(1), Span.of(6))
    for span in (Span.of(1, start=6), Span(torch.tensor([[6]]), offset=None)):
        with pytest.raises(UsageError, match="7 tokens, but a token MLP has max_seq_len = 6"):
            module.extend(x[:, :1], state, span)


def test_a_token_mlp_stores_no_weight_that_causality_forbids() -> None:
    module = _build("token_mlp", Scope(d_model=16, max_seq_len=6), num_heads=2)
    assert module.weight.shape == (2, 6 * 7 // 2)
    with torch.no_grad():
        module.weight.copy_(torch.arange(21.0))
    rows = module._rows(torch.arange(3)[None], 4)[0, 0]
    assert rows.tolist() == [[0, 0, 0, 0], [1, 2, 0, 0], [3, 4, 5, 0]]


@pytest.mark.parametrize("scale", [0.1, 100.0])
@pytest.mark.parametrize("name", NEW)
def test_outputs_and_gradients_are_finite_at_any_scale(name: str, scale: float) -> None:
    module = _build(name, **NEW[name])
    x = (scale * _random(2, 40, 16)).requires_grad_()
    y = module(x, Span.of(40))
    y.sum().backward()
    assert bool(y.isfinite().all())
    for tensor in (x, *module.parameters()):
        assert tensor.grad is not None
        assert bool(tensor.grad.isfinite().all())


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("latent_attention", {"num_heads": 3}, "3 heads of 5 do not make d_model 16"),
        ("memory", {"head_dim": 5}, "3 heads of 5 do not make d_model 16"),
        ("token_mlp", {"num_heads": 3}, "num_heads 3 does not divide d_hidden 16"),
        ("differential_attention", {"num_heads": 3}, "num_heads 3 does not divide d_model 16"),
        ("long_conv", {"fast_decay": 2.0}, "fast_decay must be at most slow_decay"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _build(name, **values)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 20), (64, 500), (4, 3)])
def test_buckets_of_distances_grow_and_end_at_the_last(
    buckets: int, max_distance: int, causal: bool
) -> None:
    side = buckets if causal else buckets // 2
    starts = bucket_starts(side, max_distance)
    assert len(starts) == side - 1
    assert list(starts) == sorted(starts)
    single = side // 2
    assert starts[: single - 1] == tuple(range(1, single))
    assert starts[-1] <= max_distance


def test_the_buckets_of_t5_are_those_that_it_publishes() -> None:
    # Raffel et al. 2020, section 2.1: 32 numbers, up to a distance of 128.
    assert bucket_starts(16, 128) == (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91)


@pytest.mark.parametrize(
    ("values", "causal", "message"),
    [
        ({"buckets": 5}, False, "an even number"),
        ({"buckets": 2}, False, "≥ 4"),
        ({"buckets": 16, "max_distance": 8}, True, "not more than the 8 distances"),
    ],
)
def test_buckets_that_do_not_fit_are_refused(
    values: dict[str, Any], causal: bool, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RelativeConfig(**values).resolve(Scope(d_model=8, causal=causal))
