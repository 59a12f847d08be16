"""Delta rules, state-space models and gated linear recurrences: two forms, one function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from windtunnel.nn.component import REGISTRIES, Mixer, Scope, Span, build_component
from windtunnel.nn.initialize import initialize
from windtunnel.nn.ops.chunk_decay import chunk_decay
from windtunnel.nn.ops.delta_rule import delta_rule
from windtunnel.nn.ops.recompute import recomputed
from windtunnel.nn.ops.scan import scan
from windtunnel.nn.ops.short_convolution import short_convolution
from windtunnel.nn.ops.ssd import ssd

NAMES = ("delta_net", "gated_delta_net", "mamba", "mamba2", "rg_lru", "min_gru", "min_lstm")
SCOPE = Scope(d_model=32, num_layers=2)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _config(name: str, **values: Any) -> Any:
    cls = REGISTRIES["mixer"].config_class(name)
    assert cls is not None
    return cls.model_validate(values)


def _build(name: str, **values: Any) -> Mixer[Any]:
    module: Mixer[Any] = build_component("mixer", _config(name, **values).resolve(SCOPE), SCOPE)
    initialize(module, 0)
    return module


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_the_parallel_form_equals_the_step_form_in_float32(name: str, scale: float) -> None:
    mixer, t = _build(name), 150  # several chunks of every op, the last not full
    x = scale * _random(2, t, 32)
    with torch.no_grad():
        whole, state = mixer.extend(x, mixer.initial_state(2), Span.of(t))
        stepped, parts = mixer.initial_state(2), []
        for i in range(t):
            y, stepped = mixer.extend(x[:, i : i + 1], stepped, Span.of(1, start=i))
            parts.append(y)
    for found, expected in zip((whole, *state), (torch.cat(parts, 1), *stepped), strict=True):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 10.0, 100.0])
def test_outputs_and_gradients_are_finite_at_every_scale(name: str, scale: float) -> None:
    mixer = _build(name)
    x = (scale * _random(2, 100, 32)).requires_grad_()
    y = mixer(x, Span.of(100))
    y.square().mean().backward()
    assert y.isfinite().all()
    for key, grad in [("x", x.grad), *((n, p.grad) for n, p in mixer.named_parameters())]:
        assert grad is not None, key
        assert grad.isfinite().all(), key


@pytest.mark.parametrize("name", NAMES)
def test_the_state_is_constant_in_size_and_at_least_float32(name: str) -> None:
    mixer = _build(name).bfloat16()
    before = mixer.initial_state(2)
    x = _random(2, 40, 32).bfloat16()
    after = mixer.extend(x, before, Span.of(40))[1]
    assert [part.shape for part in after] == [part.shape for part in before]
    assert [part.dtype for part in after] == [part.dtype for part in before]
    assert after[-1].dtype == torch.float32


# the scan


def _loop(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    h, states = start, []
    for decay, more in zip(a.unbind(1), b.unbind(1), strict=True):
        h = decay * h + more
        states.append(h)
    return torch.stack(states, 1)


@pytest.mark.parametrize("t", [1, 2, 24, 25, 31, 100, 257])
@pytest.mark.parametrize("narrow", [False, True])
def test_a_scan_equals_the_loop_with_its_gradients(t: int, narrow: bool) -> None:
    a = torch.sigmoid(_random(2, t, 1 if narrow else 3, 2, dtype=torch.float64)).requires_grad_()
    b = _random(2, t, 3, 2, seed=1, dtype=torch.float64).requires_grad_()
    start = _random(2, 3, 2, seed=2, dtype=torch.float64).requires_grad_()
    probe = _random(2, t, 3, 2, seed=3, dtype=torch.float64)
    found, expected = scan(a, b, start), _loop(a, b, start)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    wanted = (a, b, start)
    pairs = zip(
        torch.autograd.grad((found * probe).sum(), wanted),
        torch.autograd.grad((expected * probe).sum(), wanted),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_a_scan_survives_decays_of_0_and_1_and_huge_values() -> None:
    a = torch.zeros(1, 200, 3)
    a[..., 1] = 1.0
    a[..., 2] = 1e-30
    b = 1e30 * torch.ones(1, 200, 3)
    h = scan(a.requires_grad_(), b, torch.zeros(1, 3))
    torch.testing.assert_close(h[0, -1], torch.tensor([1e30, 2e32, 1e30]))
    h[..., 1].sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_a_scan_keeps_the_state_where_a_token_is_not_real() -> None:
    a, b, start = torch.rand(2, 60, 3), _random(2, 60, 3), _random(2, 3, seed=1)
    real = _random(2, 60, seed=2) > 0
    h = scan(a, b, start, real)
    for row in range(2):
        alone = scan(a[row : row + 1, real[row]], b[row : row + 1, real[row]], start[row : row + 1])
        torch.testing.assert_close(h[row, real[row]], alone[0])
        last = torch.cat((start[row : row + 1], alone[0]))[real[row].cumsum(0)]
        torch.testing.assert_close(h[row], last)


# the short convolution


@pytest.mark.parametrize("size", [1, 2, 4, 9])
@pytest.mark.parametrize("bias", [False, True])
def test_a_short_convolution_is_a_causal_depthwise_conv1d(size: int, bias: bool) -> None:
    x = _random(2, 6, 5, dtype=torch.float64).requires_grad_()
    weight = _random(5, 1, size, seed=1, dtype=torch.float64).requires_grad_()
    offset = _random(5, seed=2, dtype=torch.float64).requires_grad_() if bias else None
    state = torch.zeros(2, size - 1, 5, dtype=torch.float64)
    y, after = short_convolution(x, weight, offset, state, Span.of(6))
    padded = F.pad(x.transpose(1, 2), (size - 1, 0))
    expected = F.conv1d(padded, weight, offset, groups=5).transpose(1, 2)
    torch.testing.assert_close(y, expected)
    assert torch.equal(after, padded.transpose(1, 2)[:, 6:])
    wanted = (x, weight, *(() if offset is None else (offset,)))
    pairs = zip(
        torch.autograd.grad(y.square().sum(), wanted),
        torch.autograd.grad(expected.square().sum(), wanted),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other)


def test_a_short_convolution_passes_over_pads() -> None:
    x, weight, state = _random(2, 7, 3), _random(3, 1, 4, seed=1), _random(2, 3, 3, seed=2)
    real = torch.tensor([[0, 1, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0]]).bool()
    y, after = short_convolution(x, weight, None, state, Span.of_real(real))
    alone, end = short_convolution(x[:1, real[0]], weight, None, state[:1], Span.of(3))
    torch.testing.assert_close(y[0, real[0]], alone[0])
    torch.testing.assert_close(after, torch.cat((end, state[1:])))


# products in chunks


def test_decays_in_a_chunk_keep_their_precision_after_strong_ones() -> None:
    log_decay = torch.cat((torch.full((50,), -40.0), -1e-3 * torch.arange(1.0, 15.0)))
    square = chunk_decay(log_decay).square
    exact = torch.exp(log_decay[51:].double().cumsum(0)).float()
    torch.testing.assert_close(square[51:, 50], exact, rtol=2e-7, atol=0.0)
    assert torch.equal(square, square.tril())


@pytest.mark.parametrize("chunk", [1, 3, 16, 64])
def test_chunks_of_any_length_give_the_same(chunk: int) -> None:
    q, k, v = (_random(2, 4, 40, 6, seed=i, dtype=torch.float64) for i in range(3))
    k = F.normalize(k, dim=-1)
    beta = torch.rand(2, 4, 40, dtype=torch.float64)
    decay, start = -beta.square(), _random(2, 4, 6, 6, seed=9, dtype=torch.float64)
    one = delta_rule(q, k, v, beta, start, chunk=chunk, log_decay=decay)
    whole = delta_rule(q, k, v, beta, start, chunk=40, log_decay=decay)
    torch.testing.assert_close(one, whole)
    two = ssd(q[:, :2], k[:, :2], v, decay, start, chunk=chunk)
    torch.testing.assert_close(two, ssd(q[:, :2], k[:, :2], v, decay, start, chunk=40))


def test_a_delta_rule_returns_what_was_last_stored_under_a_key() -> None:
    k = torch.eye(4)[None, None, [0, 1, 0, 2]]
    v = _random(1, 1, 4, 3)
    y, _ = delta_rule(k, k, v, torch.ones(1, 1, 4), torch.zeros(1, 1, 4, 3), chunk=4)
    torch.testing.assert_close(y, v)


def test_recomputing_keeps_the_inputs_alone_and_changes_no_gradient() -> None:
    def operation(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(x @ w).exp()
        return y, y.sum(0)

    x, w = _random(5, 3).requires_grad_(), _random(3, 4, seed=1).requires_grad_()
    kept: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        outputs = recomputed(operation, x, w)
    assert [value.data_ptr() for value in kept] == [x.data_ptr(), w.data_ptr()]
    plain = operation(x, w)
    for read in ((1.0, 2.0), (1.0, 0.0), (0.0, 1.0)):
        found, expected = (
            sum(f * y.square().sum() for f, y in zip(read, ys, strict=True) if f)
            for ys in (outputs, plain)
        )
        assert isinstance(found, Tensor)
        assert isinstance(expected, Tensor)
        pairs = zip(
            torch.autograd.grad(found, (x, w), retain_graph=True),
            torch.autograd.grad(expected, (x, w), retain_graph=True),
            strict=True,
        )
        for one, other in pairs:
            torch.testing.assert_close(one, other)


# how they start


def test_mamba_starts_as_published() -> None:
    mixer = _build("mamba", d_inner=2000)
    weights = mixer.state_dict()
    torch.testing.assert_close(weights["a_log"].exp(), torch.arange(1.0, 17.0).expand(2000, 16))
    step = F.softplus(weights["dt_proj.bias"])
    assert step.min() >= 0.00099
    assert step.max() <= 0.1001
    assert float(step.log().mean()) == pytest.approx(-4.6, abs=0.1)  # log-uniform
    assert weights["dt_proj.weight"].abs().max() <= 2**-0.5
    assert (weights["skip"] == 1).all()


def test_mambas_step_in_bfloat16_has_its_bias_added_in_float32() -> None:
    mixer: Any = _build("mamba", dt_rank=2).bfloat16()
    x = _random(1, 50, 2).bfloat16()
    weight, bias = mixer.dt_proj.weight, mixer.dt_proj.bias
    product = F.linear(x, weight)
    assert torch.equal(mixer.dt_proj(x), product.float() + bias.float())
    with torch.autocast("cpu", torch.bfloat16):
        mixer = mixer.float()
        narrow = mixer.dt_proj(x.float())
    assert narrow.dtype == torch.float32
    assert torch.equal(narrow, product.float() + bias.float())


def test_mamba2_starts_with_rates_in_their_range() -> None:
    mixer = _build("mamba2", d_inner=2000, head_dim=2, a_min=2.0, a_max=5.0)
    rates = dict(mixer.named_parameters())["a_log"].exp()
    assert 2.0 <= rates.min() < 2.1
    assert 4.9 < rates.max() <= 5.001


def test_rg_lru_starts_with_decays_in_the_papers_range() -> None:
    mixer = _build("rg_lru", d_inner=2000)
    slow = torch.sigmoid(mixer.state_dict()["decay"].double()) ** 8
    assert 0.8999 <= slow.min() < 0.901
    assert 0.998 < slow.max() <= 0.9991
    assert float(slow.mean()) == pytest.approx(0.9495, abs=0.003)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("delta_net", {"num_heads": 5}, "num_heads 5 does not divide d_model 32"),
        ("mamba", {"d_inner": 8, "expand": 2}, "say the same thing twice"),
        ("mamba", {"dt_min": 0.2}, "dt_min 0.2 is larger than dt_max 0.1"),
        ("gated_delta_net", {"dt_min": 0.2}, "dt_min 0.2 is larger than dt_max 0.1"),
        ("mamba2", {"head_dim": 7}, "heads of 7 do not divide the width within, 64"),
        ("mamba2", {"head_dim": 16, "num_groups": 3}, "num_groups 3 does not divide 4 heads"),
        ("mamba2", {"a_min": 20.0}, "a_min 20.0 is larger than a_max 16.0"),
        ("rg_lru", {"num_heads": 5}, "num_heads 5 does not divide the width within, 32"),
    ],
)
def test_mistakes_are_refused(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _config(name, **values).resolve(SCOPE)
