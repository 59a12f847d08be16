"""Whole runs: events, record, interrupts, resuming to the bit."""

import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch
from standins import (
    ListBatches,
    TinyModel,
    final_weights,
    learnable_batches,
    new_folder,
    parts,
    recipe,
)

from windtunnel.errors import DataError, RunError, UsageError
from windtunnel.runs import Event, RunFolder
from windtunnel.train.interrupts import Interrupted, StopRequest
from windtunnel.train.loop import StepInfo
from windtunnel.train.runner import train_run


def stop_at(step: int, signum: int = signal.SIGTERM):
    def on_step(info: StepInfo) -> None:
        if info.step == step:
            os.kill(os.getpid(), signum)

    return on_step


def steady(record: dict) -> dict:
    """A record without what another machine or hour would change."""
    moving = {
        "train_seconds",
        "cpu_seconds",
        "tokens_per_second",
        "peak_memory_bytes",
        "environment",
        "git",
    }
    kept = {name: value for name, value in record.items() if name not in moving}
    for name in ("final", "best"):
        kept[name] = {k: v for k, v in kept[name].items() if "seconds" not in k}
    return kept


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict]:
    folder = new_folder(tmp_path_factory.mktemp("straight") / "run")
    record = train_run(parts(), folder)
    return final_weights(folder), record


def test_a_run_leaves_events_checkpoints_and_a_record(tmp_path: Path) -> None:
    folder, heard = new_folder(tmp_path / "run"), list[Event]()
    config = recipe(steps=25, log_every=5, keep_checkpoints=1)
    record = train_run(parts(config), folder, on_event=heard.append)
    events = folder.read_events()
    assert [(e.kind, e.step) for e in events] == [(e.kind, e.step) for e in heard]
    assert [e.kind for e in events][:2] == ["start", "eval"]
    assert [e.step for e in events if e.kind == "step"] == [1, 5, 10, 15, 20, 25]
    assert [e.step for e in events if e.kind == "eval"] == [0, 10, 20, 25]
    assert [e.step for e in events if e.kind == "checkpoint"] == [7, 14, 21, 25]
    assert events[-1].values["status"] == folder.status == record["status"] == "finished"
    step = next(e.values for e in events if e.kind == "step" and e.step == 25)
    assert step.keys() == {
        *("step", "tokens", "seconds", "flops", "loss", "lr", "grad_norm", "skipped")
    }
    assert [p.name for p in folder.checkpoints.iterdir()] == ["step-00000025"]
    evals = [e.values for e in events if e.kind == "eval"]
    assert record["final"] == evals[-1]
    assert record["best"] == min(evals, key=lambda values: values["loss"])
    assert evals[-1]["loss"] < evals[0]["loss"]


def test_the_record_has_all_its_fields(straight: tuple[bytes, dict]) -> None:
    _, record = straight
    expected = {
        *("key", "name", "arch_digest", "seed", "status", "final", "best", "params", "tokens"),
        *(
            "flops",
            "train_seconds",
            "cpu_seconds",
            "tokens_per_second",
            "peak_memory_bytes",
            "environment",
        ),
        *("git", "code_digest", "data_fingerprint", "samples"),
    }
    assert expected <= record.keys()
    assert record["params"] == sum(p.numel() for p in TinyModel().parameters())
    rows = [int((b.targets != -100).sum()) for b in learnable_batches()]
    assert record["tokens"] == 5 * sum(rows) + sum(rows[:5])
    assert record["flops"] == 40 * 4 * 6 * 100.0
    assert record["tokens_per_second"] == record["tokens"] / record["train_seconds"]
    assert record["peak_memory_bytes"] > 50_000_000
    assert record["environment"]["threads"] == 1
    assert record["final"].keys() >= {"loss", "perplexity", "bits_per_byte", "accuracy", "tokens"}
    json.dumps(record, allow_nan=False)


def test_samples_are_made_from_the_final_model(tmp_path: Path) -> None:
    made = parts(recipe(steps=1), samples=lambda model: [{"text": str(model.training)}])
    record = train_run(made, new_folder(tmp_path / "run"))
    assert record["samples"] == [{"text": "False"}]


