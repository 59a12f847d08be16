"""Mixture of experts: routing, balancing, noise; and auxiliary losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from windtunnel.nn.auxiliary import auxiliary_losses, collect_auxiliary, counting
from windtunnel.nn.component import Scope, build_component
from windtunnel.nn.initialize import initialize
from windtunnel.nn.mlps.dense import DenseConfig
from windtunnel.nn.mlps.glu import GatedConfig
from windtunnel.nn.mlps.moe import MoE, MoEConfig

SCOPE = Scope(d_model=16)


def moe(**values: Any) -> MoE:
    config = MoEConfig.model_validate({"num_experts": 4, **values}).resolve(SCOPE)
    module: MoE = build_component("mlp", config, SCOPE)
    initialize(module, 0)
    return module


def tokens(n: int = 40, seed: int = 0) -> Tensor:
    return torch.randn(2, n // 2, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("expert", [DenseConfig(d_ff=24, bias=True), GatedConfig(d_ff=24)])
def test_one_expert_is_that_feed_forward(expert: DenseConfig | GatedConfig) -> None:
    module = moe(num_experts=1, top_k=1, expert=expert)
    alone = build_component("mlp", expert, SCOPE)
    alone.load_state_dict(module.experts[0].state_dict())
    assert torch.equal(module(tokens()), alone(tokens()))
    assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"experts"}


def test_no_token_is_dropped_when_all_choose_the_same_expert() -> None:
    module = moe(top_k=1, normalize=False).double()
    router = module.get_parameter("router")
    x = tokens(200).double().abs()
    with torch.no_grad():
        router.zero_()
        router[2] = 10.0
        torch.testing.assert_close(module(x), module.experts[2](x), rtol=1e-9, atol=0)


def test_an_expert_without_tokens_has_a_gradient_of_zero() -> None:
    module = moe(top_k=1)
    with torch.no_grad():
        module.get_parameter("router").zero_()[2] = 10.0
    module(tokens().abs()).sum().backward()
    for index, expert in enumerate(module.experts):
        for parameter in expert.parameters():
            assert parameter.grad is not None
            assert bool(parameter.grad.any()) == (index == 2)


def test_normalised_sigmoid_gates_sum_to_one_however_small_they_are() -> None:
    module = moe(score="sigmoid")
    with torch.no_grad():
        module.get_parameter("router").fill_(-50.0)
    gates, _ = module._route(tokens().abs().flatten(0, 1), module.get_parameter("router"))
    torch.testing.assert_close(gates.sum(-1), torch.ones(40))


def test_noise_acts_in_training_alone_and_by_the_random_state() -> None:
    module = moe(noise=2.0)
    quiet = module.eval()(tokens())
    assert torch.equal(quiet, moe().eval()(tokens()))
    module.train()
    torch.manual_seed(5)
    first, second = module(tokens()), module(tokens())
    torch.manual_seed(5)
    assert torch.equal(first, module(tokens()))
    assert not torch.equal(first, second)
    assert not torch.equal(first, quiet)


def naive_balance(module: MoE, x: Tensor) -> Tensor:
    """rate · e · Σ f_i · P_i, one token at a time."""
    used, mean = [0.0] * 4, [torch.zeros(())] * 4
    for token in x:
        gates = torch.softmax(module.get_parameter("router") @ token, 0)
        for i in sorted(range(4), key=lambda i: -gates[i].item())[:2]:
            used[i] += 1 / (2 * len(x))
        mean = [m + g / len(x) for m, g in zip(mean, gates, strict=True)]
    return 0.3 * 4 * torch.stack([f * m for f, m in zip(used, mean, strict=True)]).sum()


@pytest.mark.parametrize("padded", [False, True])
def test_the_balance_loss_is_that_of_switch_over_real_tokens(padded: bool) -> None:
    module, x = moe(balance="loss", balance_rate=0.3), tokens()
    real = torch.ones(2, 20, dtype=torch.bool)
    if padded:
        real[0, :15] = False
    with collect_auxiliary() as auxiliary, counting(real):
        module(x)
    (loss,) = auxiliary.losses
    expected = naive_balance(module, x[real])
    torch.testing.assert_close(loss, expected)
    router = module.get_parameter("router")
    found = torch.autograd.grad(loss, router)[0]
    torch.testing.assert_close(found, torch.autograd.grad(expected, router)[0])
    assert torch.equal(torch.as_tensor(auxiliary.total()), loss)


def test_a_batch_of_pads_alone_has_a_finite_balance_loss() -> None:
    with collect_auxiliary() as auxiliary, counting(torch.zeros(2, 20, dtype=torch.bool)):
        moe(balance="loss")(tokens())
    assert torch.as_tensor(auxiliary.total()).item() == 0.0


def test_auxiliary_losses_are_offered_in_training_to_who_asks() -> None:
    module = moe(balance="loss")
    module(tokens())
    assert auxiliary_losses(module) is None
    with collect_auxiliary() as auxiliary:
        with torch.no_grad():
            module(tokens())
        module.eval()(tokens())
        assert auxiliary.losses == []
        assert auxiliary.total() == 0.0
        module.train()(tokens())
    assert len(auxiliary.losses) == 1
    with pytest.raises(KeyError), collect_auxiliary():
        raise KeyError
    module(tokens())
    assert auxiliary_losses(module) is None
    assert len(auxiliary.losses) == 1


def spread(module: MoE) -> float:
    """How much the loads of the experts differ, over their mean."""
    x = tokens(400, seed=1) + 1.0
    chosen = module._route(x.flatten(0, 1), module.get_parameter("router"))[1]
    load = chosen.flatten().bincount(minlength=4).float()
    return float(load.std() / load.mean())


def test_the_bias_of_loss_free_balancing_evens_the_load_and_leaves_the_gates() -> None:
    module = moe(balance="loss_free", balance_rate=0.02)
    before = spread(module.eval())
    module.train()
    for step in range(30):
        module(tokens(400, seed=1) + 1.0)
        module.after_update(seed=0, step=step)
    assert spread(module.eval()) < 0.3 * before
    gates = module._route(tokens().flatten(0, 1), module.get_parameter("router"))[0]
    torch.testing.assert_close(gates.sum(-1), torch.ones(40))
    assert set(module.state_dict()) - {n for n, _ in module.named_parameters()} == {"balance_bias"}


def test_the_bias_moves_by_its_rate_against_the_load_of_real_tokens_in_training() -> None:
    module, x = moe(top_k=1, balance="loss_free", balance_rate=0.5), tokens().abs()
    with torch.no_grad():
        module.get_parameter("router").zero_()[1] = 10.0
    bias = module.get_buffer("balance_bias")
    module.eval()(x)
    module.train()
    with torch.no_grad():
        module(x)
    with counting(torch.zeros(2, 20, dtype=torch.bool)):
        module(x)
    module.after_update(seed=0, step=1)
    assert bias.tolist() == [0.0, 0.0, 0.0, 0.0]
    module(x)
    module.after_update(seed=0, step=2)
    assert bias.tolist() == [0.5, -0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"top_k": 5}, "top_k 5 is more than num_experts 4"),
        ({"top_k": 1, "normalize": True}, "router would learn nothing"),
        ({"balance_rate": 0.1}, "no effect without balance"),
        ({"num_experts": 1, "top_k": 1, "noise": 0.1}, "has no router"),
        ({"expert": "none"}, "an expert cannot be 'none'"),
    ],
)
def test_what_would_have_no_effect_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moe(**values)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_the_factorys_gated_feed_forward_is_a_fused_glu(activation: str) -> None:
    """d → 2·4d → d with biases; the activation on the first half."""
    config = GatedConfig.model_validate(
        {"activation": activation, "ratio": 4.0, "bias": True, "fused": True}
    ).resolve(SCOPE)
    module = build_component("mlp", config, SCOPE)
    initialize(module, 0)
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {
        "up.weight": (128, 16),
        "up.bias": (128,),
        "down.weight": (16, 64),
        "down.bias": (16,),
    }
    split = build_component("mlp", config.replace(fused=False), SCOPE)
    weights = module.state_dict()
    for part in ("weight", "bias"):
        first, second = weights.pop(f"up.{part}").chunk(2)
        weights |= {f"gate.{part}": first, f"up.{part}": second}
    split.load_state_dict(weights)
    torch.testing.assert_close(module(tokens()), split(tokens()))
