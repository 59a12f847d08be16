"""nanoGPT's CPU recipe for tiny Shakespeare, by nanoGPT and by us, one after the other.

    python benchmarks/nanogpt.py --nanogpt FOLDER --text input.txt [--rounds 3] [--json FILE]

FOLDER is a checkout of github.com/karpathy/nanoGPT; `input.txt` is the text that its
``data/shakespeare_char/prepare.py`` asks for. Both train 4 layers of width 128 on batches of 12 ×
64 characters for 2000 steps (the CPU command of its README), in a process each, with as many
threads; rounds alternate, so that what else the machine does falls on both. Compared is the time of
the whole process, from its start to its last evaluation and checkpoint. nanoGPT's data are prepared
before; ours are not in the cache when the first round begins, and that is in its time.

Losses are the last that each prints: nanoGPT's is an estimate on 20 random batches, ours is on the
same part of the text (its last tenth) at as many targets, spread evenly.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUN = Path(__file__).with_name("nanogpt.yaml")
PEER = [
    "train.py", "config/train_shakespeare_char.py", "--device=cpu", "--compile=False",
    "--eval_iters=20", "--log_interval=1", "--block_size=64", "--batch_size=12", "--n_layer=4",
    "--n_head=4", "--n_embd=128", "--max_iters=2000", "--lr_decay_iters=2000", "--dropout=0.0",
]  # fmt: skip
WAYS = ("nanogpt", "float32", "bfloat16")


def nanogpt(folder: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds, and the last validation loss."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *PEER], cwd=folder, env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    return seconds, float(re.findall(r"val loss ([\d.]+)", done.stdout)[-1])


def ours(precision: str, place: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds, and the last validation loss."""
    out = place / f"run-{precision}-{time.time_ns()}"
    command = [sys.executable, "-m", "windtunnel", "train", str(RUN), "--out", str(out)]
    command += ["--set", f"train.precision={precision}"]
    started = time.perf_counter()
    subprocess.run(command, cwd=place, env=environment, capture_output=True, check=True)
    seconds = time.perf_counter() - started
    record = json.loads((out / "record.json").read_text(encoding="utf-8"))
    return seconds, record["final"]["loss"]


def main() -> None:
    """Prints a table of medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nanogpt", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = options.nanogpt / "data" / "shakespeare_char"
    if not (data / "train.bin").exists():
        shutil.copy(options.text, data / "input.txt")
        subprocess.run([sys.executable, str(data / "prepare.py")], check=True, capture_output=True)
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        shutil.copy(options.text, place / "input.txt")
        environment = {
            **os.environ, "OMP_NUM_THREADS": str(options.threads),
            "WINDTUNNEL_CACHE": str(place / "cache"),
        }  # fmt: skip
        for _ in range(options.rounds):
            found["nanogpt"].append(nanogpt(options.nanogpt.resolve(), environment))
            for precision in WAYS[1:]:
                found[precision].append(ours(precision, place, environment))
    tell(found, options.json)


def tell(found: dict[str, list[tuple[float, float]]], file: Path | None) -> None:
    """The table, and the JSON where it is asked for."""
    seconds = {way: statistics.median(s for s, _ in rounds) for way, rounds in found.items()}
    result: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "ways": {}}
    print(f"{'way':<10} {'seconds':>8} {'ratio':>6} {'val loss':>9}")
    for way in WAYS:
        losses = [loss for _, loss in found[way]]
        ratio = seconds["nanogpt"] / seconds[way]
        print(f"{way:<10} {seconds[way]:>8.1f} {ratio:>6.2f} {statistics.median(losses):>9.4f}")
        result["ways"][way] = {"rounds": found[way], "ratio": ratio}
    if file is not None:
        file.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
