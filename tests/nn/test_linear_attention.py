"""The mixers that are linear in time: exact against a square, in any cutting, at any scale."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from windtunnel.arch import ArchSpec, build, resolve
from windtunnel.config import Choice
from windtunnel.errors import UsageError
from windtunnel.nn.component import (
    REGISTRIES,
    Scope,
    Span,
    after_update,
    build_component,
    reorder,
)
from windtunnel.nn.initialize import initialize
from windtunnel.nn.mixers.favor import Favor, orthogonal_features
from windtunnel.nn.ops import positive
from windtunnel.nn.ops.decayed import attend_decayed, attend_fading, fading
from windtunnel.nn.ops.positive import attend_positively, no_sums

MIXERS: list[tuple[str, dict[str, Any]]] = [
    ("favor", {}),
    ("favor", {"kernel": "generalized"}),
    ("linear_attention", {}),
    ("retnet", {}),
    ("gla", {}),
    ("rwkv", {}),
]
IDS = ["favor", "favor-generalized", "linear_attention", "retnet", "gla", "rwkv"]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def mixer(name: str, d: int = 32, *, seed: int = 0, causal: bool = True, **values: Any) -> Any:
    scope = Scope(d_model=d, causal=causal)
    cls = REGISTRIES["mixer"].config_class(name)
    assert cls is not None
    config = cls.model_validate({"num_heads": 2, **values})
    module = build_component("mixer", config.resolve(scope), scope)
    initialize(module, seed)
    return module


# positive features


def log_features(x: Tensor, projection: Tensor) -> Tensor:
    x = x * x.shape[-1] ** -0.25
    return x @ projection.to(x.dtype).T - x.square().sum(-1, keepdim=True) / 2


def square(log_q: Tensor, log_k: Tensor, v: Tensor) -> Tensor:
    """The whole t × t matrix, by logarithms of sums."""
    t = v.shape[2]
    logits = torch.logsumexp(log_q[:, :, :, None] + log_k[:, :, None], dim=-1)
    seen = torch.ones(t, t, dtype=torch.bool).tril()
    return logits.masked_fill(~seen, float("-inf")).softmax(-1) @ v


def read(q: Tensor, k: Tensor, v: Tensor, projection: Tensor, **options: Any) -> Tensor:
    before = no_sums(q.shape[0], q.shape[1], len(projection), v.shape[3], q)
    log_q, log_k = log_features(q, projection), log_features(k, projection)
    return attend_positively(log_q, log_k, v, before, **options)[0]


PROJECTION = orthogonal_features(40, 16, torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("scale", "tolerance"), [(0.1, 3e-6), (0.5, 3e-6), (2, 1e-5), (8, 1e-4)])
def test_float32_outputs_and_gradients_equal_the_square(scale: float, tolerance: float) -> None:
    q, k, v = (
        (randn(1, 2, 150, 16, seed=i) * (scale if i < 2 else 1)).double().requires_grad_()
        for i in range(3)
    )
    exact = square(log_features(q, PROJECTION), log_features(k, PROJECTION), v)
    wanted = torch.autograd.grad(exact.square().sum(), (q, k, v))
    singles = [x.detach().float().requires_grad_() for x in (q, k, v)]
    found = read(*singles, PROJECTION)
    assert (found.double() - exact).abs().max() < tolerance
    for name, got, want in zip(
        "qkv", torch.autograd.grad(found.square().sum(), singles), wanted, strict=True
    ):
        assert (got.double() - want).abs().max() / want.abs().max() < 3 * tolerance, name


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_any_chunk_gives_the_same(scale: float) -> None:
    q, k, v = (randn(2, 2, 100, 16, seed=i, dtype=torch.float64) * scale for i in range(3))
    whole = read(q, k, v, PROJECTION, chunk=100)
    for chunk in (1, 7, 64):
        torch.testing.assert_close(
            read(q, k, v, PROJECTION, chunk=chunk), whole, rtol=1e-9, atol=1e-9 * scale
        )


@pytest.mark.parametrize("padded", [False, True])
def test_a_chunk_that_underflows_is_read_by_halves(
    monkeypatch: pytest.MonkeyPatch, padded: bool
) -> None:
    by_halves, calls = positive._read_by_halves, []

    def watched(*parts: Tensor) -> Tensor:
        calls.append(parts[0].shape[2])
        return by_halves(*parts)

    monkeypatch.setattr(positive, "_read_by_halves", watched)
    # The last keys of the middle chunk are near, all others so far that they vanish beside them.
    k = randn(1, 1, 96, 16) * 30
    k[:, :, 60:64] *= 0.001
    q, v = randn(1, 1, 96, 16, seed=1).double(), randn(1, 1, 96, 16, seed=2).double()
    q.requires_grad_()
    k = k.double().requires_grad_()
    real = torch.ones(1, 96, dtype=torch.bool)
    if padded:
        real[0, [3, 40, 41, 95]] = False
    found = read(q, k, v, PROJECTION, chunk=32, real=real if padded else None)
    assert calls == [2]
    kept = real[0]
    exact = square(
        log_features(q[:, :, kept], PROJECTION),
        log_features(k[:, :, kept], PROJECTION),
        v[:, :, kept],
    )
    torch.testing.assert_close(found[:, :, kept], exact, rtol=1e-9, atol=1e-9)
    for one, other in zip(
        torch.autograd.grad(found[:, :, kept].square().sum(), (q, k)),
        torch.autograd.grad(exact.square().sum(), (q, k)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_the_last_key_does_not_reach_back() -> None:
    q, k, v = (randn(1, 2, 64, 16, seed=i) * 2 for i in range(3))
    before = read(q, k, v, PROJECTION)
    for factor in (0.0, 1e3, 1e6):
        edited = k.clone()
        edited[:, :, -1] *= factor
        after = read(q, edited, v, PROJECTION)
        assert (after - before)[:, :, :-1].abs().max() < 1e-5
        assert (after - before)[:, :, -1].abs().max() > 1e-3


def test_the_kernel_is_exp_of_the_scaled_product_on_average() -> None:
    q, k = randn(5, 16) * 0.3, randn(7, 16, seed=1) * 0.3
    total = torch.zeros(5, 7)
    draws = 400
    for seed in range(draws):
        projection = orthogonal_features(64, 16, torch.Generator().manual_seed(seed))
        total += log_features(q, projection).exp() @ log_features(k, projection).exp().T / 64
    expected = (q @ k.T / math.sqrt(16)).exp()
    torch.testing.assert_close(total / draws, expected, rtol=0.04, atol=0.0)


def test_features_are_orthogonal_within_blocks_with_norms_of_gaussian_rows() -> None:
    m, k = 3 * 16 + 5, 16
    rows = orthogonal_features(m, k, torch.Generator().manual_seed(0))
    assert rows.shape == (m, k)
    for block in rows.split(k):
        products = block @ block.T
        assert (products - products.diag().diag()).abs().max() < 1e-5
    norms = orthogonal_features(4000, k, torch.Generator().manual_seed(0)).norm(dim=1)
    assert norms.square().mean().item() == pytest.approx(k, rel=0.03)
    assert norms.std().item() == pytest.approx(0.7, rel=0.1)  # of a χ distribution


def test_under_autocast_the_sums_stay_float32() -> None:
    module = mixer("favor")
    x = randn(2, 40, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = module.extend(x, module.initial_state(2), Span.of(40))
    assert state.sums.dtype == torch.float32
    assert (y.float() - module(x, Span.of(40))).abs().max() < 0.05


def test_elementwise_features_are_exact_where_their_values_underflow() -> None:
    module = mixer("linear_attention", d=8, num_heads=1, bias=True)
    with torch.no_grad():
        for part in (module.q, module.k):
            part.weight.zero_()
            part.bias.fill_(-200.0)
        for part in (module.v, module.out):
            part.weight.copy_(torch.eye(8))
    x = randn(1, 9, 8)
    means = x.cumsum(1) / torch.arange(1, 10)[:, None]
    torch.testing.assert_close(module(x, Span.of(9)), means)


# redraws


def trained(**values: Any) -> Favor:
    module: Favor = mixer("favor", **{"feature_redraw_interval": 3, **values})
    return module.train()


def steps(module: nn.Module, count: int, start: int = 0) -> None:
    for step in range(start + 1, start + count + 1):
        after_update(module, 7, step)


def test_features_are_drawn_anew_every_interval_of_training_steps() -> None:
    module = trained()
    first = module.projection.clone()
    module(randn(1, 5, 32), Span.of(5))
    steps(module, 2)
    assert torch.equal(module.projection, first)
    steps(module, 1, start=2)
    second = module.projection.clone()
    assert not torch.equal(second, first)
    assert int(module.draws) == 1
    steps(module, 2, start=3)
    assert torch.equal(module.projection, second)
    assert int(module.updates) == 2


@pytest.mark.parametrize(
    "values", [{"feature_redraw_interval": None}, {"auto_check_redraw": False}]
)
def test_otherwise_features_are_drawn_by_hand_alone(values: dict[str, Any]) -> None:
    module = trained(**values)
    first = module.projection.clone()
    steps(module, 9)
    assert torch.equal(module.projection, first)
    module.redraw(7, 9)
    assert not torch.equal(module.projection, first)


def test_nothing_is_drawn_in_evaluation_or_when_frozen() -> None:
    module = trained().eval()
    first = module.projection.clone()
    steps(module, 9)
    module.train().freeze()
    steps(module, 9)
    assert torch.equal(module.projection, first)
    with pytest.raises(UsageError, match="frozen"):
        module.redraw(7, 9)
    module.unfreeze()
    steps(module, 9)
    assert int(module.draws) == 3


def test_a_redraw_is_a_function_of_seed_and_step_and_goes_on_from_a_checkpoint() -> None:
    module = trained()
    steps(module, 4)
    resumed: Favor = mixer("favor", seed=5, feature_redraw_interval=3).train()
    resumed.load_state_dict({name: value.clone() for name, value in module.state_dict().items()})
    steps(module, 5, start=4)
    steps(resumed, 5, start=4)
    for name, value in module.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    frozen = trained()
    frozen.freeze()
    resumed.load_state_dict(frozen.state_dict())
    assert bool(resumed.frozen)


def test_a_state_made_before_a_redraw_is_refused() -> None:
    module, x = trained(), randn(2, 6, 32)
    _, state = module.extend(x, module.initial_state(2), Span.of(6))
    module.redraw(0, 1)
    with pytest.raises(UsageError, match="drawn anew"):
        module.extend(x, reorder(state, torch.tensor([1])), Span.of(6, start=6))
    module.extend(x, module.initial_state(2), Span.of(6))


def test_a_model_has_features_of_its_own_in_each_layer() -> None:
    spec = ArchSpec(
        d_model=16,
        vocab_size=20,
        layers=({"repeat": 2, "mixer": {"type": "favor", "feature_redraw_interval": 1}},),
    )
    model = build(resolve(spec), seed=3)
    one, two = (layer.mixer for layer in model.layers)
    assert not torch.equal(one.projection, two.projection)
    assert torch.equal(build(resolve(spec), seed=3).layers[0].mixer.projection, one.projection)
    assert not torch.equal(build(resolve(spec), seed=4).layers[0].mixer.projection, one.projection)
    after_update(model.train(), 0, 1)
    assert int(one.draws) == int(two.draws) == 1
    assert not torch.equal(one.projection, two.projection)


def test_an_encoder_draws_other_features_than_a_decoder() -> None:
    drawn = []
    for causal in (True, False):
        module = Favor(Favor.Config().resolve(Scope(d_model=32)), Scope(d_model=32, causal=causal))
        module.redraw(0, 7)
        drawn.append(module.projection)
    assert not torch.equal(*drawn)


def test_a_persistent_buffer_without_a_value_is_not_left_as_it_is() -> None:
    class Careless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.empty(3))
            self.register_buffer("cache", torch.empty(3), persistent=False)

    with pytest.raises(AssertionError, match=r"no values for \['table'\]"):
        initialize(Careless(), 0)


# recurrences with decay


@pytest.mark.parametrize("bonus", [False, True])
def test_decays_in_chunks_equal_the_recurrence_even_where_all_is_forgotten(bonus: bool) -> None:
    t, width = 150, 5
    q, k, decay = (randn(2, 3, t, width, seed=i, dtype=torch.float64) for i in range(3))
    v, state = randn(2, 3, t, 4, seed=3).double(), randn(2, 3, width, 4, seed=4).double()
    decay = -decay.exp()
    decay[:, :, ::7] -= 2000.0
    u = randn(3, width, seed=5).double() if bonus else None
    outs, s = [], state
    for i in range(t):
        added = k[:, :, i, :, None] * v[:, :, i, None]
        after = decay[:, :, i, :, None].exp() * s + added
        seen = after if u is None else s + u[:, :, None] * added
        outs.append((seen * q[:, :, i, :, None]).sum(-2))
        s = after
    exact = torch.stack(outs, dim=2)
    parts = [x.float() for x in (q, k, v, decay, state)]
    y, last = attend_decayed(*parts, bonus=None if u is None else u.float())
    assert (y.double() - exact).abs().max() < 1e-5 * exact.abs().max()
    assert (last.double() - s).abs().max() < 1e-5 * s.abs().max()
    for chunk in (1, 2, 256):
        again, _ = attend_decayed(q, k, v, decay, state, bonus=u, chunk=chunk)
        torch.testing.assert_close(again, exact, rtol=1e-10, atol=1e-10)


def test_fading_in_chunks_equals_the_recurrence() -> None:
    t = 130
    q, k, v = (randn(2, 2, t, 5, seed=i, dtype=torch.float64) for i in range(3))
    state, gamma = randn(2, 2, 5, 5, seed=3).double(), torch.tensor([0.97, 0.4]).double()
    s, outs = state, []
    for i in range(t):
        s = gamma[:, None, None] * s + k[:, :, i, :, None] * v[:, :, i, None]
        outs.append((s * q[:, :, i, :, None]).sum(-2))
    for chunk in (1, 7, 64, 256):
        fade = fading(gamma.log(), torch.ones(1, t, dtype=torch.bool), chunk=chunk)
        y, last = attend_fading(q, k, v, fade, state)
        torch.testing.assert_close(y, torch.stack(outs, dim=2), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(last, s, rtol=1e-10, atol=1e-10)


# all


@pytest.mark.parametrize(("name", "values"), MIXERS, ids=IDS)
def test_the_parallel_form_equals_the_step_form_in_float32(
    name: str, values: dict[str, Any]
) -> None:
    module, x, t = mixer(name, **values), randn(2, 140, 32), 140
    whole = module(x, Span.of(t))
    state, outs = module.initial_state(2), []
    for i in range(t):
        y, state = module.extend(x[:, i : i + 1], state, Span.of(1, start=i))
        outs.append(y)
    assert (torch.cat(outs, dim=1) - whole).abs().max() < 1e-5


@pytest.mark.parametrize(("name", "values"), MIXERS, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_finite_at_any_scale(name: str, values: dict[str, Any], dtype: torch.dtype) -> None:
    module = mixer(name, **values).to(dtype)
    for scale in (0.1, 1.0, 10.0, 100.0):
        x = (randn(2, 70, 32) * scale).to(dtype).requires_grad_()
        y = module(x, Span.of(70))
        grads = torch.autograd.grad(y.float().square().sum(), [x, *module.parameters()])
        assert all(bool(part.isfinite().all()) for part in (y, *grads)), scale


@pytest.mark.parametrize("name", ["favor", "linear_attention"])
def test_a_bidirectional_mixer_reads_whole_sequences_alone(name: str) -> None:
    module, x = mixer(name, causal=False), randn(1, 4, 32)
    _, state = module.extend(x, module.initial_state(1), Span.of(4))
    with pytest.raises(UsageError, match="whole sequences"):
        module.extend(x, state, Span.of(4, start=4))


@pytest.mark.parametrize("name", ["retnet", "gla", "rwkv"])
def test_a_recurrence_is_refused_without_causality(name: str) -> None:
    with pytest.raises(ValueError, match="causal"):
        mixer(name, causal=False)


def test_what_has_no_effect_or_no_meaning_is_refused() -> None:
    choice = Choice("mixer")
    with pytest.raises(ValueError, match="kernel_fn and epsilon has no effect"):
        choice.validate({"type": "favor", "kernel_fn": "relu", "epsilon": 0.1})
    with pytest.raises(ValueError, match="acts on the logits"):
        mixer("favor", position="alibi")
    with pytest.raises(ValueError, match="does not divide"):
        mixer("retnet", num_heads=5)
    with pytest.raises(ValueError, match="give head_dim"):
        mixer("gla", num_heads=5)
