"""Training processes that die fifty times: ``doomed.py FOLDER SEED KILLS``.

Torch is imported once; each life is a fork of this process. Half of the lives end at a random one
of the system calls by which checkpoints, events and the record reach the disk, so in the middle of
a save; the others at a random moment, by a signal from outside. Prints one line a death.
"""

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from standins import new_folder, parts, recipe

from windtunnel.runs import RunFolder
from windtunnel.train.runner import train_run

STEPS = 1200
CALLS = ("fsync", "rename", "replace", "ftruncate", "write", "link", "open")
ENDED = 3


def recipe_of_the_doomed() -> Any:
    return recipe(steps=STEPS, checkpoint_every=3, eval_every=25, keep_checkpoints=2)


def live(path: Path, die_at_call: int | None) -> None:
    """One life: trains on, until it dies or the run has ended."""
    if die_at_call is not None:
        count_down(die_at_call)
    train_run(parts(recipe_of_the_doomed(), pause=0.002), RunFolder.open(path), resume=True)
    os._exit(ENDED)


def count_down(calls: int) -> None:
    """Kills this process at the so-manieth call that writes, before or after it is carried out."""
    left = calls

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left <= 0 and calls % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*arguments, **named)
            finally:
                if left <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))
    Path.rename = deadly(Path.rename)  # type: ignore[method-assign]


def main(path: Path, seed: int, kills: int) -> None:
    torch.set_num_threads(1)
    torch.optim.AdamW(
        [torch.nn.Parameter(torch.zeros(1))]
    )  # what it imports is slow: once is enough
    source = random.Random(seed)
    new_folder(path)
    deaths = 0
    while deaths < kills:
        inside = deaths % 2 == 0
        die_at_call = source.randint(8, 60) if inside else None
        moment = source.uniform(0.01, 0.06)
        child = os.fork()
        if child == 0:
            try:
                live(path, die_at_call)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        if not inside:
            time.sleep(moment)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            print(f"after {deaths} deaths a life ended with {os.waitstatus_to_exitcode(status)}")
            sys.exit(1)
        deaths += 1
        print(RunFolder.open(path).summary().step, "inside" if inside else "outside", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
