"""A worker without a model: takes steps in a run's folder, saves, and misbehaves as it is told.

Arguments: the run's folder, steps, and what goes wrong: ``never``, ``kill-once`` and ``kill``
(SIGKILL in mid-run, after saving or without ever saving), ``fail``, ``raise``, ``usage``,
``silent`` (ends without a record), ``deaf`` (ignores SIGTERM), ``diverge``, ``slow``, ``memory``
and ``memory-once`` (says that memory has run out, always or at the first attempt), ``keyed``
(nothing does; its loss and its pace follow from the run's key).
"""

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

from windtunnel.runs import RunFolder, write_atomic

stopped = False


def note(signum: int, frame: object) -> None:
    global stopped
    stopped = True


def main(path: Path, steps: int, trouble: str) -> int:
    run = RunFolder.open(path)
    if trouble in ("fail", "usage"):
        print(f"cannot train {run.name}", file=sys.stderr)
        return 1 if trouble == "fail" else 2
    if trouble == "raise":
        raise RuntimeError("its own fault")
    if trouble.startswith("memory"):
        before = path / "attempted"
        if trouble == "memory" or not before.exists():
            before.touch()
            print(f"{path}: out of memory; set train.micro_batch_size below 8", file=sys.stderr)
            return 1
    if trouble == "silent":
        return 0
    signal.signal(signal.SIGTERM, signal.SIG_IGN if trouble == "deaf" else note)
    saved = run.checkpoints / "step"
    with run.lock() as lock, run.open_events(lock) as log:
        begin = int(saved.read_text()) if saved.exists() else 0
        log.append(
            "resume" if begin else "start", step=begin, threads=os.environ["OMP_NUM_THREADS"]
        )
        keyed = int(hashlib.sha256(run.key.encode()).hexdigest()[:4], 16) / 65536
        pause = (
            0.05 if trouble in ("slow", "deaf") else 0.02 * keyed if trouble == "keyed" else 0.001
        )
        for step in range(begin + 1, steps + 1):
            time.sleep(pause)
            log.append("step", step=step, loss=5 - step / steps)
            if trouble != "kill":
                write_atomic(saved, str(step), guard=log.check)
            if step == steps // 2 and trouble in ("kill", "kill-once") and not begin:
                os.kill(os.getpid(), signal.SIGKILL)
            if stopped:
                return 75
        status = "diverged" if trouble == "diverge" else "finished"
        record = {"key": run.key, "name": run.name, "status": status, "steps": steps}
        loss = 4.0 if trouble != "keyed" else 3 + keyed
        if trouble == "keyed":  # what differs from one time to the next in a real one, too
            seconds = time.process_time()
            log.append("eval", step=steps, loss=loss, tokens=steps, seconds=seconds, flops=steps)
            record |= {"train_seconds": seconds, "tokens_per_second": steps / seconds}
            record |= {"peak_memory_bytes": os.getpid()}
        run.write_record({**record, "final": {"loss": loss}}, guard=log.check)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
