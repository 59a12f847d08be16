"""The average of the weights, and what is told of a step: both change no bit of the training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from standins import (
    ListBatches,
    Rows,
    TinyModel,
    learnable_batches,
    new_folder,
    parts,
    recipe,
    tokenizer,
)

from windtunnel.arch import ArchSpec, build, resolve
from windtunnel.errors import CheckpointError
from windtunnel.runs import run_key
from windtunnel.train.average import ema_weights
from windtunnel.train.checkpoint import load_newest, load_weights, save_checkpoint
from windtunnel.train.evaluation import evaluate
from windtunnel.train.identity import run_identity
from windtunnel.train.loop import TrainState, create_train_state, train_steps
from windtunnel.train.planned import run_memory
from windtunnel.train.runner import train_run
from windtunnel.train.watch import Watch, part_of

EMA = {"decay": 0.9}


def make(seed: int = 0, **changes: Any) -> TrainState:
    return create_train_state(TinyModel(seed), ListBatches(learnable_batches()), recipe(**changes))


def take(state: TrainState, steps: int) -> list[Any]:
    return [info for _, info in zip(range(steps), train_steps(state), strict=False)]


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in state.weights.parameters.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


@pytest.mark.parametrize("warmup", [True, False])
def test_the_average_follows_its_equation(warmup: bool) -> None:
    state = make(ema={"decay": 0.9, "warmup": warmup})
    expected = {name: p.double() for name, p in weights(state).items()}
    for t, _ in enumerate(zip(range(15), train_steps(state), strict=False), start=1):
        d = min(0.9, (1 + t) / (10 + t)) if warmup else 0.9
        for name, p in weights(state).items():
            expected[name] = d * expected[name] + (1 - d) * p.double()
    assert state.ema is not None
    for name, value in state.ema.values.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_neither_changes_a_bit_of_the_training(precision: str) -> None:
    plain = make(precision=precision, micro_batch_size=3)
    looked_at = make(precision=precision, micro_batch_size=3, ema=EMA, watch_every=1)
    infos = take(plain, 10), take(looked_at, 10)
    assert same(weights(plain), weights(looked_at))
    assert [a.loss for a in infos[0]] == [b.loss for b in infos[1]]
    with ema_weights(looked_at):
        assert not same(weights(plain), weights(looked_at))
    assert same(weights(plain), weights(looked_at))
    assert not any(module._forward_hooks for module in looked_at.model.modules())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_goes_on_with_its_average_to_the_bit(precision: str, tmp_path: Path) -> None:
    straight = make(precision=precision, ema=EMA)
    take(straight, 12)
    first = make(precision=precision, ema=EMA)
    take(first, 5)
    save_checkpoint(tmp_path, first, keep=1)
    second = make(seed=9, precision=precision, ema=EMA)
    assert load_newest(tmp_path, second, pytest.fail) == 5
    take(second, 7)
    assert straight.ema is not None
    assert second.ema is not None
    assert same(straight.ema.values, second.ema.values)
    assert same(weights(straight), weights(second))


def test_the_average_is_loaded_for_use_and_a_checkpoint_without_one_is_told(
    tmp_path: Path,
) -> None:
    state = make(ema=EMA)
    take(state, 5)
    (tmp_path / "with").mkdir()
    save_checkpoint(tmp_path / "with", state, keep=1)
    model = TinyModel(3)
    load_weights(tmp_path / "with", model, pytest.fail, ema=True)
    assert state.ema is not None
    assert same(dict(model.named_parameters()), state.ema.values)
    (tmp_path / "without").mkdir()
    plain = make()
    take(plain, 2)
    save_checkpoint(tmp_path / "without", plain, keep=1)
    with pytest.raises(CheckpointError, match="has no average of the weights"):
        load_weights(tmp_path / "without", TinyModel(), pytest.fail, ema=True)
    warnings: list[str] = []
    later = make(ema=EMA)
    load_newest(tmp_path / "without", later, warnings.append)
    assert "has no average of the weights: it begins with these weights" in warnings[0]
    assert later.ema is not None
    assert same(later.ema.values, weights(plain))


def test_evaluations_and_the_record_tell_both(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    record = train_run(parts(recipe(steps=20, ema=EMA)), folder)
    assert record["weights"] == "trained; ema_*: their exponential moving average"
    assert record["final"]["ema_loss"] != record["final"]["loss"]
    state = make(steps=20, ema=EMA)
    take(state, 20)
    with ema_weights(state):
        found = evaluate(state.model, learnable_batches(3, seed=2), tokenizer())
    assert record["final"]["ema_loss"] == found.loss
    first = next(e for e in folder.read_events() if e.kind == "eval")
    assert first.values["ema_loss"] == pytest.approx(first.values["loss"])
    free = train_run(
        parts(recipe(steps=2, optimizer="schedule_free_adamw")), new_folder(tmp_path / "free")
    )
    assert free["weights"] == "the average of a schedule-free optimizer"
    plain = train_run(parts(recipe(steps=2)), new_folder(tmp_path / "plain"))
    assert "weights" not in plain
    assert not [key for key in plain["final"] if key.startswith("ema_")]


def test_what_is_frozen_is_not_averaged() -> None:
    state = make(ema=EMA, groups=({"match": "mix.*", "freeze": True},))
    take(state, 2)
    assert state.ema is not None
    assert not {"mix.weight", "mix.bias"} & state.ema.values.keys()


def test_the_average_counts_in_the_predicted_memory() -> None:
    architecture = resolve(ArchSpec(d_model=16, vocab_size=9, layers=({"mixer": "lstm"},)))
    params = sum(p.numel() for p in build(architecture, device="meta").parameters())
    with_ema = run_memory(architecture, recipe(ema=EMA)).optimizer
    tensors = len(list(build(architecture, device="meta").parameters()))
    assert with_ema == 4 * (3 * params + tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema": 1.0}, "less than 1"),
        ({"ema": {"decay": 0.9, "optimizer": "adamw"}}, "Extra inputs"),
        ({"ema": 0.9, "optimizer": "schedule_free_adamw"}, "keeps an average of its own"),
        ({"watch_every": 0}, "greater than 0"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(**changes)


def test_a_number_alone_is_the_decay() -> None:
    assert recipe(ema=0.99) == recipe(ema={"decay": 0.99})


def test_a_watched_step_tells_what_it_did(tmp_path: Path) -> None:
    state = make(watch_every=3, clip=1e-3, precision="bfloat16", micro_batch_size=3)
    infos = take(state, 4)
    assert [info.watched is not None for info in infos] == [False, False, True, False]
    told = infos[2].watched
    total = math.sqrt(sum(part["grad_norm"] ** 2 for part in told["parts"].values()))
    assert total == pytest.approx(infos[2].grad_norm, rel=1e-5)  # before it is cut
    assert set(told["parts"]) == {"embedding", "mix", "norm", "gate"}
    assert set(told["activations"]) == {"embedding", "mix", "norm", "dropout", "head"}
    folder = new_folder(tmp_path / "run")
    train_run(parts(recipe(steps=6, watch_every=3)), folder)
    steps = [e.values["step"] for e in folder.read_events() if e.kind == "watch"]
    assert steps == [3, 6]


def test_statistics_are_those_of_the_tensors() -> None:
    model = TinyModel(dropout=0.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tokens = torch.arange(8).view(2, 4)
    with Watch(model) as watch:
        model(tokens[:1]).square().mean().backward()
        model(tokens[1:]).square().mean().backward()
    watch.before_update(dict(model.named_parameters()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)
    watch.after_update(dict(model.named_parameters()))
    told = watch.values()
    mix = torch.cat([before["mix.weight"].flatten(), before["mix.bias"]])
    assert told["parts"]["mix"]["weight_norm"] == pytest.approx(mix.norm().item(), rel=1e-6)
    assert told["parts"]["mix"]["update_ratio"] == pytest.approx(0.25, rel=1e-5)
    seen = before["embedding.weight"][tokens].square().mean().sqrt().item()
    assert told["activations"]["embedding"] == pytest.approx(seen, rel=1e-6)


class Full(TinyModel):
    """Memory for two rows, as is found once in a forward and once in a backward."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        self.failed: list[str] = []

    def forward(self, tokens: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        y = super().forward(tokens, real)
        if len(tokens) == 8:
            raise self.out_of_memory("forward")
        if len(tokens) == 4 and not self.failed[1:]:
            y.register_hook(self.fail)
        return y

    def fail(self, _: torch.Tensor) -> None:
        raise self.out_of_memory("backward")

    def out_of_memory(self, where: str) -> Exception:
        self.failed.append(where)
        return torch.OutOfMemoryError(where)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_attempt_that_found_no_memory_is_not_watched(precision: str) -> None:
    one, two = learnable_batches(2)
    batch = Rows(torch.cat([one.inputs, two.inputs]), torch.cat([one.targets, two.targets]))
    told, models = [], (Full(), TinyModel(dropout=0.0))
    for model, size in zip(models, ("auto", 2), strict=True):
        config = recipe(
            steps=1, watch_every=1, batch_size=8, micro_batch_size=size, precision=precision
        )
        (info,) = train_steps(create_train_state(model, ListBatches([batch]), config))
        told.append(info.watched)
    assert models[0].failed == ["forward", "backward"]
    assert told[0] == told[1]


def test_parts_of_a_model_and_its_layers() -> None:
    spec = ArchSpec(d_model=8, vocab_size=5, layers=({"repeat": 2, "mixer": {"type": "gru"}},))
    model = build(resolve(spec))
    names = {part_of(name) for name, _ in model.named_parameters()}
    assert {"embedding", "layers.0.mixer", "layers.1.mlp", "head"} <= names
    with Watch(model) as watch, torch.no_grad():
        model(torch.zeros(1, 3, dtype=torch.long))
    assert {"embedding", "layers.0", "layers.1"} <= set(watch.values()["activations"])


def test_watching_is_no_part_of_the_key_and_the_average_is() -> None:
    def key(**changes: Any) -> str:
        identity = run_identity(
            arch={}, data="d", train=recipe(**changes), code="c", torch_version="t",
            device_type="cpu",
        )  # fmt: skip
        return run_key(identity)

    assert key() == key(watch_every=5)
    assert key() != key(ema=0.9)