@pytest.mark.parametrize("steps", [(1, 2, 3), (6, 7, 8, 20), (39,), (13, 30)])
def test_an_interrupted_run_ends_with_the_same_bits(
    steps: tuple[int, ...], tmp_path: Path, straight: tuple[bytes, dict]
) -> None:
    folder = new_folder(tmp_path / "run")
    for step in steps:
        with pytest.raises(Interrupted, match=f"after step {step} of 40") as caught:
            train_run(parts(), folder, resume=True, on_step=stop_at(step))
        assert caught.value.exit_code == 75
        assert folder.status == "interrupted"
        assert folder.read_record() is None
    record = train_run(parts(), folder, resume=True)
    weights, expected = straight
    assert final_weights(folder) == weights
    assert steady(record) == steady(expected)
    events = folder.read_events()
    assert [e.step for e in events if e.kind == "step"] == list(range(1, 41))
    assert [e.step for e in events if e.kind == "eval"] == [0, 10, 20, 30, 40]
    assert [e.step for e in events if e.kind == "resume"] == list(steps)
    seconds = [e.values["seconds"] for e in events if e.kind == "step"]
    assert seconds == sorted(seconds)


class Boom(Exception):
    """A death that no handler expects."""


@pytest.mark.parametrize("step", [1, 6, 7, 10, 16, 39, 40])
def test_a_run_that_failed_anywhere_ends_with_the_same_bits(
    step: int, tmp_path: Path, straight: tuple[bytes, dict]
) -> None:
    def fail(info: StepInfo) -> None:
        if info.step == step:
            raise Boom("why")

    folder = new_folder(tmp_path / "run")
    with pytest.raises(Boom):
        train_run(parts(), folder, on_step=fail)
    assert folder.status == "failed"
    assert folder.read_events()[-1].values["error"] == "Boom: why"
    record = train_run(parts(), folder, resume=True)
    weights, expected = straight
    assert final_weights(folder) == weights
    assert steady(record) == steady(expected)
    events = folder.read_events()
    assert [e.step for e in events if e.kind == "step"] == list(range(1, 41))
    assert [e.step for e in events if e.kind == "eval"] == [0, 10, 20, 30, 40]


def test_a_damaged_checkpoint_costs_steps_but_no_bits(
    tmp_path: Path, straight: tuple[bytes, dict]
) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(Interrupted):
        train_run(parts(), folder, on_step=stop_at(24))
    file = folder.checkpoints / "step-00000024" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    train_run(parts(), folder, resume=True)
    assert final_weights(folder) == straight[0]
    (warning,) = [e for e in folder.read_events() if e.kind == "warning"]
    assert "the one before is used" in warning.values["message"]
    resume = next(e for e in folder.read_events() if e.kind == "resume")
    assert resume.step == 21


