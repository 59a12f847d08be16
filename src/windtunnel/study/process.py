"""What a training process takes before its model: Python, torch, its kernels, the tokenizers.

Measured once for each start of the machine, environment, version of torch and precision, in a child
process that trains next to nothing, and kept in the cache; a torch for GPUs takes several times
that of one for CPUs.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.data.cache import cache_folder
from windtunnel.runs import write_atomic

_USUAL = 360 * 2**20
"""Of torch for CPUs on Linux: where it cannot be measured."""
_SECONDS = 120.0
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def process_bytes(precision: str = "float32") -> int:
    """The peak of a process that trains nearly nothing, in bytes.

    The same torch takes 350 MiB here and 440 there, or after a restart: how many pages of its
    libraries count depends on how the system keeps their files in memory. So it is measured.
    """
    name = _name(precision)
    path = cache_folder() / "process-bytes.json"
    known: dict[str, int] = {}
    with suppress(OSError, ValueError):
        known = json.loads(path.read_text(encoding="utf-8"))
    known = known if isinstance(known, dict) else {}
    if not isinstance(known.get(name), int):
        found = measured_process_bytes(precision)
        if found is None:
            return _USUAL
        start = _machine_start()
        known = {key: value for key, value in known.items() if key.endswith(f" {start}")}
        known[name] = found
        with suppress(OSError):  # a cache that cannot be written is measured again
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps(known, indent=1))
    return known[name]


def measured_process_bytes(precision: str) -> int | None:
    """The same, measured now, in a child process; None where the child fails."""
    command = [sys.executable, "-m", "windtunnel.study.process", precision]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
        return int(done.stdout.split()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None


def _name(precision: str) -> str:
    """What decides it: torch and what it was built for, the system, precision, the environment, and
    the machine's start, since which its files lie in memory as they do."""
    torch, _, build = version("torch").partition("+")
    kind = "narrow" if precision in ("bfloat16", "autocast", "float16") else "float32"
    precision = "bfloat16" if kind == "narrow" else kind
    built = f"{torch} {sys.platform} {platform.machine()} {build or 'cpu'}"
    return f"{built} {precision} {sys.prefix} {_machine_start()}"


def _machine_start() -> str:
    """What is another after each start of the machine; on Linux, else nothing."""
    with suppress(OSError):
        return _BOOT.read_text(encoding="ascii").strip()
    return ""


class _Bytes:
    token_bytes = np.ones(64, dtype=np.int32)


def main() -> None:
    """Trains a model of a few thousand parameters for two steps; prints its process's peak."""
    from windtunnel.arch import ArchSpec, build, resolve
    from windtunnel.data.loader import Batches, evaluation_batches
    from windtunnel.train import launch  # noqa: F401 - for the memory that its imports take
    from windtunnel.train.config import TrainConfig
    from windtunnel.train.evaluation import evaluate
    from windtunnel.train.loop import create_train_state, train_steps
    from windtunnel.train.memory import peak_memory

    spec = {"d_model": 32, "vocab_size": 64, "max_seq_len": 16, "layers": ({},)}
    recipe = {"steps": 2, "batch_size": 2, "seq_len": 16, "device": "cpu"}
    train = TrainConfig.model_validate(recipe | {"precision": sys.argv[1]})
    tokens = np.arange(1000, dtype=np.uint16) % 64
    batches: Any = Batches(tokens, seq_len=16, batch_size=2, seed=0)
    model = build(resolve(ArchSpec.model_validate(spec)))
    state = create_train_state(model, batches, train)
    for _ in train_steps(state):
        pass
    valid: Any = list(evaluation_batches(tokens, seq_len=16, batch_size=2, max_tokens=64))
    evaluate(state.model, valid, _Bytes())
    print(peak_memory(state.device)[0])


if __name__ == "__main__":
    main()
