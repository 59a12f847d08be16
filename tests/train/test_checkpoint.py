"""Checkpoints: whole or not there, checked when read, the right ones kept."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from standins import ListBatches, TinyModel, learnable_batches, recipe
from torch import nn

from windtunnel.errors import CheckpointError, RunError
from windtunnel.train.checkpoint import (
    list_checkpoints,
    load_newest,
    load_weights,
    save_checkpoint,
)
from windtunnel.train.loop import TrainState, create_train_state, train_steps
from windtunnel.train.tensors import read_shapes, read_tensors, write_tensors


def make(model: nn.Module | None = None, **changes: object) -> TrainState:
    config = recipe(**changes)
    return create_train_state(model or TinyModel(), ListBatches(learnable_batches()), config)


def take(state: TrainState, steps: int) -> None:
    for _, _ in zip(range(steps), train_steps(state), strict=False):
        pass


def save_at(folder: Path, state: TrainState, step: int, loss: float | None = None) -> Path:
    state.progress.step = step
    return save_checkpoint(folder, state, keep=99, validation_loss=loss)


def no_warning(text: str) -> None:
    pytest.fail(f"unexpected warning: {text}")


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "torn":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def test_tensor_files_are_those_of_the_library(tmp_path: Path) -> None:
    tensors = {
        "b": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
        "a.x": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "scalar": torch.tensor(7, dtype=torch.int64),
        "flags": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 4),
    }
    digest = write_tensors(tmp_path / "ours", tensors)
    assert digest == hashlib.sha256((tmp_path / "ours").read_bytes()).hexdigest()
    for name, found in load_file(tmp_path / "ours").items():
        assert found.dtype == tensors[name].dtype
        assert torch.equal(found, tensors[name])
    assert read_shapes(tmp_path / "ours") == {n: tuple(t.shape) for n, t in tensors.items()}
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / "theirs")
    found = read_tensors(tmp_path / "theirs")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    with safe_open(tmp_path / "ours", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_twenty_steps_are_ten_and_ten(precision: str, tmp_path: Path) -> None:
    straight = make(precision=precision, micro_batch_size=3)
    take(straight, 20)
    first = make(precision=precision, micro_batch_size=3)
    take(first, 10)
    save_checkpoint(tmp_path, first, keep=1)
    second = make(TinyModel(seed=9), precision=precision, micro_batch_size=3)
    assert load_newest(tmp_path, second, no_warning) == 10
    assert second.progress == first.progress
    take(second, 10)
    for name, expected in straight.weights.parameters.items():
        found = second.weights.parameters[name]
        assert torch.equal(found, expected), name
        for key, value in straight.optimizer.state[expected].items():
            assert torch.equal(second.optimizer.state[found][key], value), (name, key)
    for (name, expected), found in zip(
        straight.model.named_parameters(), second.model.parameters(), strict=True
    ):
        assert torch.equal(found, expected), name


def test_tied_weights_are_stored_once_and_masters_in_float32(tmp_path: Path) -> None:
    state = make(precision="bfloat16")
    path = save_checkpoint(tmp_path, state, keep=1)
    stored = load_file(path / "model.safetensors")
    names = {"embedding.weight", "mix.weight", "mix.bias", "norm.weight", "norm.bias", "gate"}
    assert stored.keys() == names | {"scale"}
    assert all(torch.equal(stored[name], state.weights.parameters[name]) for name in names)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_newest(tmp_path, make(), no_warning) is None


@pytest.mark.parametrize("how", ["missing", "torn", "flipped"])
@pytest.mark.parametrize(
    "file", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    file: str, how: str, tmp_path: Path
) -> None:
    state = make()
    take(state, 1)
    save_checkpoint(tmp_path, state, keep=9)
    expected = {n: p.detach().clone() for n, p in state.weights.parameters.items()}
    take(state, 1)
    newest = save_checkpoint(tmp_path, state, keep=9)
    if (file, how) == ("manifest.json", "flipped"):
        text = (newest / file).read_text()
        (newest / file).write_text(text.replace('"files"', '"tiles"'))
    else:
        damage(newest / file, how)
    warnings: list[str] = []
    other = make()
    assert load_newest(tmp_path, other, warnings.append) == 1
    (warning,) = warnings
    assert warning.startswith("checkpoint damaged, the one before is used")
    assert str(newest / file) in warning
    assert all(torch.equal(expected[n], p) for n, p in other.weights.parameters.items())
    assert (tmp_path / f"damaged-{newest.name}").exists()
    assert load_newest(tmp_path, make(), no_warning) == 1


def test_a_damaged_checkpoint_does_not_push_out_whole_ones(tmp_path: Path) -> None:
    state = make()
    for step in (5, 20):
        save_at(tmp_path, state, step)
    damage(tmp_path / "step-00000020" / "model.safetensors", "flipped")
    other = make()
    assert load_newest(tmp_path, other, lambda text: None) == 5
    other.progress.step = 10
    save_checkpoint(tmp_path, other, keep=1)
    assert load_newest(tmp_path, make(), no_warning) == 10


def test_no_whole_checkpoint_is_an_error_that_stays(tmp_path: Path) -> None:
    damage(save_at(tmp_path, make(), 5) / "state.json", "torn")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="none of the 1 checkpoints is whole"):
            load_newest(tmp_path, make(), lambda text: None)


def test_weights_that_do_not_fit_are_named_and_nothing_changes(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, make(), keep=1)
    wide = make(TinyModel(width=9))
    before = {n: p.detach().clone() for n, p in wide.weights.parameters.items()}
    with pytest.raises(CheckpointError) as caught:
        load_newest(tmp_path, wide, no_warning)
    message = str(caught.value)
    assert "embedding.weight is (11, 8) in the checkpoint, (11, 9) in the model" in message
    assert "(and 1 more)" in message
    assert all(torch.equal(before[n], p) for n, p in wide.weights.parameters.items())

    class Other(TinyModel):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Parameter(torch.ones(1))
            del self.gate

    with pytest.raises(CheckpointError) as caught:
        load_newest(tmp_path, make(Other()), no_warning)
    assert "extra is not in the checkpoint; gate is not in the model" in str(caught.value)


def test_another_optimizer_starts_clean_and_says_so(tmp_path: Path) -> None:
    first = make()
    take(first, 3)
    save_checkpoint(tmp_path, first, keep=1)
    state, warnings = make(optimizer="sgd"), list[str]()
    assert load_newest(tmp_path, state, warnings.append) == 3
    (warning,) = warnings
    assert "was made with the optimizer AdamW: SGD starts clean for 6 of 6 parameters" in warning
    assert not state.optimizer.state
    for name, parameter in first.weights.parameters.items():
        assert torch.equal(parameter, state.weights.parameters[name])
    take(state, 1)


def test_what_the_same_optimizer_still_moves_keeps_its_state(tmp_path: Path) -> None:
    first = make()
    take(first, 3)
    save_checkpoint(tmp_path, first, keep=1)
    state, warnings = make(optimizer="muon"), list[str]()
    load_newest(tmp_path, state, warnings.append)
    assert warnings[0].endswith("Muon and AdamW starts clean for 1 of 6 parameters")
    for name, parameter in state.weights.parameters.items():
        kept = state.optimizer.state.get(parameter, {})
        assert set(kept) == (set() if name == "mix.weight" else {"step", "exp_avg", "exp_avg_sq"})


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    state = make()
    losses = {1: 3.0, 2: 2.0, 3: None, 4: 2.5, 5: 2.0, 6: None}
    for step, loss in losses.items():
        state.progress.step = step
        save_checkpoint(tmp_path, state, keep=2, validation_loss=loss)
    assert [c.step for c in list_checkpoints(tmp_path)] == [2, 5, 6]
    assert load_weights(tmp_path, TinyModel(), no_warning, best=True) == 2
    assert load_weights(tmp_path, TinyModel(), no_warning) == 6


def test_every_nth_is_kept_for_good(tmp_path: Path) -> None:
    state = make()
    for step in range(5, 36, 5):
        state.progress.step = step
        save_checkpoint(tmp_path, state, keep=1, keep_every=10)
    assert [c.step for c in list_checkpoints(tmp_path)] == [10, 20, 30, 35]


def test_a_checkpoint_that_cannot_be_deleted_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(errno.EBUSY, "Device or resource busy")

    state = make()
    save_at(tmp_path, state, 1)
    monkeypatch.setattr("windtunnel.train.checkpoint.shutil.rmtree", refused)
    state.progress.step = 2
    save_checkpoint(tmp_path, state, keep=1)
    assert [c.step for c in list_checkpoints(tmp_path)] == [2]


def test_a_manifest_that_names_no_file_is_damaged(tmp_path: Path) -> None:
    state = make()
    save_at(tmp_path, state, 1)
    path = save_at(tmp_path, state, 2)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "files": {}}))
    told: list[str] = []
    assert load_newest(tmp_path, make(), told.append) == 1
    assert "names no file" in told[0]


def test_weights_are_loaded_for_use_in_any_precision(tmp_path: Path) -> None:
    state = make()
    take(state, 3)
    save_checkpoint(tmp_path, state, keep=1)
    model = TinyModel(seed=4).to(torch.bfloat16)
    assert load_weights(tmp_path, model, no_warning) == 3
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, state.weights.parameters[name].to(torch.bfloat16))
    assert model.head.weight is model.embedding.weight
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_weights(tmp_path / "nothing", model, no_warning)
    damage(tmp_path / "step-00000003" / "model.safetensors", "flipped")
    with pytest.raises(CheckpointError, match="none of the 1"):
        load_weights(tmp_path, model, lambda text: None)
    assert (tmp_path / "step-00000003").exists(), "a reader changes nothing"


@pytest.mark.parametrize("call", range(7))
def test_a_full_disk_leaves_the_checkpoints_before(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up at any of the flushes of a save, the final ones included."""
    state = make()
    take(state, 1)
    save_checkpoint(tmp_path, state, keep=1)
    take(state, 1)
    real_sync, calls = os.fsync, []

    def full_disk(handle: int) -> None:
        calls.append(handle)
        if len(calls) == call + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real_sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(RunError, match=r"the disk is full; that of step [12] stands"):
            save_checkpoint(tmp_path, state, keep=1)
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []
    assert load_newest(tmp_path, make(), no_warning) in (1, 2)
    save_checkpoint(tmp_path, state, keep=1)
    assert load_newest(tmp_path, make(), no_warning) == 2


