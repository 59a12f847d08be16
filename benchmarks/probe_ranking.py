"""How well do synthetic probes predict which architecture learns text best?

    python benchmarks/probe_ranking.py --losses benchmarks/results/mixers.json

Each architecture of examples/mixers, made small (d_model 64, and then the width at which all have
as many parameters), is trained on seven tasks of the suite: two learning rates on a tuning seed,
then fresh seeds, scored on the task's test. The losses on text are those of a finished comparison:
``study.json``, or a file that holds one. About 40 core-minutes. Then, over architectures:
Spearman's ρ and Kendall's τ of minus the loss with each score, with the mean of the scores, with
the number of parameters, and with the size of the state; intervals by a bootstrap over
architectures, p-values by permutation, alone and for the best of all.

All runs are trained in this process, one after the other; what has finished is reused, so the
command may be interrupted and started again. Writes benchmarks/results/probe_ranking.json and
prints the tables of docs/results.md; ``--table`` prints them from that file alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import time
from pathlib import Path
from typing import Any

import torch

from windtunnel.runs import RunStore
from windtunnel.study.conduct import RunMaker
from windtunnel.study.ground import local_ground
from windtunnel.study.matching import Candidate, match_arm
from windtunnel.study.probe_tasks import losses_of, named_tasks
from windtunnel.study.probes import ProbeRecipe, Probing
from windtunnel.study.rank_agreement import agreement
from windtunnel.study.rounds import Round
from windtunnel.train.launch import run_in_folder
from windtunnel.train.run_config import LoadedRun, load_run, vocab_size_of

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "probe_ranking.json"
FIRST = "attention"
"""All are given as many parameters as this one has."""
TASKS = "compression,induction,memorization,mqar,parity,permutations,selective_copying"
"""Those of the suite that some architecture learns in a few hundred steps; in so few, the others
(noisy and fuzzy recall) stay near chance for all, and cyclic is much like permutations."""
STATE_TOKENS = 128
"""The state is counted after so many tokens."""


def architectures(folder: Path, d_model: int) -> list[LoadedRun]:
    """The run files, each with the width at which it has the parameters of the first."""
    files = sorted(folder.glob("*.yaml"), key=lambda file: (file.stem != FIRST, file.stem))
    loaded = [load_run(file, [f"arch.d_model={d_model}"]) for file in files]
    target: float | None = None
    found = []
    for run in loaded:
        candidate = Candidate(run.config, vocab_size_of(run.config) or 256)
        target = target or candidate.params
        matched = match_arm(candidate, "params", target, None)
        found.append(LoadedRun(matched.config, run.document, run.plugin_digests, run.base))
    return found


def conduct_here(inquiry: Probing, store: RunStore) -> list[Round]:
    """The rounds of an inquiry, trained in this process; what is there already is not repeated."""
    create, past = RunMaker(), list[Round]()
    while (plan := inquiry.next(past, lambda digest: None)) is not None:
        records: dict[str, Any] = {}
        for number, key in enumerate(plan.keys, start=1):
            planned = plan.run(key)
            folder = store.find(key) or create(planned, store)
            record = folder.read_record()
            if record is None:
                began = time.process_time()
                torch.set_num_threads(1)
                record = run_in_folder(folder, resume=True)
                seconds = time.process_time() - began
                final = (record.get("final") or {}).get("test_accuracy")
                print(f"{plan.kind} {number}/{len(plan.keys)} {planned.arm} s{planned.seed}: "
                      f"{final} in {seconds:.1f} s", flush=True)  # fmt: skip
                for checkpoint in folder.checkpoints.glob("*/*.safetensors"):
                    checkpoint.unlink()  # a few GB in all, and nothing goes on from them
            records[key] = record
        past.append(Round(plan, records))
    return past


def predictors(result: dict[str, Any], names: list[str]) -> dict[str, list[float]]:
    """By name, a value for each architecture: more should be better. A score that failed is minus
    infinity, the last of all."""
    found: dict[str, list[float]] = {}
    for task, about in result["tasks"].items():
        cells = [result["cells"][name][task] for name in names]
        found[task] = [_score(cell["score"]) for cell in cells]
        for length in about["lengths"][1:]:
            found[f"{task} at {length}"] = [_score(cell["longer"][str(length)]) for cell in cells]
    chance = {task: about["chance"] for task, about in result["tasks"].items()}
    found["mean of the scores"] = [
        math.fsum(
            max(0.0, (_score(result["cells"][name][task]["score"]) - chance[task]))
            / (1 - chance[task])
            for task in chance
        )
        / len(chance)
        for name in names
    ]
    found["log parameters"] = [math.log(result["params"][name]) for name in names]
    found["log state"] = [math.log(result["state_values"][name]) for name in names]
    return found


def _score(score: dict[str, Any]) -> float:
    return -math.inf if score["mean"] is None else float(score["mean"])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The matrix of scores, and what else is known of each architecture."""
    from windtunnel.arch import cost, resolve

    loaded = architectures(options.arms, options.d_model)
    recipe = ProbeRecipe(
        steps=options.steps, batch_size=options.batch_size, lrs=tuple(options.lrs),
        seeds=tuple(range(options.seeds)), extensions=0,
    )  # fmt: skip
    ground = local_ground(measure=False)
    inquiry = Probing(loaded, named_tasks(options.tasks), recipe, ground=ground, text=False)
    for line in inquiry.outlook():
        print(line, flush=True)
    result = inquiry.result(conduct_here(inquiry, RunStore(options.out / "runs")))
    params, state = {}, {}
    for name, run in zip(inquiry.names, loaded, strict=True):
        architecture = resolve(run.config.arch, vocab_size_of(run.config))
        held = cost(architecture, STATE_TOKENS).total
        params[name] = int(held.params)
        state[name] = int(held.state_values + STATE_TOKENS * held.state_values_per_token)
    return result | {
        "params": params,
        "state_values": state,
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
    }


