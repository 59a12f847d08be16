"""A child process that measures speeds. On stdin, as JSON: when it was started, run configs and
their names; on stdout: their steps a second, and how long it took to the end of its first step, as
a worker does.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from windtunnel.errors import WindtunnelError
from windtunnel.study.arms import read_tree

if TYPE_CHECKING:
    from windtunnel.train.launch import ReadyRun

SECONDS = 1.0
"""Of steps, after the first; at least two steps are taken."""


def steps_per_second(ready: ReadyRun, on_first: Callable[[], None] = lambda: None) -> float:
    """The speed of a run's steps: the median of what a short while allows, the first left out.

    Args:
        on_first: called when the first is done.
    """
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
        if number == 0:
            on_first()
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

    asked = json.load(sys.stdin)
    firsts, speeds = list[float](), list[float]()
    for name, tree in zip(asked["names"], asked["runs"], strict=True):
        try:
            ready = ready_run(read_tree(tree))
            speeds.append(steps_per_second(ready, lambda: firsts.append(time.time())))
        except Exception as error:  # a component of the user's may raise anything
            what = str(error) if isinstance(error, WindtunnelError) else repr(error)
            print(f"{name}: {what}", file=sys.stderr)
            sys.exit(1)
    print(json.dumps({"speeds": speeds, "start": max(0.0, firsts[0] - asked["began"])}))


if __name__ == "__main__":
    main()
