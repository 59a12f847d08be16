"""A worker without a model: its loss is a formula of the run's config, and it misbehaves as told.

Arguments: the run's folder, and as of the real worker ``--until`` and ``--memory``. A learning rate
above 0.05 diverges. Below 0.05 but above 0.04 it fails. With ``--memory``, more than 64 × 8 rows of
width at once are too much for it. With FAKE_KILL=N in the environment, the N-th worker of all kills
the process group of whoever started it.
"""

import argparse
import math
import sys
from pathlib import Path

import yaml

from windtunnel.runs import RunFolder, write_atomic

ROOM = 64 * 8


def loss_at(config: dict, step: int) -> float:
    train, arch = config["train"], config["arch"]
    seed = (train["seed"] * 7919 % 101) / 1e4
    away = abs(math.log(train["lr"] / 3e-3)) + abs(math.log(arch["d_model"] / 48))
    return 1.0 + away + 3.0 / (1 + step) + seed


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--until", type=int)
    parser.add_argument("--memory", type=int)
    options = parser.parse_args()
    run = RunFolder.open(options.run)
    config = yaml.safe_load(run.config_path.read_text())
    train = config["train"]
    lr, steps = train["lr"], train["steps"]
    rows = train["micro_batch_size"] or train["batch_size"]
    if options.memory is not None and config["arch"]["d_model"] * rows > ROOM:
        print(
            f"{run.path}: out of memory; set train.micro_batch_size below {rows}", file=sys.stderr
        )
        return 1
    if 0.04 < lr <= 0.05:
        print("no luck", file=sys.stderr)
        return 2
    end = min(steps, options.until or steps)
    with run.lock(), run.open_events() as log:
        saved = run.checkpoints / "step"
        begin = int(saved.read_text()) if saved.exists() else 0
        log.append("resume" if begin else "start", step=begin)
        for step in range(begin + 1, end + 1):
            log.append("step", step=step, loss=loss_at(config, step))
            if lr > 0.05 and step > 2:
                final = {"step": step, "loss": None}
                write(run, "diverged", step, final)
                return 0
        log.append("eval", step=end, loss=loss_at(config, end))
        write_atomic(saved, str(end))
        if end < steps:
            return 3
        write(run, "finished", steps, {"step": steps, "loss": loss_at(config, steps)})
    return 0


def write(run: RunFolder, status: str, steps: int, final: dict) -> None:
    record = {"key": run.key, "name": run.name, "status": status, "steps": steps}
    run.write_record({**record, "final": final})


if __name__ == "__main__":
    sys.exit(main())
