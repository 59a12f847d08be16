"""How noisy is a small model's final loss, and how much do runs of one seed agree?

    python benchmarks/seed_noise.py --out out/seed_noise

Three architectures at 0.5, 1.6 and 5 million parameters (equal within 1%), equal tokens, several seeds:
`llama`, the same with a GELU feed-forward (a small change) and `gru` (another kind of model). Goes on where it was
stopped. Writes `benchmarks/results/seed_noise.json`: for each the standard deviation of the final
validation loss over seeds in nats, with its 95% interval (χ²), and the correlation of same-seed losses with those of
`llama`, with its 95% interval (Fisher's z). About 35 core-minutes.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi2, norm

from windtunnel.config import parse_document
from windtunnel.runs import RunStore
from windtunnel.study.conduct import conduct
from windtunnel.study.folder import StudyFolder
from windtunnel.study.ground import local_ground
from windtunnel.study.planning import plan_compare
from windtunnel.train.run_config import load_run_document

SIZES = {"0.5M": (5e5, 2, 8, 250), "1.6M": (1.6e6, 3, 6, 250), "5M": (5e6, 6, 4, 100)}
"""Parameters, layers, seeds, steps of 1024 tokens."""
RESULTS = Path(__file__).parent / "results" / "seed_noise.json"
ARMS = ("llama", "llama-gelu", "gru")
RECIPE = """
data: {source: shakespeare, tokenizer: {type: bpe, vocab_size: 1024}}
train: {steps: 250, batch_size: 8, seq_len: 128, lr: 3e-3, eval_every: 125, eval_tokens: 60000}
"""


def arm(name: str, layers: int, steps: int) -> Any:
    text = f"arch: {{preset: {'gru' if name == 'gru' else 'llama'}}}\n{RECIPE}"
    edits = [f"arch.name={name}", "arch.max_seq_len=128", f"train.steps={steps}"]
    if name != "gru":
        edits += ["arch.embedding.tie=true", f"arch.layers[*].repeat={layers}"]
    if name == "llama-gelu":
        edits += ["arch.layers[*].mlp={type: dense, activation: gelu}"]
    return load_run_document(parse_document(text, f"{name}.yaml"), edits, base=Path.cwd())


def spread(values: list[float]) -> dict[str, float]:
    n, sd = len(values), float(np.std(values, ddof=1))
    low, high = (sd * math.sqrt((n - 1) / chi2.ppf(q, n - 1)) for q in (0.975, 0.025))
    return {"mean": float(np.mean(values)), "sd": sd, "sd_low": float(low), "sd_high": float(high)}


def agreement(x: list[float], y: list[float]) -> dict[str, float]:
    r, reach = float(np.corrcoef(x, y)[0, 1]), norm.ppf(0.975) / math.sqrt(len(x) - 3)
    return {
        "correlation": r,
        "low": float(np.tanh(np.arctanh(r) - reach)),
        "high": float(np.tanh(np.arctanh(r) + reach)),
        "pairing_gain": float((np.var(x) + np.var(y)) / np.var(np.subtract(y, x))),
    }


def measure(size: str, out: Path, workers: int) -> dict[str, Any]:
    params, layers, seeds, steps = SIZES[size]
    folder = StudyFolder(out / size)
    plan = plan_compare(
        [arm(name, layers, steps) for name in ARMS],
        seeds=seeds,
        match="params",
        budget=params,
        ground=local_ground(),
        recall=folder.recall,
    )
    done = conduct(plan, folder, store=RunStore(out / "runs"), workers=workers, on_notice=print)
    losses = {a.name: a.loss["values"] for a in done.verdicts.arms}
    return {
        "tokens": plan.arms[0].tokens,
        "seeds": seeds,
        "arms": {
            a.name: {"params": a.params, "losses": losses[a.name], **spread(losses[a.name])}
            for a in plan.arms
        },
        "agreement": {
            name: agreement(losses["llama"], losses[name]) for name in losses if name != "llama"
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/seed_noise"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=SIZES)
    asked = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for size in asked.sizes:
        found[size] = measure(size, asked.out, asked.workers)
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")
        print(size, json.dumps(found[size]["arms"]), json.dumps(found[size]["agreement"]))


if __name__ == "__main__":
    main()
