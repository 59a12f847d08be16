"""What this machine has: cores, free memory, GPUs. torch is asked only for GPUs."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: a container may lend fewer than there are
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> tuple[str, ...]:
    """The CUDA devices that this process may use, by the names that ``CUDA_VISIBLE_DEVICES`` has
    for them."""
    import torch

    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    count = torch.cuda.device_count()
    return tuple(names[:count]) if names[0] else tuple(str(index) for index in range(count))


def shares_gpus(device: str) -> bool:
    """Whether a run with that ``train.device`` takes any CUDA device that it is given."""
    return device == "cuda" or (device == "auto" and bool(visible_gpus()))


def free_memory_bytes() -> int | None:
    """Memory that new processes may take; None where the system does not tell.

    The smaller of what the kernel has available and what the control group leaves.
    """
    found = [value for value in (_available(), _group_room()) if value is not None]
    return min(found, default=None)


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _group_room() -> int | None:
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = (group / "memory.current").read_text(encoding="ascii").strip()
    except OSError:  # no second version of control groups, or the root's own
        return None
    return max(0, int(limit) - int(used)) if limit != "max" else None
