"""A child process that measures speeds: run configs as JSON on stdin, steps a second on stdout."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from windtunnel.errors import WindtunnelError
from windtunnel.study.arms import read_tree

if TYPE_CHECKING:
    from windtunnel.train.launch import ReadyRun

SECONDS = 1.0
"""Of steps, after the first; at least two steps are taken."""


def steps_per_second(ready: ReadyRun) -> float:
    """The speed of a run's steps: the median of what a short while allows, the first left out."""
    import statistics

    import torch

    from windtunnel.train.launch import run_parts
    from windtunnel.train.loop import create_train_state, train_steps

    if ready.config.train.threads is not None:
        torch.set_num_threads(ready.config.train.threads)
    parts = run_parts(ready)
    state = create_train_state(parts.model, parts.batches, parts.train)
    times: list[float] = []
    began = before = time.perf_counter()
    for number, _ in enumerate(train_steps(state)):
        now = time.perf_counter()
        if number == 0 and parts.train.steps > 1:
            began = now
        else:
            times.append(now - before)
        before = now
        if now - began > SECONDS and len(times) >= 2:
            break
    return 1 / statistics.median(times)


def main() -> None:
    from windtunnel.train.launch import ready_run

    try:
        trees = json.load(sys.stdin)
        speeds = [steps_per_second(ready_run(read_tree(tree))) for tree in trees]
    except WindtunnelError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    print(json.dumps(speeds))


if __name__ == "__main__":
    main()