def test_drafts_of_a_dead_process_are_cleared(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, make(), keep=1)
    (tmp_path / ".tmp-step-00000005-123").mkdir()
    (tmp_path / ".tmp-step-00000005-123" / "model.safetensors").write_bytes(b"half")
    assert load_newest(tmp_path, make(), no_warning) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000000"]


def test_the_manifest_has_the_checksum_of_every_other_file(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, make(), keep=1, validation_loss=1.5)
    manifest = json.loads((path / "manifest.json").read_text())
    others = {p.name for p in path.iterdir()} - {"manifest.json"}
    assert manifest["files"].keys() == others
    assert manifest["validation_loss"] == 1.5
    assert not any(p.suffix in (".pt", ".pkl", ".bin") for p in path.iterdir())


def test_an_optimizer_that_keeps_other_state_than_before_starts_clean(tmp_path: Path) -> None:
    first = make(optimizer="rmsprop")
    take(first, 2)
    save_checkpoint(tmp_path, first, keep=1)
    state, warnings = make(optimizer={"type": "rmsprop", "momentum": 0.5}), list[str]()
    load_newest(tmp_path, state, warnings.append)
    assert "the optimizer RMSprop: RMSprop with momentum starts clean for 6 of 6" in warnings[0]
    take(state, 2)


def test_those_of_named_steps_are_kept_for_good(tmp_path: Path) -> None:
    state = make()
    for step in range(5, 36, 5):
        state.progress.step = step
        save_checkpoint(tmp_path, state, keep=1, keep_at=(15, 20))
    assert [c.step for c in list_checkpoints(tmp_path)] == [15, 20, 35]
