"""A worker without a model, whose loss is a number for the arm plus noise for arm and seed.

Arguments: the run's folder; JSON with the arms' numbers, ``null`` for one that fails and a text for
one that diverges; and maybe a file with a count: the worker counts it down, and at zero kills the
process that started it. Every run that is trained is written to ``trained.txt`` beside the store.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path

from windtunnel.runs import RunFolder

NOISE = 0.01


def loss_of(arm: str, seed: int, shift: float) -> float:
    return 3 + shift + NOISE * random.Random(f"{arm} {seed}").gauss(0, 1)


def main(path: Path, shifts: dict[str, float | str | None], murder: Path | None) -> int:
    run = RunFolder.open(path)
    arm, _, seed = run.name.rpartition("-")
    shift = shifts[arm]
    if shift is None:
        print("cannot train", file=sys.stderr)
        return 2
    with run.lock(), run.open_events() as log:
        log.append("start", step=0)
        if murder is not None and murder.exists():
            left = int(murder.read_text()) - 1
            if left <= 0:
                murder.unlink()
                os.kill(os.getppid(), signal.SIGKILL)
            else:
                murder.write_text(str(left))
        with (path.parent.parent / "trained.txt").open("a") as file:
            file.write(f"{run.key}\n")
        diverged = isinstance(shift, str)
        loss = None if isinstance(shift, str) else loss_of(arm, int(seed), shift)
        final = None if loss is None else {"loss": loss, "bits_per_byte": loss / 3}
        run.write_record(
            {"key": run.key, "name": run.name, "status": "diverged" if diverged else "finished",
             "tokens": 100, "flops": 1e3, "train_seconds": 2.0, "final": final}
        )  # fmt: skip
    return 0


if __name__ == "__main__":
    murder = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2]), murder))
