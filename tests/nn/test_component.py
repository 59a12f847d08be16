from __future__ import annotations

from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from windtunnel.nn.component import (
    REGISTRIES,
    ComponentConfig,
    Norm,
    Registry,
    Scope,
    Span,
    reorder,
)
from windtunnel.nn.contracts import Case, contracts_of, place
from windtunnel.nn.contracts.behaviour import check_causality, check_seed, check_shape
from windtunnel.nn.contracts.cost import check_cost
from windtunnel.nn.cost import Cost
from windtunnel.nn.initialize import Init, constant, initialize, keyed_generator, normal
from windtunnel.nn.linear import Linear
from windtunnel.nn.mixers.attention import Attention
from windtunnel.nn.mlps.dense import DenseMLP
from windtunnel.nn.mlps.glu import GatedMLP


def test_span_counts_real_tokens_and_knows_whether_there_are_pads() -> None:
    real = torch.tensor([[False, True, True], [True, False, True]])
    span = Span.of_real(real, torch.tensor([0, 5]))
    assert span.positions.tolist() == [[-1, 0, 1], [5, -1, 6]]
    assert span.padded
    assert span.offset is None
    assert not Span.of_real(torch.ones(2, 3, dtype=torch.bool)).padded
    assert Span.of(3, start=4).positions.tolist() == [[4, 5, 6]]


class _Pair(NamedTuple):
    a: Tensor
    b: tuple[Tensor, ...]


def test_reorder_goes_into_every_state() -> None:
    state = _Pair(torch.arange(3), (torch.arange(6).view(3, 2),))
    picked = reorder(state, torch.tensor([2, 2, 0]))
    assert isinstance(picked, _Pair)
    assert picked.a.tolist() == [2, 2, 0]
    assert picked.b[0].tolist() == [[4, 5], [4, 5], [0, 1]]
    with pytest.raises(TypeError, match="a state is a tuple of tensors, not list"):
        reorder([torch.arange(3)], torch.tensor([0]))


def test_a_name_is_registered_once() -> None:
    class Config(ComponentConfig):
        type: Literal["twin"] = "twin"

    first = type("First", (Norm,), {"Config": Config, "forward": lambda self, x: x})
    second = type("Second", (Norm,), {"Config": Config, "forward": lambda self, x: x})
    registry = Registry("test_twins")
    registry.register(first)
    registry.register(first)
    with pytest.raises(ValueError, match="'twin' is registered twice"):
        registry.register(second)
    assert registry.names() == ("twin",)


@pytest.mark.parametrize("init", [normal(0.3), Init("uniform", 0.5), Init("orthogonal", 1.0)])
def test_init_depends_on_seed_and_name_alone(init: Init) -> None:
    shape = torch.Size((6, 4))
    one = init.fill(shape, keyed_generator(0, "a.weight"))
    assert torch.equal(one, init.fill(shape, keyed_generator(0, "a.weight")))
    assert not torch.equal(one, init.fill(shape, keyed_generator(1, "a.weight")))
    assert not torch.equal(one, init.fill(shape, keyed_generator(0, "b.weight")))


def test_orthogonal_blocks_are_rotations_each() -> None:
    value = Init("orthogonal", 2.0, blocks=3).fill(torch.Size((12, 4)), keyed_generator(0, "w"))
    for block in value.chunk(3):
        torch.testing.assert_close(block @ block.T, 4 * torch.eye(4), atol=1e-5, rtol=1e-5)


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    Linear(30, 20, bias=True)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_parameter_without_an_init_is_our_fault() -> None:
    with pytest.raises(AssertionError, match="no init for"):
        initialize(nn.Linear(2, 2), 0)


def test_linear_keeps_unit_variance() -> None:
    linear = Linear(400, 300, bias=False)
    initialize(linear, 0)
    y = linear(torch.randn(50, 400, generator=keyed_generator(0, "x")))
    assert y.std().item() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(
    ("config", "d_model", "d_ff"),
    [
        (DenseMLP.Config(), 96, 384),
        (GatedMLP.Config(), 384, 1024),
        (GatedMLP.Config(), 100, 267),
        (GatedMLP.Config(multiple_of=64), 384, 1024),
        (GatedMLP.Config(multiple_of=256), 384, 1024),
        (DenseMLP.Config(ratio=1.1, multiple_of=16), 16, 32),
        (DenseMLP.Config(ratio=0.001), 16, 1),
        (DenseMLP.Config(d_ff=5), 16, 5),
        (DenseMLP.Config.model_validate({"ratio": "8/3"}), 96, 256),
    ],
)
def test_the_hidden_width_is_derived(config: Any, d_model: int, d_ff: int) -> None:
    resolved = config.resolve(Scope(d_model=d_model))
    assert resolved.d_ff == d_ff
    assert resolved == type(config)(**{**config.model_dump(), "d_ff": d_ff, "ratio": None,
                                       "multiple_of": None})  # fmt: skip


@pytest.mark.parametrize("extra", [{"ratio": 2.0}, {"multiple_of": 8}])
def test_a_width_said_twice_is_refused(extra: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"twice|no effect"):
        DenseMLP.Config(d_ff=8, **extra)


# The contracts themselves can fail: one broken component for each.


class BrokenConfig(ComponentConfig):
    """A norm with a fault."""

    type: Literal["broken"] = "broken"
    fault: str = "none"

    def cost(self, scope: Scope, t: Any) -> Cost:
        return Cost(params=scope.d_model)


class Broken(Norm[BrokenConfig]):
    Config = BrokenConfig

    def __init__(self, config: BrokenConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self.weight = nn.Parameter(torch.empty(scope.d_model + (config.fault == "params")))

    def initializers(self) -> dict[str, Init]:
        if self.config.fault == "random":
            return {"weight": constant(float(torch.rand(())))}
        return {"weight": constant(1.0)}

    def forward(self, x: Tensor) -> Tensor:
        fault = self.config.fault
        if fault == "mutates":
            x.detach().add_(1)
        if fault == "unused":
            return x * 1.0
        if fault == "float":
            return (x * self.weight).float()
        if fault == "leak":
            return x * self.weight - x.mean(1, keepdim=True)
        return x * self.weight[: x.shape[-1]]


@pytest.mark.parametrize(
    ("fault", "contract", "message"),
    [
        ("mutates", check_shape, "the input was changed"),
        ("unused", check_shape, "weight gets no gradient"),
        ("float", check_shape, "dtype"),
        ("leak", check_causality, "editing token"),
        ("random", check_seed, "differs under the same seed|random state"),
        ("params", check_cost, "parameters: predicted 16, found 17"),
    ],
)
def test_a_broken_component_is_found(
    fault: str, contract: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry("test_broken")
    registry.register(Broken)
    monkeypatch.setitem(REGISTRIES, "test_broken", registry)
    case = Case("test_broken", BrokenConfig(fault=fault), place("norm"))
    with pytest.raises(AssertionError, match=message):
        contract(case)


def test_contracts_of_a_bidirectional_mixer_leave_causality_out() -> None:
    config = Attention.Config(num_heads=2)
    names = {c.__name__ for c in contracts_of(Case("mixer", config, Scope(16, causal=False)))}
    assert "check_causality" not in names
    assert "check_padding" in names
