"""Steps: exact accumulation, clipping, keyed dropout, non-finite steps."""

import dataclasses
import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from standins import (
    BATCH,
    SEQ_LEN,
    VOCAB,
    ListBatches,
    Rows,
    TinyModel,
    learnable_batches,
    recipe,
)
from torch.nn import functional as F

from windtunnel.arch import ArchSpec, build, resolve
from windtunnel.config import Document, decode
from windtunnel.errors import DataError, UsageError
from windtunnel.nn.auxiliary import tallies
from windtunnel.train.config import TrainConfig
from windtunnel.train.loop import (
    StepInfo,
    TrainState,
    accumulate,
    create_train_state,
    keyed_randomness,
    resolve_device,
    train_steps,
)
from windtunnel.train.schedule import lr_at


def make(
    config: TrainConfig | None = None, rows: list[Rows] | None = None, *, dropout: float = 0.0
) -> TrainState:
    config = config or recipe(steps=5)
    batches = ListBatches(rows or learnable_batches())
    return create_train_state(TinyModel(dropout=dropout), batches, config, flops_per_token=10.0)


def ragged_batch(generator: torch.Generator, rows: int) -> Rows:
    """Rows with very different numbers of targets; some without any."""
    tokens = torch.randint(11, (rows, SEQ_LEN + 1), generator=generator)
    targets = tokens[:, 1:].clone()
    for row in range(rows):
        ignored = torch.rand(SEQ_LEN, generator=generator) < row / rows
        targets[row, ignored] = -100
    targets[-1] = -100
    targets[0] = tokens[0, 1:]
    return Rows(tokens[:, :-1], targets)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(2, 9), seed=st.integers(0, 1000))
def test_the_gradient_is_the_same_however_a_batch_is_cut(rows: int, seed: int) -> None:
    batch = ragged_batch(torch.Generator().manual_seed(seed), rows)
    tokens = int((batch.targets != -100).sum())
    reference = TinyModel(dropout=0.0).double()
    loss = F.cross_entropy(
        reference(batch.inputs).flatten(0, 1), batch.targets.flatten(), ignore_index=-100
    )
    loss.backward()
    for size in range(1, rows + 1):
        state = make(recipe(steps=1, batch_size=rows, micro_batch_size=size))
        summed = accumulate(state, batch, tokens)
        assert float(summed) / tokens == pytest.approx(loss.item(), rel=1e-5)
        for name, expected in reference.named_parameters():
            found = state.weights.parameters[name].grad
            assert found is not None
            assert expected.grad is not None
            torch.testing.assert_close(found.double(), expected.grad, rtol=1e-4, atol=1e-6)


def test_training_is_the_same_however_batches_are_cut() -> None:
    losses = {
        size: [info.loss for info in train_steps(make(recipe(steps=8, micro_batch_size=size)))]
        for size in (1, 2, 3, 4)
    }
    for size in (1, 2, 3):
        assert losses[size] == pytest.approx(losses[4], rel=1e-4)
    assert losses[4][-1] < losses[4][0]


def test_steps_tell_totals_and_the_schedule() -> None:
    state = make(recipe(steps=9))
    infos = list(train_steps(state))
    counts = [int((b.targets != -100).sum()) for b in learnable_batches()]
    assert counts[6] < counts[0] == BATCH * SEQ_LEN
    assert [info.step for info in infos] == list(range(1, 10))
    assert [info.lr for info in infos] == [lr_at(state.config, step) for step in range(9)]
    assert infos[-1].tokens == sum(counts) + sum(counts[:2])
    assert state.progress.flops == 9 * BATCH * SEQ_LEN * 10.0
    assert all(a.seconds < b.seconds for a, b in itertools.pairwise(infos))
    assert not any(info.skipped for info in infos)
    assert list(train_steps(state)) == []
    with pytest.raises(dataclasses.FrozenInstanceError):
        infos[0].loss = 0.0  # type: ignore[misc]


