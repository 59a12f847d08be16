"""What promises float32 keeps it under autocast, which narrows the products of widened tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from windtunnel.nn.component import REGISTRIES, Scope, Span, build_component
from windtunnel.nn.depth import DepthConfig, DepthRouter
from windtunnel.nn.initialize import initialize
from windtunnel.nn.mlps.moe import MoE, MoEConfig
from windtunnel.nn.ops.recompute import recomputed
from windtunnel.nn.ops.wide import wide_linear

SCOPE = Scope(d_model=16, max_seq_len=64, num_layers=2)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _moved(module: Any) -> Any:
    initialize(module, 0)
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.add_(0.1 * _random(*parameter.shape, seed=i))
    return module.eval()


def _component(kind: str, type: str) -> Any:
    made = REGISTRIES[kind].config_class(type)
    assert made is not None
    config: Any = made.model_validate({"type": type})
    return _moved(build_component(kind, config.resolve(SCOPE), SCOPE))


def router_of_experts() -> list[Tensor]:
    config = MoEConfig(num_experts=8, top_k=2).resolve(SCOPE)
    module: MoE = _moved(build_component("mlp", config, SCOPE))
    return list(module._route(_random(40, 16), module.router))


def router_of_depth() -> list[Tensor]:
    router = _moved(DepthRouter(DepthConfig(capacity=0.5), SCOPE))
    picked = router.pick(_random(2, 30, 16), Span.of(30), router.none_seen(2))
    return [picked.index, picked.gate]


def links_of(type: str) -> Callable[[], list[Tensor]]:
    return lambda: list(_component("residual", type).links(_random(2, 9, 4, 16)))


def taps() -> list[Tensor]:
    return [_component("mixer", "long_conv").filter(0, 50)]


PROMISED = {
    "experts": router_of_experts,
    "depth": router_of_depth,
    "hyper": links_of("hyper"),
    "manifold_hyper": links_of("manifold_hyper"),
    "long_conv": taps,
    "map": lambda: [wide_linear(_random(5, 16), _random(3, 16), _random(3))],
}


@pytest.mark.parametrize("name", PROMISED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(name: str, dtype: torch.dtype) -> None:
    plain = PROMISED[name]()
    with torch.autocast("cpu", dtype):
        narrowed = PROMISED[name]()
    for one, other in zip(plain, narrowed, strict=True):
        assert other.dtype == one.dtype
        torch.testing.assert_close(other, one, rtol=0, atol=0)


def test_a_recomputed_operation_is_the_same_within_autocast_and_backward() -> None:
    def operation(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return ((x @ w).exp(),)

    found = []
    for enabled in (False, True):
        x, w = _random(5, 16).requires_grad_(), _random(16, 4, seed=1).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            (y,) = recomputed(operation, x, w)
            y.sum().backward()  # within, as it may be
        found.append([y, x.grad, w.grad])
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert torch.equal(one, other)
