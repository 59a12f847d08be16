"""Twelve mixers in one skeleton, at equal parameters and equal tokens, each with its own tuned rate.

    python benchmarks/mixers.py --out out/mixers

runs `windtunnel compare examples/mixers/*.yaml` (attention first) and writes what it says to
`benchmarks/results/mixers.json` and, as a table, to the terminal. Goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FILES = HERE.parent / "examples" / "mixers"
RESULTS = HERE / "results" / "mixers.json"
PARAMETERS, SEEDS, RATES = 450_000, 3, "train.lr=[2e-3,4e-3,8e-3]"
KEPT = ("arms", "match", "budget", "seeds", "metric", "conclusion", "spent", "tuning")


def compared(out: Path, workers: int, runs: Path | None) -> dict[str, Any]:
    """The study, run or gone on with; its verdicts."""
    others = sorted(path for path in FILES.glob("*.yaml") if path.stem != "attention")
    command = [sys.executable, "-m", "windtunnel", "compare", str(FILES / "attention.yaml")]
    command += [str(path) for path in others]
    command += ["--match", "params", "--budget", str(PARAMETERS), "--tune", RATES]
    command += ["--seeds", str(SEEDS), "--workers", str(workers), "--out", str(out), "--json"]
    command += ["--runs", str(runs)] if runs else []
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return dict(json.loads(done.stdout))


def table(found: dict[str, Any]) -> str:
    """The arms from best to worst, as Markdown."""
    rows = ["| mixer | rate | loss | against attention | p (Holm) | verdict | training time |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    for arm in sorted(found["arms"], key=lambda arm: arm["loss"]["mean"]):
        delta, p = arm["delta"], arm["p_holm"]
        against = "–" if delta is None else (
            f"{delta['mean']:+.3f} [{delta['low']:+.3f}, {delta['high']:+.3f}]")  # fmt: skip
        time = arm["mismatch"].get("seconds")
        rows.append(
            f"| {arm['name']} | {found['tuning'][arm['name']]['chosen'][0]:g} | "
            f"{arm['loss']['mean']:.3f} | {against} | {'–' if p is None else f'{p:.3f}'} | "
            f"{arm['verdict']} | {'1' if not time else f'{1 + time:.2f}'} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/mixers"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--runs", type=Path)
    asked = parser.parse_args()
    found = compared(asked.out, asked.workers, asked.runs)
    RESULTS.write_text(json.dumps({key: found[key] for key in KEPT}, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