def test_the_loss_is_the_token_weighted_mean_before_the_update() -> None:
    rows = learnable_batches()[-1:]
    info = next(train_steps(make(rows=rows)))
    expected = F.cross_entropy(
        TinyModel(dropout=0.0)(rows[0].inputs).flatten(0, 1), rows[0].targets.flatten()
    )
    assert info.loss == pytest.approx(expected.item(), rel=1e-6)


def test_the_gradient_is_cut_to_the_clip() -> None:
    def moved(clip: float | None) -> tuple[StepInfo, dict[str, torch.Tensor]]:
        state = make(recipe(steps=1, clip=clip, schedule="flat"))
        seen: dict[str, torch.Tensor] = {}

        def look(optimizer: object, *_: object) -> None:
            for name, parameter in state.weights.parameters.items():
                assert parameter.grad is not None
                seen[name] = parameter.grad.clone()

        state.optimizer.register_step_pre_hook(look)
        return next(train_steps(state)), seen

    free, gradient = moved(None)
    cut, smaller = moved(0.01)
    norm = torch.cat([g.flatten() for g in gradient.values()]).norm().item()
    assert free.grad_norm == cut.grad_norm == pytest.approx(norm, rel=1e-5)
    assert torch.cat([g.flatten() for g in smaller.values()]).norm().item() == pytest.approx(
        0.01, rel=1e-5
    )
    for name in gradient:
        torch.testing.assert_close(smaller[name], gradient[name] * (0.01 / norm))
    _, untouched = moved(1e6)
    assert all(torch.equal(untouched[name], gradient[name]) for name in gradient)


def test_dropout_acts_and_is_keyed_by_seed_step_and_piece() -> None:
    def draw(seed: int, step: int, piece: int) -> list[float]:
        with keyed_randomness(torch.device("cpu"), seed, step, piece):
            return torch.rand(4).tolist()

    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    draws = [draw(*key) for key in keys]
    assert draws == [draw(*key) for key in keys]
    assert len({tuple(d) for d in draws}) == 4
    with_dropout = [info.loss for info in train_steps(make(dropout=0.5))]
    torch.manual_seed(99)
    assert with_dropout == [info.loss for info in train_steps(make(dropout=0.5))]
    assert with_dropout != [info.loss for info in train_steps(make(dropout=0.0))]


def test_the_caller_s_random_state_is_left_alone() -> None:
    state = make(dropout=0.5)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(train_steps(state))
    assert torch.equal(torch.rand(3), expected)


def test_a_non_finite_step_is_skipped_and_counted() -> None:
    state = make(recipe(steps=6))
    steps = train_steps(state)
    next(steps)
    before = {name: p.detach().clone() for name, p in state.weights.parameters.items()}
    moments = state.optimizer.state[state.weights.parameters["gate"]]["exp_avg"].clone()
    hook = state.model.register_forward_hook(lambda *args: args[2] * float("nan"))
    infos = [next(steps), next(steps)]
    hook.remove()
    assert [info.skipped for info in infos] == [True, True]
    assert (state.progress.skipped, state.progress.skipped_in_a_row) == (2, 2)
    assert all(torch.equal(before[n], p) for n, p in state.weights.parameters.items())
    kept = state.optimizer.state[state.weights.parameters["gate"]]["exp_avg"]
    assert torch.equal(kept, moments)
    assert all(p.grad is None for p in state.weights.parameters.values())
    info = next(steps)
    assert not info.skipped
    assert (state.progress.skipped, state.progress.skipped_in_a_row) == (2, 0)
    assert not torch.equal(before["gate"], state.weights.parameters["gate"])


def test_a_finite_loss_with_a_non_finite_gradient_is_skipped_too() -> None:
    state = make(recipe(steps=2))
    weight = state.weights.parameters["mix.weight"]
    weight.register_hook(lambda gradient: gradient / 0.0)
    before = weight.detach().clone()
    info = next(train_steps(state))
    assert info.skipped
    assert torch.isfinite(torch.tensor(info.loss))
    assert torch.equal(before, weight)


