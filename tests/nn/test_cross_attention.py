from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from windtunnel.nn.component import Scope, reorder
from windtunnel.nn.cross_attention import CrossAttention, CrossAttentionConfig
from windtunnel.nn.initialize import initialize

SCOPE = Scope(d_model=16, num_layers=2)
VARIANTS: list[dict[str, Any]] = [
    {"num_heads": 2},
    {"num_heads": 4, "num_kv_heads": 2, "bias": True},
    {"num_heads": 4, "num_kv_heads": 1, "head_dim": 6, "scale": 0.9, "out_bias": True},
]


def _build(dtype: torch.dtype = torch.float64, **values: Any) -> CrossAttention:
    module = CrossAttention(CrossAttentionConfig(**values).resolve(SCOPE), SCOPE)
    initialize(module, 0)
    return module.to(dtype).eval()


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _reference(module: CrossAttention, x: Tensor, memory: Tensor, real: list[bool]) -> Tensor:
    """One row: x t d, memory s d."""
    config, weights = module.config, dict(module.named_parameters())

    def heads(name: str, row: Tensor) -> list[Tensor]:
        y = weights[f"{name}.weight"] @ row + weights.get(f"{name}.bias", torch.tensor(0.0))
        assert config.head_dim is not None
        return list(y.split(config.head_dim))

    assert config.num_heads
    assert config.num_kv_heads
    assert config.scale
    group = config.num_heads // config.num_kv_heads
    slots = [(heads("k", m), heads("v", m)) for m, r in zip(memory, real, strict=True) if r]
    rows = []
    for token in x:
        read = []
        for head, q in enumerate(heads("q", token)):
            powers = [torch.exp((q * k[head // group]).sum() * config.scale) for k, _ in slots]
            top = sum(
                (p * v[head // group] for p, (_, v) in zip(powers, slots, strict=True)), 0 * q
            )
            read.append(top / sum(powers) if powers else top)
        bias = weights.get("out.bias", torch.tensor(0.0))
        rows.append(weights["out.weight"] @ torch.cat(read) + bias)
    return torch.stack(rows)


@pytest.mark.parametrize("values", VARIANTS)
def test_outputs_and_gradients_equal_a_naive_reference(values: dict[str, Any]) -> None:
    module = _build(**values)
    x, memory = _random(2, 3, 16).requires_grad_(), _random(2, 5, 16, seed=1).requires_grad_()
    real = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 1, 0, 0]]).bool()
    found = module(x, module.project(memory, real))
    expected = torch.stack(
        [_reference(module, x[row], memory[row], real[row].tolist()) for row in range(2)]
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    wanted = [x, memory, *module.parameters()]
    probe = _random(*found.shape, seed=2)
    ours = torch.autograd.grad((found * probe).sum(), wanted)
    theirs = torch.autograd.grad((expected * probe).sum(), wanted)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)
    assert float(ours[1][~real].abs().max()) == 0.0


@pytest.mark.parametrize("values", VARIANTS)
def test_padding_of_the_memory_changes_nothing(values: dict[str, Any]) -> None:
    module = _build(**values)
    x, memory = _random(3, 4, 16), _random(3, 6, 16, seed=1)
    real = torch.ones(3, 6, dtype=torch.bool)
    real[0, :2], real[1, 4:], real[2, [0, 3]] = False, False, False
    padded = module(x, module.project(torch.where(real[..., None], memory, 1e4), real))
    for row in range(3):
        alone = module(x[row : row + 1], module.project(memory[row : row + 1, real[row]]))
        torch.testing.assert_close(padded[row], alone[0], rtol=1e-10, atol=1e-12)


def test_a_row_whose_memory_is_all_pads_reads_zeros() -> None:
    module = _build(num_heads=2, out_bias=True)
    with torch.no_grad():
        assert module.out.bias is not None
        module.out.bias.fill_(0.5)
    real = torch.tensor([[False] * 4, [True] * 4])
    memory = _random(2, 4, 16, seed=1).requires_grad_()
    y = module(_random(2, 3, 16), module.project(memory, real))
    assert bool((y[0] == 0.5).all())
    (grad,) = torch.autograd.grad(y.square().sum(), memory)
    assert bool(grad.isfinite().all())
    assert float(grad[0].abs().max()) == 0.0


def test_tokens_may_be_read_in_any_chunks_of_one_projection() -> None:
    module = _build(num_heads=4, num_kv_heads=2)
    x, memory = _random(2, 7, 16), _random(2, 5, 16, seed=1)
    kv = module.project(memory, torch.tensor([[1, 1, 1, 1, 0], [1, 0, 1, 1, 1]]).bool())
    before = [part.clone() for part in kv if part is not None]
    whole = module(x, kv)
    parts = torch.cat([module(x[:, a:b], kv) for a, b in ((0, 1), (1, 5), (5, 7))], dim=1)
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-12)
    kept = [part for part in kv if part is not None]
    assert all(torch.equal(p, q) for p, q in zip(before, kept, strict=True))


@pytest.mark.parametrize("padded", [False, True])
def test_rows_of_a_projection_may_be_picked(padded: bool) -> None:
    module = _build(num_heads=2)
    x, memory, rows = _random(3, 2, 16), _random(3, 5, 16, seed=1), torch.tensor([2, 0, 2])
    real = torch.ones(3, 5, dtype=torch.bool)
    real[2, 3:] = not padded
    kv = module.project(memory, real)
    torch.testing.assert_close(
        module(x[rows], reorder(kv, rows)), module(x, kv)[rows], rtol=1e-12, atol=1e-12
    )


def test_it_reads_the_memory_in_any_order() -> None:
    module = _build(num_heads=2)
    x, memory = _random(1, 3, 16), _random(1, 5, 16, seed=1)
    torch.testing.assert_close(
        module(x, module.project(memory.flip(1))), module(x, module.project(memory))
    )


@pytest.mark.parametrize("values", VARIANTS)
@pytest.mark.parametrize(("t", "s"), [(1, 4), (6, 5)])
def test_the_cost_is_that_of_the_module(values: dict[str, Any], t: int, s: int) -> None:
    module = _build(torch.float32, **values)
    cost = module.config.cost(SCOPE, t, s)
    assert cost.params == sum(p.numel() for p in module.parameters())
    x, memory = _random(1, t, 16).float(), _random(1, s, 16).float()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as whole:
            kv = module.project(memory)
            module(x, kv)
        with FlopCounterMode(display=False) as step:
            module(x[:, :1], kv)
    assert whole.get_total_flops() == pytest.approx(cost.forward_flops * t)
    assert step.get_total_flops() == cost.decode_flops
    assert cost.state_values == kv.k.numel() + kv.v.numel()


def test_one_cost_formula_counts_many() -> None:
    config = CrossAttentionConfig(num_heads=2, dropout=0.1).resolve(SCOPE)
    many = config.cost(SCOPE, np.array([3, 8]), np.array([5, 2]))
    for index, (t, s) in enumerate([(3, 5), (8, 2)]):
        one = config.cost(SCOPE, t, s)
        for name in ("forward_flops", "decode_flops", "activation_values", "state_values"):
            assert getattr(many, name)[index] == pytest.approx(getattr(one, name))


def test_dropout_acts_in_training_alone() -> None:
    module = _build(num_heads=2, dropout=0.5)
    x, kv = _random(1, 3, 16), module.project(_random(1, 5, 16, seed=1))
    assert torch.equal(module(x, kv), module(x, kv))
    module.train()
    torch.manual_seed(0)
    assert not torch.equal(module(x, kv), module(x, kv))


@pytest.mark.parametrize("scale", [0.1, 100.0])
def test_outputs_and_gradients_are_finite_at_any_scale(scale: float) -> None:
    module = _build(torch.float32, num_heads=2)
    memory = (_random(2, 6, 16, seed=1).float() * scale).requires_grad_()
    y = module(_random(2, 3, 16).float() * scale, module.project(memory))
    (grad,) = torch.autograd.grad(y.sum(), memory)
    assert math.isfinite(float(y.detach().abs().max() + grad.abs().max()))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_heads": 5}, "num_heads 5 does not divide d_model 16"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads 3 does not divide num_heads 4"),
        ({"head_dim": 5}, "heads of 5 do not divide d_model 16"),
    ],
)
def test_heads_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrossAttentionConfig(**values).resolve(SCOPE)
