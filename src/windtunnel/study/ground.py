"""The ground a plan stands on here: the corpus, the versions, the speed of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from windtunnel.errors import StudyError
from windtunnel.study.arms import Ground, Settled
from windtunnel.study.machine import free_memory_bytes as free_memory_bytes
from windtunnel.study.machine import usable_cores as usable_cores
from windtunnel.study.starts import keep_start
from windtunnel.train.run_config import LoadedRun, RunConfig

if TYPE_CHECKING:
    from windtunnel.data.dataset import Dataset
    from windtunnel.data.progress import Progress
    from windtunnel.train.config import TrainConfig

PROBE_SECONDS = 600.0
"""How long measuring speeds may take before it is given up."""


def local_ground(*, progress: Progress | None = None, measure: bool = True) -> Ground:
    """This machine: the corpus is prepared (once), and speeds are measured in a child process.

    Args:
        progress: told where reading and tokenizing stand.
        measure: without it the plan gives no time, and seconds cannot be matched.
    """
    return Ground(_Settler(progress), measure_speeds if measure else None, memory_room)


class _Settler:
    """Settles configs; keeps the corpora that it has opened."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._opened: dict[str, Dataset] = {}

    def __call__(self, loaded: LoadedRun) -> Settled:
        from windtunnel.data.dataset import prepare
        from windtunnel.train.feed import feed_of
        from windtunnel.train.launch import ready_run

        data = loaded.config.data
        asked = data.model_dump_json()
        if asked not in self._opened:
            self._opened[asked] = prepare(data, self._progress)
        dataset = self._opened[asked]
        ready = ready_run(loaded, dataset=dataset)
        return Settled(
            key=ready.key,
            config=ready.config.model_dump(mode="json"),
            data_fingerprint=dataset.fingerprint,
            vocab_size=dataset.tokenizer.vocab_size,
            step=feed_of(dataset, ready.config).step,
        )


def measure_speeds(configs: Sequence[RunConfig]) -> list[float]:
    """Steps a second of each config, measured for a moment in one child process.

    Equal recipes of equal shape are measured once. The machine should have nothing else to do. What
    the process took before its first step is kept, as that of a worker.

    Raises:
        StudyError: a model cannot be trained here; the message says which and why.
    """
    texts = [_without_seed(config) for config in configs]
    distinct = list(dict.fromkeys(texts))
    names = {text: config.arch.name for config, text in zip(configs, texts, strict=True)}
    asked = json.dumps({
        "began": time.time(), "runs": [json.loads(text) for text in distinct],
        "names": [names[text] for text in distinct],
    })  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-m", "windtunnel.study.speed_probe"],
            input=asked, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise StudyError(f"measuring the speed took over {PROBE_SECONDS:.0f} s") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise StudyError(f"the speed cannot be measured: {last[0]}")
    told = json.loads(done.stdout)
    keep_start(told["start"])
    speeds = dict(zip(distinct, told["speeds"], strict=True))
    return [float(speeds[text]) for text in texts]


def _without_seed(config: RunConfig) -> str:
    """What decides the speed, as JSON."""
    tree = config.model_dump(mode="json")
    tree["arch"]["name"] = "probe"
    tree["train"]["seed"] = 0
    return json.dumps(tree, sort_keys=True)


def memory_room(train: TrainConfig) -> int | None:
    """Free memory where a recipe's model would lie; None on an accelerator, or where unknown."""
    from windtunnel.train.loop import resolve_device

    return free_memory_bytes() if resolve_device(train.device).type == "cpu" else None
