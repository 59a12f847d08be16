"""A worker without a model, whose loss depends on the run's learning rate alone, and on its seed.

Arguments: the run's folder, and the best rate. The loss is 4 nats plus a tenth of the squared
distance of the rate from the best one in octaves, plus a little for the seed; a rate eight octaves
off diverges. A third argument names a file with a number: the worker counts it down, and at zero
kills the process that started it.
"""

import math
import os
import signal
import sys
from pathlib import Path

from windtunnel.config import load_document
from windtunnel.runs import RunFolder


def main(path: Path, best: float, murder: Path | None) -> int:
    run = RunFolder.open(path)
    train = load_document(run.config_path).tree["train"]
    octaves = abs(math.log2(train["lr"] / best))
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
        loss = 4 + octaves**2 / 10 + (train["seed"] % 7) / 1000
        status = "diverged" if octaves > 8 else "finished"
        run.write_record(
            {
                "key": run.key, "name": run.name, "status": status, "tokens": 100, "flops": 1e3,
                "train_seconds": 2.0,
                "final": {"loss": loss, "bits_per_byte": loss / 3} if octaves <= 8 else None,
            }
        )  # fmt: skip
    return 0


if __name__ == "__main__":
    murder = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]), murder))
