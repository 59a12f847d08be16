"""A worker process: ``python -m windtunnel.study.worker RUN`` trains a folder's run to its end.

It goes on from the newest checkpoint. Exit codes: 0 when there is a record, 130 or 75 after a
signal (the run has saved), 1 for a failure, 2 for a config that cannot run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from windtunnel.errors import WindtunnelError
from windtunnel.runs import RunFolder


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains the run; the exit code."""
    parser = argparse.ArgumentParser("python -m windtunnel.study.worker", description=__doc__)
    parser.add_argument("run", type=Path, help="the run's folder")
    options = parser.parse_args(arguments)
    from windtunnel.train.launch import run_in_folder  # torch: after the arguments are read

    try:
        run_in_folder(RunFolder.open(options.run), resume=True)
    except WindtunnelError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