def test_ten_non_finite_steps_in_a_row_end_the_run() -> None:
    state = make(recipe(steps=40))
    state.model.register_forward_hook(lambda *args: args[2] * float("inf"))
    assert [info.step for info in train_steps(state)] == list(range(1, 11))
    assert state.diverged


def test_a_batch_without_targets_is_passed_over_and_told() -> None:
    rows = learnable_batches(3)
    rows[1].targets.fill_(-100)
    state = make(recipe(steps=3), rows=rows)
    steps = train_steps(state)
    first = next(steps)
    before = {name: p.detach().clone() for name, p in state.weights.parameters.items()}
    info = next(steps)
    assert (info.step, info.empty, info.tokens) == (2, True, first.tokens)
    assert all(torch.equal(before[n], p) for n, p in state.weights.parameters.items())
    assert [note.message for note in state.notes] == [
        "batch 1 has no target to train on: it is passed over"
    ]
    assert (state.progress.skipped, state.progress.skipped_in_a_row) == (0, 0)
    third = next(steps)
    assert not third.empty
    assert third.tokens > first.tokens


def test_data_without_targets_is_a_data_error() -> None:
    rows = learnable_batches(1)
    rows[0].targets.fill_(-100)
    state = make(recipe(steps=40), rows=rows)
    with pytest.raises(DataError, match="batch 9 has no target to train on, nor have the 9"):
        list(train_steps(state))


def test_what_a_skipped_step_has_counted_is_forgotten() -> None:
    """It is in no checkpoint: a run resumed there would begin with none."""
    moe = {"type": "moe", "num_experts": 3, "balance": "loss_free"}
    spec = {"vocab_size": VOCAB, "d_model": 8, "layers": [{"mixer": "gru", "mlp": moe}]}
    model = build(resolve(decode(Document(spec), ArchSpec)), seed=0)
    state = create_train_state(model, ListBatches(learnable_batches()), recipe(steps=6))
    assert tallies(model)
    hook = model.register_forward_hook(lambda *args: args[2] * float("nan"))
    steps = train_steps(state)
    assert next(steps).skipped
    assert all(not tally.any() for tally in tallies(model))
    hook.remove()
    assert not next(steps).skipped


def test_bfloat16_trains_as_float32_does_and_keeps_float32_weights() -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        state = make(recipe(steps=60, precision=precision, micro_batch_size=2))
        losses[precision] = [info.loss for info in train_steps(state)]
        assert {p.dtype for p in state.weights.parameters.values()} == {torch.float32}
    plain, mixed = losses["float32"], losses["bfloat16"]
    assert mixed != plain
    assert mixed[0] == pytest.approx(plain[0], rel=0.02)
    assert sum(mixed[-7:]) == pytest.approx(sum(plain[-7:]), rel=0.1)
    assert sum(plain[-7:]) < 0.6 * sum(plain[:7])


def test_the_model_learns_in_training_mode_whatever_the_caller_does_between() -> None:
    state = make()
    for _ in train_steps(state):
        assert state.model.training
        state.model.eval()


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match=r"cuda:99 is not here; this machine has \d+ GPUs"):
        resolve_device("cuda:99")


@pytest.mark.parametrize(
    ("changes", "unit", "message"),
    [
        ({"optimizer": "schedule_free_adamw"}, True, "leaves the unit sphere"),
        ({"optimizer": {"type": "muon", "rest": "schedule_free_adamw"}, "ema": 0.9}, False,
         "train.ema: .* an average of its own"),
    ],
)  # fmt: skip
def test_an_average_that_does_not_go_with_the_rest_is_refused(
    changes: dict[str, object], unit: bool, message: str
) -> None:
    values = {"steps": 2, "device": "cpu", **changes}
    config = TrainConfig.model_validate_json(json.dumps(values))
    spec = {"vocab_size": VOCAB, "d_model": 16, "unit_weights": unit, "layers": [{"mixer": "gru"}]}
    model = build(resolve(decode(Document(spec), ArchSpec)), seed=0)
    with pytest.raises(UsageError, match=message):
        create_train_state(model, ListBatches(learnable_batches()), config)