def compared(result: dict[str, Any], losses: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the scores say of the losses, over the architectures that have both."""
    names = [name for name in result["architectures"] if _mean(losses.get(name)) is not None]
    missing = [name for name in result["architectures"] if name not in names]
    if len(names) < 4:
        raise SystemExit(f"only {len(names)} architectures have a loss: {', '.join(names)}")
    outcome = [-float(losses[name]["mean"]) for name in names]
    return {
        "losses": {name: losses[name] for name in names},
        "without_loss": missing,
        "agreement": agreement(predictors(result, names), outcome),
    }


def _mean(loss: dict[str, Any] | None) -> float | None:
    return None if loss is None else loss["mean"]


def known_losses(path: Path) -> dict[str, dict[str, Any]]:
    """The losses of a comparison: its folder, its ``study.json``, or a file that holds that."""
    tree = json.loads((path / "study.json" if path.is_dir() else path).read_text())
    inner = next((tree[key] for key in ("study", "verdicts") if key in tree), tree)
    return losses_of(inner)


def tables(tree: dict[str, Any]) -> str:
    """The matrix and the rank correlations, in Markdown."""
    names, losses = tree["architectures"], tree.get("losses", {})
    order = sorted(names, key=lambda name: _mean(losses.get(name)) or math.inf)
    tasks = list(tree["tasks"])
    lines = ["| architecture | loss | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 2) + "|"]
    for name in order:
        loss = _mean(losses.get(name))
        cells = [tree["cells"][name][task] for task in tasks]
        lines.append(
            f"| {name} | {'–' if loss is None else f'{loss:.3f}'} | "
            + " | ".join(
                f"diverged {cell['diverged']}" if cell["score"]["mean"] is None
                else f"{cell['score']['mean']:.2f}" for cell in cells
            ) + " |"
        )  # fmt: skip
    chance = " | ".join(f"{tree['tasks'][task]['chance']:.2f}" for task in tasks)
    lines.append(f"| *chance* | | {chance} |")
    if "agreement" in tree:
        lines += ["", "| predictor | Spearman's ρ | Kendall's τ | p | p, best of all |"]
        lines.append("|---|---|---|---|---|")
        for name, found in tree["agreement"].items():
            lines.append(
                f"| {name} | {_with_interval(found, 'spearman')} | "
                f"{_with_interval(found, 'kendall')} | {_p(found['p_value'])} | "
                f"{_p(found['p_family'])} |"
            )
    return "\n".join(lines)


def _with_interval(found: dict[str, Any], name: str) -> str:
    if found[name] is None:
        return "all equal"
    return f"{found[name]:+.2f} [{found[f'{name}_low']:+.2f}, {found[f'{name}_high']:+.2f}]"


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--losses", type=Path, help="a finished comparison of the same arms")
    parser.add_argument("--arms", type=Path, default=ROOT / "examples" / "mixers")
    parser.add_argument("--tasks", default=TASKS, help="as for windtunnel probe")
    parser.add_argument("--d-model", type=int, default=64)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lrs", type=float, nargs="+", default=[3e-3, 1e-2])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/probe_ranking"), help="the runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the tables of --results")
    options = parser.parse_args()
    logging.getLogger("windtunnel").setLevel(logging.ERROR)
    if not options.table:
        tree = measure(options)
        if options.losses is not None:
            tree |= compared(tree, known_losses(options.losses))
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n")
    elif options.losses is not None:
        tree = json.loads(options.results.read_text())
        tree |= compared(tree, known_losses(options.losses))
        options.results.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n")
    print(tables(json.loads(options.results.read_text())))


if __name__ == "__main__":
    main()
