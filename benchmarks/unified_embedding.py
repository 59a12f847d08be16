"""Does a shallow model with a unified embedding beat one of twice the depth? LMPlay's claim, small.

    python benchmarks/unified_embedding.py [--out out/unified] [--seeds 3] [--steps 400]

Three arms: a GPT-2 block of 12 layers, of 6 layers, and of 6 layers with a unified embedding (a
table 8 times as wide, which folds into a plain one). They are compared twice.

* As the claim was made: N(0, 1) untied embeddings, Adagrad at a fixed 6e-4, nothing tuned.
* Fairly: embeddings of deviation 0.02, AdamW with a cosine, and for each arm the learning rate and
  a factor for the embedding's rate tuned on one seed that is not among those of the comparison.
  A grid grows where its edge is best; what each arm's tuning cost is told.

Each stage reuses what has finished, so the command may be interrupted and started again. Verdicts
are those of ``windtunnel compare``: paired by seed, corrected for several arms.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ARMS = {"layers-12": (12, None), "layers-6": (6, None), "unified-6": (6, 8)}
RATES = (1e-3, 2e-3, 4e-3)
FACTORS = (1.0, 3.0)
TUNING_SEED = 1000
_MOST_RATES, _MOST_FACTORS = 6, 5


def config(arm: str, steps: int, *, fair: bool, rate: float = 6e-4, factor: float = 1.0) -> str:
    """The run file of an arm; JSON is YAML."""
    layers, unified = ARMS[arm]
    embedding: dict[str, Any] = {"tie": False, "init_std": 0.02 if fair else 1.0}
    if unified:
        embedding["unified"] = {"factor": unified}
    train: dict[str, Any] = {
        "steps": steps, "batch_size": 8, "seq_len": 128, "lr": rate, "eval_every": steps,
        "eval_tokens": 60_000, "checkpoint_every": 200, "keep_checkpoints": 1, "threads": 1,
    }  # fmt: skip
    if fair:
        if factor != 1.0:
            train["groups"] = [{"match": "embedding.*", "lr": factor}]
    else:
        train |= {
            "optimizer": "adagrad", "weight_decay": 0.0, "clip": None,
            "schedule": {"type": "flat", "warmup": 0},
        }  # fmt: skip
    arch = {
        "preset": "gpt2", "name": arm, "d_model": 64, "max_seq_len": 128, "embedding": embedding,
        "set": {"layers[0].repeat": layers, "layers[0].mixer.num_heads": 4},
    }  # fmt: skip
    data = {"source": "shakespeare", "tokenizer": {"type": "bpe", "vocab_size": 4096}}
    return json.dumps({"arch": arch, "data": data, "train": train}, indent=1)


def windtunnel(*arguments: object) -> None:
    """Runs the command; what it prints is shown."""
    subprocess.run([sys.executable, "-m", "windtunnel", *map(str, arguments)], check=True)


class Tuning:
    """One arm's search: rates first, then the embedding's factor at the best rate."""

    def __init__(self, arm: str, steps: int, out: Path) -> None:
        self.arm, self.steps, self.out = arm, steps, out
        self.losses: dict[tuple[float, float], float] = {}

    def loss(self, rate: float, factor: float) -> float:
        """The validation loss of one run, made unless it is there."""
        folder = self.out / f"{self.arm}-{rate:g}-{factor:g}"
        file = self.out / f"{self.arm}-{rate:g}-{factor:g}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(config(self.arm, self.steps, fair=True, rate=rate, factor=factor))
        if not (folder / "record.json").is_file():
            windtunnel(
                "train", file, "--out", folder, "--resume", "--set", f"train.seed={TUNING_SEED}"
            )
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        found = record["final"]["loss"] if record["status"] == "finished" else float("inf")
        self.losses[rate, factor] = found
        return float(found)

    def best(self) -> tuple[float, float]:
        """The rate and the factor; either grid grows while its edge is the best."""
        rates = {rate: self.loss(rate, 1.0) for rate in RATES}
        while len(rates) < _MOST_RATES:
            best = min(rates, key=lambda rate: rates[rate])
            if best == max(rates):
                rates[2 * best] = self.loss(2 * best, 1.0)
            elif best == min(rates):
                rates[best / 2] = self.loss(best / 2, 1.0)
            else:
                break
        best = min(rates, key=lambda rate: rates[rate])
        factors = {factor: self.loss(best, factor) for factor in FACTORS}
        while (top := min(factors, key=lambda factor: factors[factor])) == max(factors):
            if len(factors) == _MOST_FACTORS:
                break
            factors[3 * top] = self.loss(best, 3 * top)
        return best, top


def main() -> None:
    """Tunes, compares twice, prints both tables and writes ``result.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/unified"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    tuned: dict[str, Any] = {}
    for arm in ARMS:
        tuning = Tuning(arm, options.steps, options.out / "tuning")
        rate, factor = tuning.best()
        tuned[arm] = {
            "lr": rate,
            "embedding_factor": factor,
            "runs": len(tuning.losses),
            "losses": [[*key, loss] for key, loss in tuning.losses.items()],
        }
    results: dict[str, Any] = {"tuned": tuned}
    for name in ("claimed", "fair"):
        files = []
        for arm in ARMS:
            file = options.out / name / f"{arm}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            chosen = {"rate": tuned[arm]["lr"], "factor": tuned[arm]["embedding_factor"]}
            more = chosen if name == "fair" else {}
            file.write_text(config(arm, options.steps, fair=name == "fair", **more))
            files.append(file)
        folder = options.out / name / "study"
        windtunnel(
            "compare", *files, "--seeds", options.seeds, "--match", "tokens", "--out", folder,
            "--workers", options.workers,
        )  # fmt: skip
        results[name] = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    (options.out / "result.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(json.dumps(tuned, indent=1))


if __name__ == "__main__":
    main()
