"""What a hypernetwork's parameters are worth, on small models of five families.

    python benchmarks/hypernetwork.py --work runs/hypernetwork --workers 2

Trains the hypernetwork of examples/ghn/small.yaml, the same for the token table alone, without the
GRU, from other seeds, and with the decoders of GHN-3 and LoGAH; single models with the computing
time of the first. Then evaluates them on architectures and text that none has seen. ``main`` trains
for 1000 steps and ranks 100 architectures, on whose results the performance predictor is fitted;
``half_rival`` has single models that were trained half as long beside it; ``short`` compares
decoders, seeds, and all candidates for the strong initialisation, over 200.

About nine core-hours. What has finished in the folder is kept, so the command may be interrupted
and started again. Writes benchmarks/results/hypernetwork.json and prints the tables of
docs/results.md; ``--table`` prints them from that file alone, ``--only main`` does one evaluation.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from windtunnel.cli.predicting import print_quality
from windtunnel.errors import UsageError
from windtunnel.hyper.evaluation.config import CANDIDATES, EvaluationConfig
from windtunnel.hyper.evaluation.run import evaluate_ghn, load_evaluation
from windtunnel.hyper.launch import create_ghn_folder, load_ghn, ready_ghn, train_ghn
from windtunnel.hyper.predictor_fit import fit_predictor
from windtunnel.hyper.predictor_results import read_results
from windtunnel.hyper.rival import train_rival
from windtunnel.hyper.stored import open_stored
from windtunnel.report.hypernetwork import evaluation_view
from windtunnel.runs import RunFolder

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "hypernetwork.json"
EXAMPLES = ROOT / "examples" / "ghn"
OTHER_DECODERS = ["train.lr=2e-3", 'train.groups=[{match: "encoder.*", lr: 0.3}]']
"""By the same recipe at the best of the rates that were tried for a quarter of its length."""
VARIANTS: dict[str, list[str]] = {
    "full": [],
    "table": ["predicts=table"],
    "left": ["split.left_out=[gru]"],
    "tiled": ["decoder=tiled", *OTHER_DECODERS],
    "low_rank": ["decoder=low_rank", *OTHER_DECODERS],
    "seed1": ["train.seed=1"],
    "seed2": ["train.seed=2"],
}
RIVALS = {"singles": 886.0, "singles_half": 443.0}
"""Seconds of the processor that single models are trained for: what the network took by the earlier
recipe, a little more than by the present one, and half of it."""
SHORT, LONG = (0, 10, 50, 100, 200), (0, 10, 50, 100, 200, 500, 1000)
EVALUATIONS: dict[str, dict[str, Any]] = {
    "main": {
        "ghn": "full", "others": ("singles",), "splits": {"in_distribution": 32},
        "steps": LONG, "ranking": 68, "early": (10, 50), "seeds": (0, 1, 2),
    },
    "short": {
        "ghn": "full",
        "others": ("singles", "singles_half", "table", "tiled", "low_rank", "seed1", "seed2"),
        "splits": {"in_distribution": 32}, "steps": SHORT, "candidates": CANDIDATES,
    },
    "half_rival": {
        "ghn": "full", "others": ("singles_half",), "splits": {"in_distribution": 32},
        "steps": LONG,
    },
    "larger": {
        "ghn": "full", "others": ("singles",), "splits": {"wide": 32, "deep": 32, "large": 32},
        "steps": SHORT,
    },
    "left_out": {"ghn": "left", "others": (), "splits": {"left_out": 32}, "steps": SHORT},
}  # fmt: skip


def trained(name: str, work: Path) -> dict[str, Any]:
    """The record of a variant's run, which is trained, resumed or there already."""
    path = work / name
    config = load_ghn(EXAMPLES / "small.yaml", [*VARIANTS[name], f"name={name}"])
    if not path.exists():
        create_ghn_folder(ready_ghn(config), path)
    folder = RunFolder.open(path)
    there = load_ghn(folder.config_path).replace(space=config.space, name=config.name)
    if there != config:
        raise UsageError(f"{path}: is a run of another config; choose another --work")
    record = folder.read_record()
    if record is None:
        print(f"training {name} in {path}", flush=True)
        record = train_ghn(folder, resume=folder.has_begun())
    return record


def evaluated(name: str, work: Path, workers: int) -> dict[str, Any]:
    """The summary of one evaluation, and its config."""
    given = dict(EVALUATIONS[name])
    config = load_evaluation(EXAMPLES / "evaluation.yaml")
    values = {
        **config.model_dump(),
        **given,
        "name": name,
        "ghn": str(work / given["ghn"]),
        "others": {other: str(work / other) for other in given["others"]},
    }
    made = EvaluationConfig.model_validate(values)
    summary = evaluate_ghn(
        made, work / "evaluations" / name, workers=workers,
        tell=lambda part, done, total: print(f"{name}, {part}: {done} of {total}", flush=True),
    )  # fmt: skip
    found = {"steps": list(made.steps), "date": time.strftime("%Y-%m-%d"), "summary": summary}
    if made.ranking:
        stored = open_stored(Path(made.ghn))
        measured = read_results(work / "evaluations" / name, stored)
        found["predictor"] = fit_predictor(stored, measured).quality
    return found


def costs(work: Path) -> dict[str, Any]:
    """What each training took, as its record tells."""
    found: dict[str, Any] = {}
    for name in VARIANTS:
        path = work / name
        record = RunFolder.open(path).read_record() if path.exists() else None
        if record is not None:
            keys = ("steps", "train_seconds", "cpu_seconds", "tokens", "flops", "params")
            found[name] = {key: record.get(key) for key in keys}
            found[name]["loss"] = record["final"]["loss"]
    for rival in RIVALS:
        if (work / rival / "network.json").exists():
            facts = json.loads((work / rival / "network.json").read_text(encoding="utf-8"))
            found[rival] = facts["training"]
    return found


def show(results: dict[str, Any]) -> None:
    """The tables."""
    console = Console(width=100)
    for name, found in results["evaluations"].items():
        console.print(f"\n{name}\n", style="bold")
        console.print(evaluation_view(found["summary"]))
        if "predictor" in found:
            print_quality(found["predictor"])


def main() -> None:
    """The whole course."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, default=Path("runs/hypernetwork"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", choices=sorted(EVALUATIONS), action="append")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    known: dict[str, Any] = {"evaluations": {}}
    if RESULTS.exists():
        known = json.loads(RESULTS.read_text(encoding="utf-8"))
    if arguments.table:
        show(known)
        return
    torch.set_num_threads(1)
    work = arguments.work.absolute()
    for name in arguments.only or EVALUATIONS:
        given = EVALUATIONS[name]
        for variant in (given["ghn"], *(one for one in given["others"] if one in VARIANTS)):
            trained(variant, work)
        for rival in RIVALS.keys() & set(given["others"]):
            if not (work / rival).exists():
                train_rival(work / "full", work / rival, seconds=RIVALS[rival])
        known["evaluations"][name] = evaluated(name, work, arguments.workers)
        machine = platform.processor() or platform.machine()
        known |= {"costs": costs(work), "machine": machine, "torch": torch.__version__}
        RESULTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    show(known)


if __name__ == "__main__":
    main()
