"""Contracts over every registered optimizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from optimizer_references import REFERENCES, ROWS, ident
from standins import ListBatches, TinyModel, learnable_batches, recipe
from torch import nn

from windtunnel.config import parse_document
from windtunnel.errors import ConfigError
from windtunnel.train.average import result_weights
from windtunnel.train.checkpoint import load_newest, load_weights, save_checkpoint
from windtunnel.train.groups import optimizer_values, parameter_groups
from windtunnel.train.loop import TrainState, create_train_state, train_steps
from windtunnel.train.optimizers.config import (
    OPTIMIZERS,
    AdafactorConfig,
    MuonConfig,
    OptimizerConfig,
    RMSpropConfig,
)
from windtunnel.train.optimizers.muon import Muon
from windtunnel.train.optimizers.together import parts_of, state_sizes
from windtunnel.train.run_config import load_run_document

every = pytest.mark.parametrize("config", ROWS, ids=ident)

LR = {"sgd": 0.1, "lion": 0.005, "adafactor": 0.1, "adagrad": 0.1}
"""Learning rates where that of the others is not a good one."""


def make(config: OptimizerConfig, seed: int = 0, **changes: object) -> TrainState:
    values: dict[str, object] = {"optimizer": config, "lr": LR.get(config.type, 0.02)}
    train = recipe(**(values | changes))
    return create_train_state(TinyModel(seed), ListBatches(learnable_batches()), train)


def take(state: TrainState, steps: int) -> list[float]:
    return [info.loss for _, info in zip(range(steps), train_steps(state), strict=False)]


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in state.weights.parameters.items()}


def test_every_optimizer_has_rows_and_a_reference() -> None:
    names = {cls.model_fields["type"].default for cls in OPTIMIZERS}
    assert names == set(OPTIMIZERS.names()) == set(REFERENCES) == {row.type for row in ROWS}


@every
def test_five_steps_follow_the_equations_in_float64(config: OptimizerConfig) -> None:
    rng = np.random.default_rng(3)
    shapes = [(5, 3), (3, 6), (4, 4)] + [(7,), ()] * (config.type != "muon")
    if getattr(config, "max_dim", 0) > 6:  # of one oblong gradient the eigenvectors are not unique
        shapes[:2] = [(5, 5), (3, 3)]
    starts = [rng.normal(size=shape) for shape in shapes]
    parameters = [nn.Parameter(torch.tensor(start)) for start in starts]
    decays = [0.3] * 3 + [0.0] * (len(shapes) - 3)
    groups = [{"params": [p], "weight_decay": d} for p, d in zip(parameters, decays, strict=True)]
    optimizer = config.make(groups, (0.9, 0.95), 1e-8)
    steppers = [REFERENCES[config.type](config) for _ in shapes]
    expected = list(starts)
    for t in range(1, 6):
        lr = 0.1 / t
        for group in optimizer.param_groups:
            group["lr"] = lr
        for index, parameter in enumerate(parameters):
            g = rng.normal(size=shapes[index])
            parameter.grad = torch.tensor(g)
            expected[index] = steppers[index](expected[index], g, t, lr, decays[index])
        optimizer.step()
        for parameter, value in zip(parameters, expected, strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=1e-9, atol=1e-12)


@every
def test_it_descends_a_quadratic(config: OptimizerConfig) -> None:
    generator = torch.Generator().manual_seed(5)
    target, curved = torch.randn(4, 6, generator=generator), torch.linspace(0.5, 2.0, 6)
    w = nn.Parameter(torch.zeros(4, 6))
    optimizer = config.make([{"params": [w], "weight_decay": 0.0}], (0.9, 0.95), 1e-8)

    def loss() -> torch.Tensor:
        return ((w - target) ** 2 * curved).mean()

    start = loss().item()
    for step in range(300):
        optimizer.zero_grad()
        loss().backward()
        for group in optimizer.param_groups:
            group["lr"] = {"sgd": 0.3, "adagrad": 0.5}.get(config.type, 0.1) * (1 - step / 300)
        optimizer.step()
    assert loss().item() < 0.05 * start


@every
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_learns(config: OptimizerConfig, precision: str) -> None:
    losses = take(make(config, steps=40, precision=precision), 40)
    assert sum(losses[-7:]) < 0.8 * sum(losses[:7])


@every
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_twelve_steps_are_seven_and_five(
    config: OptimizerConfig, precision: str, tmp_path: Path
) -> None:
    straight = make(config, precision=precision)
    take(straight, 12)
    first = make(config, precision=precision)
    take(first, 7)
    before = weights(first)
    save_checkpoint(tmp_path, first, keep=1)
    assert all(torch.equal(before[name], value) for name, value in weights(first).items())
    second = make(config, seed=9, precision=precision)
    assert load_newest(tmp_path, second, pytest.fail) == 7
    take(second, 5)
    for name, value in weights(straight).items():
        assert torch.equal(second.weights.parameters[name], value), name
    assert state_sizes(second.optimizer) == state_sizes(straight.optimizer)
    for name, parameter in straight.weights.parameters.items():
        found = second.optimizer.state.get(second.weights.parameters[name], {})
        for key, value in straight.optimizer.state.get(parameter, {}).items():
            equal = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
            assert equal(found[key], value), (name, key)


@every
def test_what_it_keeps_is_what_is_predicted(config: OptimizerConfig) -> None:
    state = make(config)
    take(state, 2)
    shapes = {name: tuple(p.shape) for name, p in state.weights.parameters.items()}
    groups = parameter_groups(state.config, shapes)
    assert optimizer_values(groups, shapes) == state_sizes(state.optimizer)


@every
def test_what_is_saved_is_what_is_evaluated(config: OptimizerConfig, tmp_path: Path) -> None:
    state = make(config)
    take(state, 6)
    trained = weights(state)
    with result_weights(state):
        evaluated = weights(state)
    assert all(torch.equal(trained[name], value) for name, value in weights(state).items())
    averages = config.type == "schedule_free_adamw"
    assert any(not torch.equal(trained[n], evaluated[n]) for n in trained) == averages
    save_checkpoint(tmp_path, state, keep=1)
    model = TinyModel(4)
    load_weights(tmp_path, model, pytest.fail)
    assert all(torch.equal(evaluated[n], p) for n, p in model.named_parameters())


def test_the_average_of_schedule_free_is_that_of_its_equations() -> None:
    config = next(row for row in ROWS if row.type == "schedule_free_adamw")
    w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = config.make([{"params": [w], "weight_decay": 0.1}], (0.9, 0.95), 1e-8)
    step = REFERENCES[config.type](config)
    y = w.detach().numpy().copy()
    for t in range(1, 6):
        g = np.array([0.3 * t, -1.0 / t])
        w.grad = torch.tensor(g)
        optimizer.param_groups[0]["lr"] = 0.1 * t
        optimizer.step()
        y = step(y, g, t, 0.1 * t, 0.1)
    optimizer.average()
    np.testing.assert_allclose(w.detach().numpy(), step.kept["x"], rtol=1e-12)
    optimizer.train()
    np.testing.assert_allclose(w.detach().numpy(), y, rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_centered_rmsprop_bears_a_constant_gradient(momentum: float) -> None:
    """E[g²] − E[g]² is 0 but for rounding, and below it for some."""
    generator = torch.Generator().manual_seed(2)
    g, start = (torch.randn(1000, generator=generator) for _ in range(2))
    w = nn.Parameter(start.clone())
    config = RMSpropConfig(centered=True, alpha=0.9, eps=0.5, momentum=momentum)
    optimizer = config.make([{"params": [w], "lr": 1e-3, "weight_decay": 0.0}], (0.9, 0.95), 1e-8)
    for _ in range(400):
        w.grad = g.clone()
        optimizer.step()
    before = w.detach().clone()
    w.grad = g.clone()
    optimizer.step()
    step = 1e-3 * g / 0.5 / (1 - momentum)
    torch.testing.assert_close(before - w.detach(), step, rtol=2e-2, atol=2e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_centered_rmsprop_is_torchs_where_no_variance_is_negative(momentum: float) -> None:
    generator = torch.Generator().manual_seed(3)
    ours, theirs = (nn.Parameter(torch.ones(6, 4)) for _ in range(2))
    config = RMSpropConfig(centered=True, eps=1e-3, momentum=momentum)
    mine = config.make([{"params": [ours], "lr": 0.01, "weight_decay": 0.0}], (0.9, 0.95), 1e-8)
    torchs = torch.optim.RMSprop(
        [theirs], lr=0.01, alpha=0.99, eps=1e-3, momentum=momentum, centered=True
    )
    for _ in range(20):
        ours.grad = torch.randn(6, 4, generator=generator)
        theirs.grad = ours.grad.clone()
        mine.step()
        torchs.step()
    assert torch.equal(ours, theirs)
    kept, expected = mine.state[ours], torchs.state[theirs]
    assert list(kept) == list(expected)
    assert all(torch.equal(kept[key], expected[key]) for key in expected)


def test_adafactor_bears_rows_without_a_gradient_with_the_smallest_eps() -> None:
    """The embedding of a token that no text has; and a bias."""
    w, bias = nn.Parameter(torch.ones(6, 4)), nn.Parameter(torch.ones(6))
    config = AdafactorConfig(eps=(1.1e-19, 1e-3))
    groups = [{"params": [w, bias], "lr": 0.1, "weight_decay": 0.0}]
    optimizer = config.make(groups, (0.9, 0.95), 1e-8)
    for _ in range(3):
        w.grad, bias.grad = torch.ones(6, 4), torch.ones(6)
        w.grad[2], bias.grad[1] = 0.0, 0.0
        optimizer.step()
    assert w.isfinite().all()
    assert bias.isfinite().all()
    assert (w[2] == 1).all()
    assert bias[1] == 1
    assert (w[0] < 1).all()


@pytest.mark.parametrize("eps", [1e-30, 1e-20, 1.08e-19])
def test_an_eps_of_adafactor_without_a_square_in_float32_is_refused(eps: float) -> None:
    text = f"train: {{optimizer: {{type: adafactor, eps: [{eps}, 0.001]}}}}"
    with pytest.raises(ConfigError, match=r"train\.optimizer\.eps: .* is below 1.1e-19: torch"):
        load_run_document(parse_document(text, "run.yaml"))


def test_muon_is_torchs_up_to_its_rounding() -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(24, 16, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    groups = [{"params": [ours], "weight_decay": 0.1, "lr": 0.02}]
    mine = MuonConfig(adjust="original").make(groups, (0.9, 0.95), 1e-8)
    torchs = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95)
    for _ in range(5):
        ours.grad = theirs.grad = torch.randn(24, 16, generator=generator)
        mine.step()
        torchs.step()
    moved = (ours - start).norm()
    assert (ours - theirs).norm() < 0.01 * moved  # bfloat16 has 8 bits


def test_muon_moves_matrices_and_leaves_the_rest_to_another() -> None:
    state = make(MuonConfig(rest="sgd"))
    by_part = {type(p).__name__: p for p in parts_of(state.optimizer)}
    assert set(by_part) == {"Muon", "SGD"}
    (moved,) = [p for group in by_part["Muon"].param_groups for p in group["params"]]
    assert moved is state.weights.parameters["mix.weight"]
    assert isinstance(by_part["Muon"], Muon)
    take(state, 1)
    kept = state.optimizer.state
    assert set(kept[moved]) == {"momentum_buffer"}
    assert len(kept) == len(state.weights.parameters)