def test_ctrl_c_has_its_own_exit_code_and_handlers_are_put_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    folder = new_folder(tmp_path / "run")
    with pytest.raises(Interrupted) as caught:
        train_run(parts(), folder, on_step=stop_at(3, signal.SIGINT))
    assert caught.value.exit_code == 130
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_in_the_last_step_lets_the_run_finish(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    record = train_run(parts(recipe(steps=5)), folder, on_step=stop_at(5))
    assert record["status"] == "finished"


def test_a_second_ctrl_c_does_not_wait() -> None:
    def ask_twice() -> None:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.signum == signal.SIGINT
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        ask_twice()


def test_outside_the_main_thread_signals_are_left_alone(tmp_path: Path) -> None:
    records = []
    folder = new_folder(tmp_path / "run")
    thread = threading.Thread(
        target=lambda: records.append(train_run(parts(recipe(steps=2)), folder))
    )
    thread.start()
    thread.join()
    assert records[0]["status"] == "finished"


def test_a_run_that_diverges_stops_and_says_so(tmp_path: Path) -> None:
    made = parts()
    switch = {"on": False}

    def spoil(module: object, inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output * float("nan") if switch["on"] and made.model.training else output

    made.model.register_forward_hook(spoil)

    def on_step(info: StepInfo) -> None:
        switch["on"] = info.step >= 12

    folder = new_folder(tmp_path / "run")
    record = train_run(made, folder, on_step=on_step)
    assert record["status"] == folder.status == "diverged"
    assert (record["steps"], record["skipped_steps"]) == (22, 10)
    found = [e.values for e in folder.read_events() if e.kind == "nonfinite"]
    assert [values["in_a_row"] for values in found] == list(range(1, 11))
    assert found[0]["step"] == 13
    assert found[0]["what"] == "loss"
    assert found[0]["loss"] is None
    assert record["final"]["step"] == 22
    assert record["final"]["loss"] is not None


def test_resuming_a_count_of_non_finite_steps_goes_on_counting(tmp_path: Path) -> None:
    def spoiled() -> object:
        made = parts()
        made.model.register_forward_hook(
            lambda module, _, output: output * float("nan") if module.training else output
        )
        return made

    folder = new_folder(tmp_path / "run")
    with pytest.raises(Interrupted):
        train_run(spoiled(), folder, on_step=stop_at(4))
    record = train_run(spoiled(), folder, resume=True)
    assert (record["status"], record["steps"]) == ("diverged", 10)


def test_a_begun_or_ended_run_is_not_begun_again(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(Interrupted):
        train_run(parts(), folder, on_step=stop_at(3))
    with pytest.raises(UsageError, match="has begun; resume it"):
        train_run(parts(), folder)
    train_run(parts(), folder, resume=True)
    events = (folder.path / "events.jsonl").read_bytes()
    with pytest.raises(UsageError, match="has ended; its record is final"):
        train_run(parts(), folder, resume=True)
    assert (folder.path / "events.jsonl").read_bytes() == events


def test_resuming_with_another_recipe_names_what_changed(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(Interrupted):
        train_run(parts(), folder, on_step=stop_at(3))
    events = (folder.path / "events.jsonl").read_bytes()
    changed = parts(recipe(lr=0.5, schedule="linear"))
    with pytest.raises(UsageError) as caught:
        train_run(changed, folder, resume=True)
    assert "train.lr was 0.02, now it is 0.5" in str(caught.value)
    assert "train.schedule.type was 'cosine', now it is 'linear'" in str(caught.value)
    assert (folder.path / "events.jsonl").read_bytes() == events


def test_a_second_writer_is_refused_before_it_touches_anything(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    with folder.lock(), pytest.raises(RunError, match="is writing here"):
        train_run(parts(), RunFolder.open(folder.path))
    assert folder.read_events() == []


def test_a_full_disk_fails_the_run_which_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: tuple[bytes, dict]
) -> None:
    import windtunnel.train.shards as shards

    folder, real, calls = new_folder(tmp_path / "run"), shards.write_tensors, []

    def full_disk(path: Path, tensors: object) -> str:
        calls.append(path)
        if len(calls) == 4:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        return real(path, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_tensors", full_disk)
        with pytest.raises(RunError, match=r"step-00000014.*disk is full; that of step 7 stands"):
            train_run(parts(), folder)
    assert folder.status == "failed"
    assert [p.name for p in folder.checkpoints.iterdir()] == ["step-00000007"]
    train_run(parts(), folder, resume=True)
    assert final_weights(folder) == straight[0]


def test_out_of_memory_tells_what_to_do(tmp_path: Path) -> None:
    made = parts()

    def too_much(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    made.model.register_forward_pre_hook(too_much)
    with pytest.raises(RunError, match=r"out of memory; set train\.micro_batch_size below 4"):
        train_run(made, new_folder(tmp_path / "run"))


def test_data_errors_fail_the_run(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(DataError, match="no token to evaluate on"):
        train_run(parts(valid=[]), folder)
    assert folder.status == "failed"


def test_logging_and_saving_change_no_weight(tmp_path: Path, straight: tuple[bytes, dict]) -> None:
    config = recipe(eval_every=3, checkpoint_every=100, log_every=7, keep_checkpoints=5)
    folder = new_folder(tmp_path / "run")
    train_run(parts(config), folder)
    assert final_weights(folder) == straight[0]


def test_the_seed_the_data_and_the_weights_matter(
    tmp_path: Path, straight: tuple[bytes, dict]
) -> None:
    """The comparisons of bits above would catch a change in any of these."""
    others = [
        parts(recipe(seed=1)),
        parts(model=TinyModel(seed=1)),
        parts(batches=ListBatches(learnable_batches(seed=3))),
        parts(recipe(weight_decay=0.0)),
    ]
    found = set()
    for number, made in enumerate(others):
        folder = new_folder(tmp_path / str(number))
        train_run(made, folder)
        found.add(final_weights(folder))
    assert len(found | {straight[0]}) == 5


def test_the_number_of_threads_is_put_back(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    train_run(parts(recipe(steps=1, threads=1)), new_folder(tmp_path / "run"))
    assert torch.get_num_threads() == 2


def test_a_checkpoint_that_no_step_reaches_is_told(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    train_run(parts(recipe(steps=5, checkpoint_at=(3, 500))), folder)
    told = [e.values["message"] for e in folder.read_events() if e.kind == "warning"]
    assert told == ["train.checkpoint_at: the run has 5 steps, and none is [500]"]


def test_a_folder_of_checkpoints_that_was_deleted_is_made_anew(
    tmp_path: Path, straight: tuple[bytes, dict]
) -> None:
    folder = new_folder(tmp_path / "run")

    def stop(info: StepInfo) -> None:
        if info.step == 9:
            raise RuntimeError("here")

    with pytest.raises(RuntimeError):
        train_run(parts(), folder, on_step=stop)
    shutil.rmtree(folder.checkpoints)
    train_run(parts(), folder, resume=True)
    assert final_weights(folder) == straight[0]
