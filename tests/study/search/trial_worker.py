"""A worker without a model: its loss is a formula of the run's config, and it misbehaves as told.

Arguments: the run's folder, and as of the real worker ``--until`` and ``--memory``. As that one, it
evaluates at multiples of ``eval_every``, at the end and where it pauses, and not where it finds
itself behind that. A learning rate above 0.05 diverges. Below 0.05 but above 0.04 it fails. With
``--memory``, more than 64 × 8 rows of width at once are too much for it. With ``--leave STEP`` it
saves there and leaves, as on a signal; with ``--slow SECONDS`` a step takes so long.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import yaml

from windtunnel.runs import RunFolder, write_atomic

ROOM = 64 * 8


def loss_at(config: dict, step: int) -> float:
    train, arch = config["train"], config["arch"]
    seed = (train["seed"] * 7919 % 101) / 1e4
    away = abs(math.log(train["lr"] / 3e-3)) + abs(math.log(arch["d_model"] / 48))
    return 1.0 + away + 3.0 / (1 + step) + seed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--until", type=int)
    parser.add_argument("--memory", type=int)
    parser.add_argument("--leave", type=int)
    parser.add_argument("--slow", type=float, default=0.0)
    options = parser.parse_args(arguments)
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
    end = min(steps, options.leave or options.until or steps)
    with run.lock(), run.open_events() as log:
        saved = run.checkpoints / "step"
        begin = int(saved.read_text()) if saved.exists() else 0
        log.append("resume" if begin else "start", step=begin)
        known = {event.step for event in run.read_events() if event.kind == "eval"}
        for step in range(begin, end + 1):
            if step > begin:
                time.sleep(options.slow)
                log.append("step", step=step, loss=loss_at(config, step))
            if lr > 0.05 and step > 2:
                log.append("eval", step=step, loss=None)
                write(run, "diverged", step, {"step": step, "loss": None})
                return 0
            due = step % train["eval_every"] == 0 or step in (options.until, steps)
            if due and step not in known:
                log.append("eval", step=step, loss=loss_at(config, step))
        write_atomic(saved, str(max(begin, end)))
        log.append("checkpoint", step=max(begin, end))
        if end < steps:
            return 3
        write(run, "finished", steps, {"step": steps, "loss": loss_at(config, steps)})
    return 0


def write(run: RunFolder, status: str, steps: int, final: dict) -> None:
    record = {"key": run.key, "name": run.name, "status": status, "steps": steps}
    run.write_record({**record, "final": final})


if __name__ == "__main__":
    sys.exit(main())
