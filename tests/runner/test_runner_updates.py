"""Runners: what parts of a model add to the loss and do after an update; averages of weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from runner_models import PAIRS, Tiny, again, changes, made, of_layers, weights

from windtunnel.runner import ArchitectureLM, BasicModelRunner, read_checkpoint
from windtunnel.runner.pieces import Learning, cut
from windtunnel.train.optimizers.together import use_average


def moe(balance: str, rate: float | None, size: int = 25) -> BasicModelRunner:
    config: dict[str, Any] = {
        "type": "moe", "num_experts": 4, "top_k": 1, "balance": balance,
        "expert": {"type": "dense", "activation": "gelu", "ratio": 1},
    }  # fmt: skip
    return of_layers(size, mlp=config | ({} if rate is None else {"balance_rate": rate}))


def test_unit_weights_stay_on_the_sphere() -> None:
    runner = BasicModelRunner(ArchitectureLM, overrides={"arch": "ngpt", "tokenizer": "bytes"})
    runner.initialize("cpu", num_blocks=1, embed_dim=32, max_len=32, optimizer="adamw", lr=0.05)
    for _ in range(3):
        runner.train(PAIRS)
    before = weights(runner)
    runner.model.net.sphere.after_update(0, 1)
    for name, value in runner.model.state_dict().items():
        torch.testing.assert_close(before[name], value, rtol=1e-5, atol=1e-6)


def test_the_bias_of_experts_moves_against_their_load() -> None:
    runner = moe("loss_free", 0.01)
    runner.train(PAIRS)
    mlp = runner.model.net.layers[0].mlp
    moved = mlp.balance_bias.abs()
    torch.testing.assert_close(moved[moved > 0], torch.full_like(moved[moved > 0], 0.01))
    assert moved.any()
    assert not mlp.load.any()


def test_a_batch_that_begins_anew_is_tallied_once() -> None:
    runner = moe("loss_free", 0.01)
    load = runner.model.net.layers[0].mlp.load
    found = runner.model.rows(PAIRS)
    learning = Learning(runner.model, runner.optimizer, found.targets, seed=0, step=0)
    for size in (4, 2):
        pieces = cut(PAIRS, size)
        learning.begin(pieces)
        for number, piece in enumerate(pieces):
            learning.piece(number, piece)
        assert int(load.sum()) == int(found.rows.real.sum()), "each real token once, no pads"
    learning.forget()
    assert not load.any()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_loss_of_balance_acts_and_does_not_depend_on_the_cut(size: int) -> None:
    whole, other = changes(moe("loss", 10.0), PAIRS), changes(moe("loss", 10.0, size), PAIRS)
    for name in whole:
        torch.testing.assert_close(whole[name], other[name], rtol=1e-4, atol=1e-6)
    without = changes(moe("none", None), PAIRS)
    assert any(not torch.allclose(whole[name], without[name], atol=1e-4) for name in whole)


def test_random_features_are_drawn_anew() -> None:
    mixer = {"type": "favor", "num_heads": 2, "feature_redraw_interval": 2}
    runner = of_layers(mixer=mixer, arch={"embedding": {"tie": False, "position": "learned"}})

    def features() -> dict[str, torch.Tensor]:
        return {
            k: v for k, v in weights(runner).items() if k not in names and v.is_floating_point()
        }

    names = dict(runner.model.named_parameters())
    first = features()
    assert first
    runner.train(PAIRS)
    assert all(torch.equal(v, first[k]) for k, v in features().items())
    runner.train(PAIRS)
    assert any(not torch.equal(v, first[k]) for k, v in features().items())


def test_dropout_is_drawn_by_seed_and_step(tmp_path: Path) -> None:
    straight = made(dropout=0.5, optimizer="adamw", lr=0.01)
    for _ in range(3):
        straight.train(PAIRS)
    straight.save(tmp_path / "run")
    torch.manual_seed(5)
    other = again(Tiny, tmp_path / "run")
    for runner in (straight, other):
        runner.train(PAIRS)
    for name, value in weights(straight).items():
        assert torch.equal(value, weights(other)[name])
    one, two = (changes(made(dropout=0.5, seed=s, optimizer="sgd"), PAIRS) for s in (0, 1))
    assert not torch.equal(one["head"], two["head"])


def averaged(runner: BasicModelRunner) -> dict[str, torch.Tensor]:
    use_average(runner.optimizer, on=True)
    found = weights(runner)
    use_average(runner.optimizer, on=False)
    return found


def free(steps: int = 3) -> BasicModelRunner:
    runner = made(optimizer="schedule_free_adamw", lr=0.05)
    for _ in range(steps):
        runner.train(PAIRS)
    return runner


@pytest.mark.parametrize("prod", [True, False])
def test_what_is_saved_is_the_average(prod: bool, tmp_path: Path) -> None:
    runner = free()
    trained, average = weights(runner), averaged(runner)
    assert not torch.equal(trained["head"], average["head"])
    runner.save(tmp_path / "run", prod_save=prod)
    found = read_checkpoint(tmp_path / "run")["model"]
    for name, value in average.items():
        assert torch.equal(found[name], value)
        assert torch.equal(runner.model.state_dict()[name], trained[name]), "training goes on"


def test_the_average_is_validated_and_writes(tmp_path: Path) -> None:
    runner = free(20)
    runner.save(tmp_path / "run", prod_save=True)
    used = again(Tiny, tmp_path / "run", for_train=False)
    trained = weights(runner)
    assert torch.equal(runner.validate(PAIRS)[1], used.validate(PAIRS)[1])
    seen: list[torch.Tensor] = []
    runner.model.register_forward_hook(lambda *_: seen.append(runner.model.head.detach().clone()))
    assert runner.generate(["ab"], max_len=12) == used.generate(["ab"], max_len=12)
    assert torch.equal(seen[0], used.model.head)
    for name, value in trained.items():
        assert torch.equal(runner.model.state_dict()[name], value)
    assert not torch.equal(trained["head"], used.model.head)


def test_after_an_error_the_trained_weights_are_back(tmp_path: Path) -> None:
    runner = free()
    trained = weights(runner)
    runner.model.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runner.validate(PAIRS)
    for name, value in trained.items():
        assert torch.equal(runner.model.state_dict()[name], value)
