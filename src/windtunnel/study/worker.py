"""A worker process: ``python -m windtunnel.study.worker RUN`` trains a folder's run to its end.

It goes on from the newest checkpoint. Under torchrun several of them train the run together, as
``train.distributed`` says. Exit codes: 0 when there is a record, 3 where ``--until`` is
reached before the end, 130 or 75 after a signal (the run has saved in both), 1 for a failure, 2 for
a config that cannot run.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from windtunnel.errors import WindtunnelError
from windtunnel.runs import RunFolder
from windtunnel.study.tied import tie


def limit_memory(limit_bytes: int) -> None:
    """Lets this process allocate so much and no more (RLIMIT_DATA: the heap and private memory,
    touched or not), so that too little surfaces here, as an exception."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains the run; the exit code."""
    parser = argparse.ArgumentParser("python -m windtunnel.study.worker", description=__doc__)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--until", type=int, metavar="STEP", help="train to this step at most")
    parser.add_argument("--memory", type=int, metavar="BYTES", help="what it may take at most")
    options = parser.parse_args(arguments)
    if options.memory is not None:
        limit_memory(options.memory)
    if "RANK" in os.environ:
        tie(signal.SIGKILL)  # where torchrun is killed, the processes that it started end too
    try:
        _train(RunFolder.open(options.run), options.until)
    except WindtunnelError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _train(folder: RunFolder, until: int | None) -> None:
    from windtunnel.train.distributed.world import joined  # torch: after the arguments are read
    from windtunnel.train.launch import ready_run, run_in_folder
    from windtunnel.train.run_config import load_run

    loaded = load_run(folder.config_path)
    train = loaded.config.train
    with joined(train.distributed, train.device) as world:
        if not world.first:
            world.told()  # once the data is prepared
        ready = ready_run(loaded)
        if world.first:
            world.tell("ready")
        run_in_folder(folder, ready=ready, resume=True, until=until, world=world)


if __name__ == "__main__":
    sys.exit(main())
