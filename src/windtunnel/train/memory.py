"""The most memory a run has held."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import torch

from windtunnel.errors import RunError

PROCESS = "largest resident memory of the whole process: Python, torch and data included"
ALLOCATOR = "largest memory allocated by torch on the GPU"


def peak_memory(device: torch.device) -> tuple[int, str]:
    """Bytes, and what they measure: the GPU's allocations on CUDA, else the process's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), ALLOCATOR
    return _process_peak(), PROCESS


def forget_peak(device: torch.device) -> None:
    """Lets :func:`peak_memory` begin anew on CUDA: what ran before in this process is not the
    run's. The memory of a process cannot be forgotten."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _process_peak() -> int:
    # Linux's ru_maxrss begins with the parent's, across fork and exec; VmHWM is the process's own.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def out_of_memory(where: str, rows: int) -> RunError:
    """What to tell where memory has run out with so many sequences at once."""
    return RunError(
        f"{where}: out of memory; set train.micro_batch_size below {rows} (the gradient stays the "
        "same) and start again"
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory has run out, of the device or of the machine."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )


_OUT_OF_MEMORY = re.compile(
    r"DefaultCPUAllocator|MPS backend out of memory"
    # An AcceleratorError: memory that was not asked of torch's allocator.
    r"|(CUDA|HIP)( driver)? error: out of memory|Cuda failure (\d+ )?'out of memory'"
    # The libraries' own workspaces and handles.
    r"|(CU|HIP)(BLAS|DNN|SOLVER|SPARSE)_STATUS_ALLOC_FAILED|(CU|HIP)FFT_ALLOC_FAILED"
    r"|CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"
    r"|(CU|HIP)BLAS_STATUS_NOT_INITIALIZED when calling `(cu|hip)blasCreate"
    r"|(CU|HIP)SOLVER_STATUS_NOT_INITIALIZED, when calling `(cu|hip)solverDnCreate"
)
"""Of these torch makes plain RuntimeErrors."""
