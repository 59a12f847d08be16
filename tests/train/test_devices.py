"""Devices: which one a name means, and runs that move from one to another."""

from pathlib import Path

import pytest
import torch
from standins import new_folder, parts, recipe

from windtunnel.errors import UsageError
from windtunnel.train.distributed.world import joined
from windtunnel.train.loop import resolve_device
from windtunnel.train.memory import is_out_of_memory
from windtunnel.train.runner import train_run

GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a CUDA GPU, and this machine has none")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with two GPUs, for a process that has taken the second."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_without_a_number_is_the_process_s_own() -> None:
    names = {"auto": "cuda:1", "cuda": "cuda:1", "cuda:0": "cuda:0", "cpu": "cpu"}
    assert {name: str(resolve_device(name)) for name in names} == names
    with pytest.raises(UsageError, match="this machine has 2 GPUs"):
        resolve_device("cuda:2")


def test_what_is_not_here_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert str(resolve_device("auto")) == "cpu"
    for name in ("cuda", "mps"):
        with pytest.raises(UsageError, match="not here"):
            resolve_device(name)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("rank", [0, 2])
def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 3, "LOCAL_WORLD_SIZE": 3}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UsageError if rank == 0 else SystemExit) as caught, joined("ddp", "cuda"):
        pytest.fail("they have met")
    if rank == 0:
        assert "3 processes were started on a machine with 2" in str(caught.value)


@pytest.mark.parametrize("device", ["auto", "mps"])
def test_processes_do_not_share_an_apple_gpu(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for name, value in {"RANK": 0, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UsageError, match="set it to cpu"), joined("ddp", device):
        pytest.fail("they have met")


@pytest.mark.parametrize(
    "text",
    [
        "MPS backend out of memory (MPS allocated: 17 GB)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "[enforce fail] DefaultCPUAllocator: not enough memory",
    ],
)
def test_memory_that_runs_out_is_known_on_every_device(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("the dtype of mat1 and mat2 differ"))


def test_a_name_that_is_no_device_is_told_with_its_place() -> None:
    with pytest.raises(UsageError, match="--device: 'gpu' is no device; allowed: auto, cpu, cuda"):
        resolve_device("gpu", "--device")


@needs_gpu
@pytest.mark.parametrize("first", ["cpu", "cuda"])
def test_a_run_moves_between_cpu_and_gpu(tmp_path: Path, first: str) -> None:
    second = {"cpu": "cuda", "cuda": "cpu"}[first]
    folder = new_folder(tmp_path / "run")

    class Stop(Exception):
        pass

    def stop(info: object) -> None:
        if getattr(info, "step", 0) == 10:
            raise Stop

    with pytest.raises(Stop):
        train_run(parts(recipe(device=first, steps=20)), folder, on_step=stop)
    record = train_run(parts(recipe(device=second, steps=20)), folder, resume=True)
    assert record["steps"] == 20
    assert any(event.kind == "warning" for event in folder.read_events())


@needs_gpu
@pytest.mark.parametrize("precision", ["bfloat16", "autocast", "float16"])
def test_precisions_train_on_a_gpu(tmp_path: Path, precision: str) -> None:
    losses = []
    for kind in ("float32", precision):
        folder = new_folder(tmp_path / kind)
        losses.append(train_run(parts(recipe(device="cuda", precision=kind)), folder)["final"])
    assert losses[1]["loss"] == pytest.approx(losses[0]["loss"], rel=0.05)
