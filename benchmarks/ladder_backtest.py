"""A ladder's predictions against what was measured, from real runs.

    python benchmarks/ladder_backtest.py [--out out/ladder-backtest] [--runs out/ladder-runs]
        [--sizes 0.15M,0.3M,0.6M,1.2M] [--budgets 80k,160k,320k] [--seeds 2] [--workers 2]
        [--files FILE …] [--json benchmarks/results/ladder_backtest.json]

Trains the architectures of `examples/ladder` (llama, gru, lstm; Shakespeare, BPE of 512 ids) at
four sizes and three budgets with two seeds: 72 runs, about half an hour of one core. The largest
size is predicted from the smaller ones. Stopped at any point, the same command goes on. The answer
is written as JSON, and as the tables for `docs/results.md` on standard output.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples" / "ladder"
RESULTS = Path(__file__).parent / "results" / "ladder_backtest.json"
KEPT = (
    "title", "arms", "rule", "count", "lr_rule", "lr_rule_is", "sizes", "budgets", "seeds", "cost",
    "confidence", "draws", "at", "cells", "laws", "pairs", "backtest", "notes", "conclusion",
)  # fmt: skip


def main() -> int:
    """Runs the ladder, then writes what it says."""
    asked = arguments()
    files = asked.files or [EXAMPLES / f"{name}.yaml" for name in ("llama", "gru", "lstm")]
    command = [
        sys.executable, "-m", "windtunnel", "ladder", *map(str, files), "--sizes", asked.sizes,
        "--budgets", asked.budgets, "--seeds", str(asked.seeds), "--backtest", "--at", "10x",
        "--out", str(asked.out), "--runs", str(asked.runs), "--workers", str(asked.workers),
    ]  # fmt: skip
    done = subprocess.run(command, check=False)
    if done.returncode not in (0, 1):
        return done.returncode
    tree = json.loads((asked.out / "study.json").read_bytes())
    answer = {name: tree[name] for name in KEPT} | {"made": made()}
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(answer, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print("\n".join(markdown(answer)))
    return done.returncode


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("out/ladder-backtest"))
    parser.add_argument("--runs", type=Path, default=Path("out/ladder-runs"))
    parser.add_argument("--sizes", default="0.15M,0.3M,0.6M,1.2M")
    parser.add_argument("--budgets", default="80k,160k,320k")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--files", type=Path, nargs="*")
    parser.add_argument("--json", type=Path, default=RESULTS)
    return parser.parse_args()


def made() -> dict[str, str]:
    """When and where."""
    from importlib.metadata import version

    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def markdown(answer: Mapping[str, Any]) -> list[str]:
    """The tables for `docs/results.md`: losses, predictions, claims."""
    return [
        *losses(answer),
        "",
        *predictions(answer),
        "",
        *claims(answer),
        "",
        answer["conclusion"],
    ]


def losses(answer: Mapping[str, Any]) -> list[str]:
    lines = table_head(["", *answer["budgets"]])
    for name in dict.fromkeys(cell["name"].rsplit("-", 2)[0] for cell in answer["cells"]):
        row = [c for c in answer["cells"] if c["name"].startswith(f"{name}-")]
        shown = ["–" if cell["mean"] is None else f"{cell['mean']:.3f}" for cell in row]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return lines


def predictions(answer: Mapping[str, Any]) -> list[str]:
    told = answer["backtest"]
    lines = table_head(
        ["largest size", "predicted", "90% interval", "95% interval", "measured", "error"]
    )
    for cell in told["cells"]:
        spans = [
            f"[{low:.3f}, {high:.3f}]{'' if cell['hits'][level] else ' (outside)'}"
            for level, (low, high) in cell["intervals"].items()
        ]
        shown = [f"{cell['predicted']:.3f}", *spans, f"{cell['measured']:.3f}"]
        budget = answer["budgets"][cell["budget"]]
        lines.append(f"| {cell['arm']} {budget} | {' | '.join(shown)} | {cell['error']:+.3f} |")
    hits = [
        f"{hit} of {told['count']} in {float(level):.0%}" for level, hit in told["hits"].items()
    ]
    ranks = told["ranks"]
    lines += [
        "",
        f"Hit rate: {', '.join(hits)}. Mean absolute error {told['mean_absolute_error']:.3f} nats "
        f"a token. Order of arms: {ranks['right']} of {ranks['pairs']} pairs right; of the "
        f"{ranks['decided']} that the measurement itself tells apart, {ranks['decided_right']}.",
    ]
    return lines


def claims(answer: Mapping[str, Any]) -> list[str]:
    lines = table_head(["at 10× the largest compute", "difference", "verdict", "crossing, FLOPs"])
    for pair in answer["pairs"]:
        at, crossing = pair["at"], pair["crossing"]
        shown = "–"
        if at["mean"] is not None:
            shown = f"{at['mean']:+.3f} [{at['low']:+.3f}, {at['high']:+.3f}]"
        spot = crossing["verdict"]
        if spot == "crosses":
            spot = f"{crossing['flops']:.2g} [{crossing['low']:.2g}, {crossing['high']:.2g}]"
        lines.append(
            f"| {pair['other']} against {pair['first']} | {shown} | {at['verdict']} | {spot} |"
        )
    return lines


def table_head(headings: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]


if __name__ == "__main__":
    sys.exit(main())
