"""Which parameters decay, and what float32 masters do."""

import pytest
import torch
from standins import TinyModel, recipe
from torch import nn

from windtunnel.train.groups import parameter_groups
from windtunnel.train.optimizers.together import build_optimizer
from windtunnel.train.precision import MasterWeights, ModuleWeights, training_weights


def test_only_matrices_decay() -> None:
    decayed, rest = parameter_groups(
        recipe(), {name: p.shape for name, p in TinyModel().named_parameters()}
    )
    assert decayed.names == ("mix.weight",)
    assert sorted(rest.names) == [
        "embedding.weight", "gate", "mix.bias", "norm.bias", "norm.weight",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["layers.0.mixer_join.norm.scale", "position.weight", "x.bias_hh", "TokenEmbedding.w"]
)
def test_a_matrix_with_a_telling_name_does_not_decay(name: str) -> None:
    (group,) = parameter_groups(recipe(), {name: (2, 2)})
    assert group.treatment.weight_decay == 0.0


def test_the_optimizer_has_every_parameter_once_with_its_decay() -> None:
    model = TinyModel()
    config = recipe(weight_decay=0.3, betas=(0.8, 0.9), eps=1e-5)
    optimizer = build_optimizer(config, dict(model.named_parameters()))
    by_parameter = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert by_parameter == {
        id(p): 0.3 if name == "mix.weight" else 0.0 for name, p in model.named_parameters()
    }
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert optimizer.defaults["eps"] == 1e-5
    assert optimizer.defaults["fused"] is True


def test_adamw_follows_its_equations() -> None:
    config = recipe(lr=0.1, weight_decay=0.5, betas=(0.9, 0.99), eps=1e-8)
    weight = nn.Parameter(torch.tensor([[2.0, -1.0]]))
    optimizer = build_optimizer(config, {"w": weight})
    expected, m, v = weight.detach().double().clone(), 0.0, 0.0
    for t, gradient in enumerate(([0.3, -0.2], [0.1, 0.4]), start=1):
        g = torch.tensor([gradient])
        weight.grad = g
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g.double(), 0.99 * v + 0.01 * g.double() ** 2
        expected -= 0.1 * 0.5 * expected
        expected -= 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)).sqrt() + 1e-8)
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-6, atol=0)


def test_float32_moves_the_module_s_own_parameters() -> None:
    model = TinyModel()
    weights = training_weights(model, recipe())
    assert isinstance(weights, ModuleWeights)
    assert all(weights.parameters[name] is p for name, p in model.named_parameters())


def test_masters_start_as_the_weights_and_the_module_computes_in_bfloat16() -> None:
    model, before = TinyModel(), dict(TinyModel().named_parameters())
    weights = training_weights(model, recipe(precision="bfloat16"))
    assert weights.parameters.keys() == before.keys()
    for name, master in weights.parameters.items():
        assert torch.equal(master, before[name])
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.scale.dtype == torch.float32
    assert model.head.weight is model.embedding.weight


def test_updates_too_small_for_bfloat16_add_up_in_the_masters() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    weights = MasterWeights(model)
    for _ in range(100):
        with torch.no_grad():
            weights.parameters["weight"].add_(1e-3)  # a bfloat16 step at 1 is 2⁻⁷
        weights.publish()
    assert model.weight.item() == pytest.approx(1.1, abs=2**-8)


def test_micro_batch_gradients_add_up_in_float32() -> None:
    model = nn.Linear(1, 1, bias=False)
    weights = MasterWeights(model)
    for value in [1.0] + [2**-10] * 64:
        model.weight.grad = torch.tensor([[value]], dtype=torch.bfloat16)
        weights.gather()
    assert model.weight.grad is None
    master = weights.parameters["weight"]
    assert master.grad is not None
    assert master.grad.item() == 1 + 64 * 2**-10
    weights.clear()
    assert master.grad is None
