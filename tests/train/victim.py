"""A training process to be killed: ``victim.py FOLDER PAUSE``; resumes what is there."""

import sys
from pathlib import Path

import torch
from standins import new_folder, parts, recipe

from windtunnel.errors import WindtunnelError
from windtunnel.runs import RunFolder
from windtunnel.train.runner import train_run

if __name__ == "__main__":
    torch.set_num_threads(1)
    path, pause = Path(sys.argv[1]), float(sys.argv[2])
    folder = RunFolder.open(path) if path.exists() else new_folder(path)
    try:
        train_run(parts(recipe(steps=60), pause=pause), folder, resume=True)
    except WindtunnelError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
