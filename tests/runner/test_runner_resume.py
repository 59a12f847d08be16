"""Runners that go on: by names and kinds, what is given wins, every difference is told."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from runner_models import PAIRS, Tiny, again, made, weights
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler, MultiStepLR

from windtunnel.runner import BasicModelRunner, LMBase
from windtunnel.train.optimizers.together import parts_of


def steps(runner: BasicModelRunner, count: int) -> BasicModelRunner:
    for _ in range(count):
        runner.train(PAIRS)
    return runner


def saved(place: Path, model: type[LMBase] = Tiny, **parameters: Any) -> BasicModelRunner:
    """A runner after three steps, saved."""
    runner = steps(made(model, **parameters), 3)
    runner.save(place)
    return runner


def same(one: BasicModelRunner, other: BasicModelRunner) -> None:
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name]), name


def setting(runner: BasicModelRunner, key: str) -> set[Any]:
    return {group[key] for group in runner.optimizer.param_groups}


def moments(runner: BasicModelRunner, key: str) -> dict[str, torch.Tensor]:
    state = runner.optimizer.state
    return {name: state[p][key].clone() for name, p in runner.model.named_parameters()}


OPTIMIZERS = ("adagrad", "adam", "adamw", "sgd", "rmsprop", "adafactor", "lion", "muon", "soap")


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, "schedule_free_adamw"])
def test_three_steps_and_three_are_six(optimizer: str, tmp_path: Path) -> None:
    first = saved(tmp_path / "run", optimizer=optimizer, lr=0.01, weight_decay=0.1)
    first.validate(PAIRS)
    second = again(Tiny, tmp_path / "run")
    assert not second.notes
    straight = steps(made(optimizer=optimizer, lr=0.01, weight_decay=0.1), 6)
    same(steps(first, 3), straight)
    same(steps(second, 3), straight)


def test_a_rate_that_is_given_wins_and_is_told(tmp_path: Path) -> None:
    first = saved(tmp_path / "run", optimizer="adamw", lr=0.01)
    other = again(Tiny, tmp_path / "run", lr=1e-5)
    assert setting(other, "lr") == {1e-5}
    assert other.optimizer_args["lr"] == 1e-5
    assert other.optimizer_args["optimizer"] == "adamw", "not given: as it was saved"
    assert other.notes == ["lr is 1e-05 as given; 0.01 was saved"]
    for name, value in moments(first, "exp_avg").items():
        assert torch.equal(value, moments(other, "exp_avg")[name])


def test_what_is_given_as_it_was_saved_is_no_difference(tmp_path: Path) -> None:
    optimizer = {"type": "adamw", "betas": (0.8, 0.9)}
    first = saved(tmp_path / "run", optimizer=optimizer, lr=0.01)
    other = again(Tiny, tmp_path / "run", optimizer=optimizer, lr=0.01)
    assert not other.notes
    same(steps(first, 3), steps(other, 3))


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.1), (0.1, 0.0)])
def test_another_decay_groups_anew_and_keeps_the_state(
    before: float, after: float, tmp_path: Path
) -> None:
    first = saved(tmp_path / "run", optimizer="adamw", lr=0.01, weight_decay=before)
    other = again(Tiny, tmp_path / "run", weight_decay=after)
    assert len(first.optimizer.param_groups) != len(other.optimizer.param_groups)
    assert other.notes == [f"weight_decay is {after} as given; {before} was saved"]
    assert max(setting(other, "weight_decay")) == after
    assert setting(other, "lr") == {0.01}
    for key in ("exp_avg", "exp_avg_sq", "step"):
        for name, value in moments(first, key).items():
            assert torch.equal(value, moments(other, key)[name])


def test_other_settings_of_the_same_kind_are_taken_and_told(tmp_path: Path) -> None:
    first = saved(tmp_path / "run", optimizer={"type": "adamw", "betas": [0.8, 0.9]}, lr=0.01)
    other = again(Tiny, tmp_path / "run", optimizer={"type": "adamw", "betas": [0.7, 0.9]})
    assert setting(other, "betas") == {(0.7, 0.9)}
    assert setting(other, "lr") == {0.01}
    assert len(other.notes) == 1
    assert other.notes[0].startswith("optimizer is {'type': 'adamw', 'betas': [0.7, 0.9]} as given")
    for name, value in moments(first, "exp_avg").items():
        assert torch.equal(value, moments(other, "exp_avg")[name])


def test_a_rate_that_was_set_by_hand_goes_on(tmp_path: Path) -> None:
    first = made(optimizer="adamw", lr=0.01)
    for group in first.optimizer.param_groups:
        group["lr"] = 0.002
    steps(first, 3).save(tmp_path / "run")
    other = again(Tiny, tmp_path / "run")
    assert setting(other, "lr") == {0.002}
    assert other.notes == ["lr is 0.002 as saved; the optimizer was made with 0.01"]
    same(steps(first, 3), steps(other, 3))


class Tagged(Tiny):
    """Its embedding asks for the secondary optimizer."""

    def __init__(self, **kw: Any) -> None:
        super().__init__(**kw)
        self.embedding.secondary_optimizer = True


def test_each_parameter_goes_on_with_the_kind_that_moved_it(tmp_path: Path) -> None:
    wanted = {"optimizer": "adamw", "secondary_optimizer": "adagrad", "lr": 0.01}
    first = saved(tmp_path / "run", Tagged, **wanted)
    other = again(Tagged, tmp_path / "run")
    assert not other.notes
    changed = again(Tagged, tmp_path / "run", secondary_optimizer="rmsprop")
    assert changed.notes == [
        "secondary_optimizer is 'rmsprop' as given; 'adagrad' was saved",
        "the optimizer RMSprop starts clean for 1 of 1 parameters (embedding): "
        "Adagrad moved them before",
    ]
    key = "exp_avg"
    head = changed.model.head
    before = first.optimizer.state[first.model.head][key]
    assert torch.equal(changed.optimizer.state[head][key], before)
    same(steps(first, 3), steps(other, 3))


def test_a_new_or_frozen_parameter_is_told(tmp_path: Path) -> None:
    class Wider(Tiny):
        def __init__(self, **kw: Any) -> None:
            super().__init__(**kw)
            self.extra = nn.Parameter(torch.zeros(3))
            self.head.requires_grad_(False)

    first = saved(tmp_path / "run", optimizer="adamw", lr=0.01)
    other = again(Wider, tmp_path / "run", strict=False)
    assert other.notes == [
        "missing in the checkpoint: extra",
        "the optimizer AdamW starts clean for 1 of 2 parameters (extra): nothing was saved of them",
        "what was saved of the optimizer is left out for head: not moved",
    ]
    kept = other.optimizer.state[other.model.embedding]["exp_avg"]
    assert torch.equal(kept, first.optimizer.state[first.model.embedding]["exp_avg"])
    steps(other, 1)


def test_a_state_of_another_shape_is_not_taken(tmp_path: Path) -> None:
    class Grown(Tiny):
        def load_state_dict(self, state: Any, strict: bool = True) -> Any:
            rows = torch.zeros_like(self.embedding)
            rows[: len(state["embedding"]) - 1] = state["embedding"][:-1]
            self.embedding = nn.Parameter(rows[:-1].clone())
            return super().load_state_dict({**state, "embedding": rows[:-1]}, strict)

    saved(tmp_path / "run", optimizer="adamw", lr=0.01)
    other = again(Grown, tmp_path / "run")
    assert other.notes == [
        "the optimizer AdamW starts clean for 1 of 2 parameters (embedding): they had another shape"
    ]


def test_a_save_to_be_used_has_no_optimizer_and_that_is_told(tmp_path: Path) -> None:
    steps(made(), 1).save(tmp_path / "run", prod_save=True)
    other = again(Tiny, tmp_path / "run")
    assert other.notes == ["the checkpoint has no optimizer: it starts clean"]


def test_a_checkpoint_of_before_is_read(tmp_path: Path) -> None:
    first = saved(tmp_path / "run", optimizer="adamw", lr=0.01)
    path = tmp_path / "run" / "state.json"
    document = json.loads(path.read_text())
    del document["optimizer"]["moves"]
    path.write_text(json.dumps(document))
    other = again(Tiny, tmp_path / "run")
    assert not other.notes
    same(steps(first, 3), steps(other, 3))


class Scheduled(BasicModelRunner):
    """With a rate that falls."""

    def schedule(self, optimizer: Any) -> LRScheduler | None:
        return ExponentialLR(optimizer, 0.5)

    def construct_optimizer(self, device: Any, model: Any, **parameters: Any) -> Any:
        optimizer, arguments, _ = super().construct_optimizer(device, model, **parameters)
        return optimizer, arguments, self.schedule(optimizer)


class Stepped(Scheduled):
    def schedule(self, optimizer: Any) -> LRScheduler | None:
        return MultiStepLR(optimizer, [4], 0.1)


class Plain(Scheduled):
    def schedule(self, optimizer: Any) -> LRScheduler | None:
        return None


def scheduled(kind: type[BasicModelRunner], *places: Path, **parameters: Any) -> BasicModelRunner:
    runner = kind(Tiny)
    runner.initialize("cpu", places or None, optimizer="adamw", **parameters)
    return runner


@pytest.mark.parametrize("kind", [Scheduled, Stepped])
def test_a_schedule_goes_on(kind: type[Scheduled], tmp_path: Path) -> None:
    first = steps(scheduled(kind, lr=0.08), 3)
    first.save(tmp_path / "run")
    second = scheduled(kind, tmp_path / "run", lr=0.08)
    assert not second.notes
    same(steps(second, 3), steps(first, 3))
    assert (
        setting(second, "lr") == setting(first, "lr") == {0.08 / (64 if kind is Scheduled else 10)}
    )


def test_a_given_rate_goes_on_where_the_schedule_was(tmp_path: Path) -> None:
    steps(scheduled(Scheduled, lr=0.08), 3).save(tmp_path / "run")
    other = scheduled(Scheduled, tmp_path / "run", lr=0.008, weight_decay=0.1)
    assert {round(lr, 9) for lr in setting(other, "lr")} == {0.001}
    steps(other, 1)
    assert {round(lr, 9) for lr in setting(other, "lr")} == {0.0005}
    assert other.scheduler.base_lrs == [0.008] * len(other.optimizer.param_groups)


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        (Scheduled, Stepped, "the schedule is another one than was saved: it begins anew"),
        (Scheduled, Plain, "the schedule that was saved is left out: there is none"),
        (Plain, Scheduled, "the schedule begins anew: none was saved with this optimizer"),
    ],
)
def test_another_schedule_is_told(before: Any, after: Any, note: str, tmp_path: Path) -> None:
    steps(scheduled(before, lr=0.08), 3).save(tmp_path / "run")
    assert note in scheduled(after, tmp_path / "run").notes


class Own(BasicModelRunner):
    """An optimizer that is written in code, as in the guide."""

    rate = 0.01

    def construct_optimizer(self, device: Any, model: Any, **parameters: Any) -> Any:
        groups = [{"params": [p]} for p in model.parameters()]
        lr = parameters.get("lr", self.rate)
        return torch.optim.AdamW(groups[::-1] if "lr" in parameters else groups, lr=lr), {}, None


def test_an_optimizer_of_ones_own_goes_on_by_the_same_rules(tmp_path: Path) -> None:
    first = steps(scheduled(Own), 3)
    first.save(tmp_path / "run")
    assert len(parts_of(first.optimizer)) == 1
    Own.rate = 0.5
    silent, loud = scheduled(Own, tmp_path / "run"), scheduled(Own, tmp_path / "run", lr=0.02)
    Own.rate = 0.01
    assert silent.notes == ["lr is 0.01 as saved; the optimizer was made with 0.5"]
    assert setting(loud, "lr") == {0.02}
    assert loud.notes == ["lr is 0.02 as given; 0.01 was saved"]
    for name, value in moments(first, "exp_avg").items():
        assert torch.equal(value, moments(loud, "exp_avg")[name])
    same(steps(first, 2), steps(silent, 2))
