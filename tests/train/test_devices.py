"""Devices: which one a name means, and runs that move from one to another."""

from pathlib import Path

import pytest
import torch
from standins import new_folder, parts, recipe
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from windtunnel.errors import UsageError
from windtunnel.train import activation_checkpointing, runner
from windtunnel.train.distributed.world import joined
from windtunnel.train.loop import resolve_device
from windtunnel.train.memory import forget_peak, is_out_of_memory
from windtunnel.train.runner import train_run


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
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA driver error: out of memory",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "cuFFT error: CUFFT_ALLOC_FAILED",
        "NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'",
        "[enforce fail] DefaultCPUAllocator: not enough memory",
    ],
)
def test_memory_that_runs_out_is_known_on_every_device(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))
    assert is_out_of_memory(torch.AcceleratorError(text))
    assert not is_out_of_memory(ValueError(text))


@pytest.mark.parametrize(
    "text",
    [
        "the dtype of mat1 and mat2 differ",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSetStream(handle, stream)`",
    ],
)
def test_another_fault_of_a_device_is_not_taken_for_it(text: str) -> None:
    assert not is_out_of_memory(torch.AcceleratorError(text))


def test_a_device_whose_random_state_torch_does_not_keep_draws_the_same_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on Apple's GPUs: their generator is played by one of the CPU, their tensors by a flag."""
    drawing = torch.Generator()
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda *_: drawing.get_state())
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state, *_: drawing.set_state(state))
    device = torch.device("mps:0")
    monkeypatch.setattr(activation_checkpointing, "_unsaved_device", lambda _: device)

    def forward(x: Tensor) -> Tensor:
        return (x * torch.rand(x.shape, generator=drawing)).square()

    found, after = [], []
    for run in (forward, activation_checkpointing._recomputing(forward)):
        drawing.manual_seed(3)
        x = torch.ones(2, 8, requires_grad=True)
        loss = run(x).sum() + run(x).sum()
        torch.rand(5, generator=drawing)  # what comes after the layer, and before the backward
        loss.backward()
        assert x.grad is not None
        found.append(x.grad)
        after.append(drawing.get_state())
    assert torch.equal(*found)
    assert torch.equal(*after), "the second forward moves no other draw"


def test_devices_whose_random_state_torch_does_not_keep_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unsaved(device: str) -> torch.device | None:
        with FakeTensorMode():
            given = torch.empty(2, device=device)
        return activation_checkpointing._unsaved_device((None, torch.empty(2), given))

    assert unsaved("cpu") is None
    assert unsaved("meta") is None
    assert unsaved("mps") == torch.device("mps:0")
    monkeypatch.setattr(torch.cuda, "_initialized", True)
    assert unsaved("cuda:0") is None


def test_the_peak_of_a_gpu_begins_anew_with_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", asked.append)
    forget_peak(torch.device("cuda", 1))
    assert asked == [torch.device("cuda", 1)]
    monkeypatch.setattr(runner, "forget_peak", asked.append)
    train_run(parts(recipe(steps=1)), new_folder(tmp_path / "run"))
    assert asked[1:] == [torch.device("cpu")]


def test_a_name_that_is_no_device_is_told_with_its_place() -> None:
    with pytest.raises(UsageError, match="--device: 'gpu' is no device; allowed: auto, cpu, cuda"):
        resolve_device("gpu", "--device")


@pytest.mark.gpu
@pytest.mark.parametrize("begins_there", [False, True])
def test_a_run_moves_between_cpu_and_gpu(gpu: str, tmp_path: Path, begins_there: bool) -> None:
    first, second = (gpu, "cpu") if begins_there else ("cpu", gpu)
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
    warned = any(event.kind == "warning" for event in folder.read_events())
    assert warned == (first != second)
