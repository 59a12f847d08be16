"""Causal FAVOR+ against softmax attention in time and memory, forward and backward, in one run.

    python benchmarks/linear_attention.py [--lengths 512 2048 8192] [--threads 2] [--json FILE]

Both read the same queries, keys and values (1 × 4 heads × n × 64, float32), FAVOR+ with 266
features whose projections are part of what is timed; softmax attention is torch's fused
``scaled_dot_product_attention``. Rounds alternate between the two, so that what else the machine
does falls on both; medians are compared. Memory is the growth of the process's peak over one round
after a first one, in a process of its own for each (so it needs Linux).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from windtunnel.nn.component import Scope
from windtunnel.nn.initialize import initialize
from windtunnel.nn.mixers.favor import Favor
from windtunnel.nn.ops.positive import attend_positively

HEADS, WIDTH, FEATURES = 4, 64, 266
WAYS = ("softmax", "favor")


def round_of(way: str, n: int) -> Callable[[], None]:
    """One forward and backward, by the name of the way."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, HEADS, n, WIDTH, generator=generator).requires_grad_() for _ in range(3)
    )
    scope = Scope(d_model=HEADS * WIDTH)
    favor = Favor(Favor.Config(num_heads=HEADS, nb_features=FEATURES).resolve(scope), scope)
    initialize(favor, 0)

    def read() -> Tensor:
        if way == "softmax":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        log_q, log_k = favor.log_features(q, of_keys=False), favor.log_features(k, of_keys=True)
        return attend_positively(log_q, log_k, v, favor.empty(1))[0]

    def once() -> None:
        for x in (q, k, v):
            x.grad = None
        read().sum().backward()  # type: ignore[no-untyped-call]

    return once


def peak_bytes(way: str, n: int) -> int:
    """The growth of a fresh process's peak memory over one round, in bytes."""
    command = [sys.executable, __file__, "--peak", way, "--lengths", str(n)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(way: str, n: int) -> None:
    """For :func:`peak_bytes`, in the fresh process."""
    round_of(way, 64)()  # so that the library's own buffers are not counted
    once = round_of(way, n)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    once()
    print(resident("VmHWM") - before)


def resident(kind: str) -> int:
    """Bytes of this process's resident memory, now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


def measure(n: int, rounds: int) -> dict[str, float]:
    """Medians of alternating rounds, in milliseconds, and the ratio of both."""
    calls = {way: round_of(way, n) for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for index in range(rounds + 1):
        for way, once in calls.items():
            started = time.perf_counter()
            once()
            if index:  # the first warms up
                seconds[way].append(time.perf_counter() - started)
    row = {f"{way}_ms": 1000 * statistics.median(values) for way, values in seconds.items()}
    row |= {f"{way}_mb": peak_bytes(way, n) / 2**20 for way in WAYS}
    return {"n": n, **row, "speedup": row["softmax_ms"] / row["favor_ms"]}


def processor() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--peak", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print_peak(options.peak, options.lengths[0])
        return
    print(f"{processor()}, {options.threads} threads, torch {torch.__version__}")
    print("     n  softmax ms  favor ms  speedup  softmax MB  favor MB")
    rows = []
    for n in options.lengths:
        row = measure(n, options.rounds)
        rows.append(row)
        print(
            f"{n:6d}  {row['softmax_ms']:10.1f}  {row['favor_ms']:8.1f}  {row['speedup']:6.2f}×"
            f"  {row['softmax_mb']:10.0f}  {row['favor_mb']:8.0f}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
