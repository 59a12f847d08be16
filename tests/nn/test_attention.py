from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from windtunnel.errors import UsageError
from windtunnel.nn.component import Scope, Span, build_component
from windtunnel.nn.initialize import initialize
from windtunnel.nn.mixers.attention import Attention
from windtunnel.nn.ops.attention import attend, executed_keys, visible
from windtunnel.nn.positions.alibi import alibi_slopes
from windtunnel.nn.positions.rope import RoPE

SCOPE = Scope(d_model=16)


def _build(scope: Scope = SCOPE, **values: Any) -> Any:
    module = build_component("mixer", Attention.Config(**values).resolve(scope), scope)
    initialize(module, 0)
    return module.eval()


def _input(batch: int, t: int) -> torch.Tensor:
    return torch.randn(batch, t, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_heads": 5}, "num_heads 5 does not divide d_model 16"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads 3 does not divide num_heads 4"),
        ({"head_dim": 5}, "heads of 5 do not divide d_model 16"),
        ({"num_heads": 2, "head_dim": 5}, "an even number of dimensions"),
    ],
)
def test_heads_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Attention.Config(**values).resolve(SCOPE)


@pytest.mark.parametrize(
    "values",
    [{"num_heads": 0}, {"window": 0}, {"dropout": 1.0}, {"softcap": -1.0}, {"bogus": 1}],
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Attention.Config(**values)


def test_what_is_left_out_is_derived() -> None:
    config = Attention.Config().resolve(Scope(d_model=256))
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (4, 4, 64)
    assert config.scale == 0.125
    assert Attention.Config(num_heads=3, head_dim=10).resolve(SCOPE).head_dim == 10


def test_a_bidirectional_attention_sees_the_future_and_takes_whole_sequences() -> None:
    module = _build(Scope(d_model=16, causal=False), num_heads=2)
    x = _input(2, 6)
    edited = x.clone()
    edited[:, 5] += 1.0
    y = module(x, Span.of(6))
    assert not torch.allclose(module(edited, Span.of(6))[:, 0], y[:, 0])
    whole, state = module.extend(x, module.initial_state(2), Span.of(6))
    assert torch.equal(whole, y)
    with pytest.raises(UsageError, match="whole sequences"):
        module.extend(x, state, Span.of(6, start=6))


def test_a_windowed_state_keeps_only_what_can_still_be_seen() -> None:
    module = _build(num_heads=2, window=4)
    x = _input(2, 11)
    state = module.extend(x, module.initial_state(2), Span.of(11))[1]
    assert state.positions.tolist() == [[8, 9, 10]] * 2
    ragged = torch.ones(2, 11, dtype=torch.bool)
    ragged[0, 7:] = False
    state = module.extend(x, module.initial_state(2), Span.of_real(ragged))[1]
    assert state.positions.tolist() == [[4, 5, 6], [8, 9, 10]]


def test_a_window_as_wide_as_the_sequence_is_no_window() -> None:
    x = _input(1, 9)
    assert torch.equal(
        _build(num_heads=2, window=9)(x, Span.of(9)), _build(num_heads=2)(x, Span.of(9))
    )


def test_a_window_of_one_sees_itself_alone() -> None:
    module = _build(num_heads=2, window=1, position="none")
    x = _input(1, 5)
    torch.testing.assert_close(module(x, Span.of(5)), module.out(module.v(x)))


def test_grouped_queries_equal_many_heads_with_repeated_keys() -> None:
    grouped, full = _build(num_heads=4, num_kv_heads=2), _build(num_heads=4)
    with torch.no_grad():
        full.q.weight.copy_(grouped.q.weight)
        full.out.weight.copy_(grouped.out.weight)
        for name in ("k", "v"):
            narrow = getattr(grouped, name).weight.view(2, 4, 16)
            getattr(full, name).weight.copy_(narrow.repeat_interleave(2, 0).flatten(0, 1))
    x = _input(2, 7)
    torch.testing.assert_close(grouped(x, Span.of(7)), full(x, Span.of(7)))


def test_architectures_that_share_a_weight_share_its_init() -> None:
    one, other = _build(num_heads=4), _build(num_heads=4, num_kv_heads=1)
    assert torch.equal(one.q.weight, other.q.weight)
    assert torch.equal(one.out.weight, other.out.weight)


@pytest.mark.parametrize("style", ["half", "interleaved"])
def test_rope_products_depend_on_the_distance_alone(style: str) -> None:
    scope = Scope(d_model=8, num_heads=1)
    rope = build_component("position", RoPE.Config(style=style).resolve(scope), scope)
    q, k = (torch.randn(1, 1, 1, 8, dtype=torch.float64) for _ in range(2))

    def product(i: int, j: int) -> float:
        turned = rope.rotate(q, Span.of(1, start=i)) * rope.rotate(k, Span.of(1, start=j))
        return float(turned.sum())

    assert product(5, 2) == pytest.approx(product(1003, 1000), rel=1e-9)
    assert product(5, 2) != pytest.approx(product(5, 3), rel=1e-3)


def test_alibi_slopes_are_those_of_the_paper() -> None:
    assert alibi_slopes(8) == tuple(2.0**-i for i in range(1, 9))
    assert alibi_slopes(1) == (2.0**-8,)
    assert alibi_slopes(6) == (2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3)


def test_visible_masks_by_position_not_by_slot() -> None:
    positions = torch.tensor([[-1, 0, -1, 1, 2]])
    seen = visible(positions, positions, causal=True, window=2)[0, 0]
    assert seen[3].tolist() == [False, True, False, True, False]
    assert seen[4].tolist() == [False, False, False, True, True]
    assert seen[0].all()  # a pad sees everything, so that its softmax is finite


def test_a_band_is_executed_where_it_is_less_than_the_square() -> None:
    assert executed_keys(64, 8) == 64
    assert executed_keys(1024, 8) == 64 + 8 - 1
    assert executed_keys(1024, 256) == 128 + 256 - 1
    assert executed_keys(1024, None) == 1024
    assert executed_keys(256, 64) == 256  # half the work is no gain yet
    lengths = np.array([64, 1024, 1000])
    assert executed_keys(lengths, 8).tolist() == [executed_keys(int(t), 8) for t in lengths]


def test_long_windowed_attention_keeps_less_memory_than_the_square() -> None:
    module = _build(num_heads=1, window=16).train()
    x = _input(1, 2048).requires_grad_()
    largest = 0

    def note(value: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, value.untyped_storage().nbytes())
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        module(x, Span.of(2048))
    assert largest < 2048 * 2048 * 4 / 4


def test_layers_share_the_tables_of_a_span() -> None:
    span = Span.of(9)
    first, second = _build(num_heads=2, window=3), _build(num_heads=2, window=3)
    x = _input(1, 9)
    first(x, span)
    made = {key: id(value) for key, value in span.memo.items()}
    second(x, span)
    assert {key: id(value) for key, value in span.memo.items()} == made
    assert len(made) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"window": 5},
        {"position": "alibi"},
        {"position": {"type": "rope", "theta": 50.0}},
        {"position": {"type": "rope", "fraction": 0.5}},
        {"position": "alibi", "window": 3},
        {"num_heads": 4, "position": "alibi", "window": 3},
    ],
)
def test_layers_that_differ_do_not_share_tables(other: dict[str, Any]) -> None:
    first = _build(num_heads=2, window=3)
    x = _input(1, 9)
    second = _build(**{"num_heads": 2, **other})
    for one, then in ((first, second), (second, first)):
        span = Span.of(9)
        one(x, span)
        assert torch.equal(then(x, span), then(x, Span.of(9)))
        doubled = then.double()(x.double(), span)
        torch.testing.assert_close(doubled, then(x.double(), Span.of(9)), rtol=1e-12, atol=1e-12)
        then.float()


@pytest.mark.parametrize("g", [1, 2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_short_sequences_train_in_bfloat16_through_the_square(g: int, masked: bool) -> None:
    """The square and the fused kernel agree to bfloat16's rounding, outputs and gradients."""
    generator = torch.Generator().manual_seed(g)
    shapes = ((2, 4, 24, 8), (2, g, 24, 8), (2, g, 24, 8))
    exact = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    mask = torch.ones(24, 24, dtype=torch.bool).tril() if masked else None
    found: dict[torch.dtype, list[torch.Tensor]] = {}
    for dtype in (torch.float64, torch.bfloat16):
        q, k, v = (x.to(dtype).detach().requires_grad_() for x in exact)
        y = attend(q, k, v, scale=8**-0.5, causal=not masked, mask=mask)
        y.double().square().sum().backward()
        found[dtype] = [y.detach(), *(x.grad for x in (q, k, v) if x.grad is not None)]
    for rough, right in zip(found[torch.bfloat16], found[torch.float64], strict=True):
        assert (rough.double() - right).norm() < 0.02 * right.norm()
