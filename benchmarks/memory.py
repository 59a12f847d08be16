"""How near the predicted peak memory of a training run is to the measured one.

    python benchmarks/memory.py [--out out/memory] [--seed 1] [--count 40]

Draws random runs: decoders, encoders and encoder-decoders of every mixer, feed-forward, norm and
residual, hybrids, unified weights, memory stores, experts; widths, depths, lengths, batches,
vocabularies, optimizers, precisions, loss in chunks, activation checkpointing. The peak of each is
predicted from its file, without building it. Then it is trained for a few steps as `windtunnel
train` does it, in a process of its own on one thread, evaluated and saved, and its largest resident
memory (VmHWM, as the run's record has it) is read. Runs are drawn so large that most of the memory
is the model's: see `crude_bytes`, which knows nothing of the predictor.

What a run of nearly nothing peaks at (Python, torch, code, data) is measured beforehand. *Total* is
the predicted peak over the measured one; *net* is the same without that base on both sides.

Each run's measure is kept in `--out`, so the command may be interrupted and started again.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from windtunnel.arch import resolve
from windtunnel.errors import ConfigError
from windtunnel.study.process import process_bytes
from windtunnel.train.planned import run_memory
from windtunnel.train.run_config import counted_vocab_size, load_run

WITHIN, WANTED = 0.15, 0.95
STEPS = 3
LEAST, MOST = 250 * 2**20, 700 * 2**20
MOST_FLOPS = 2e10
"""Of a step: some seconds on one thread."""
SEQUENTIAL = {"rnn", "lstm", "gru", "rwkv", "mamba", "gla"}

NORMS = ["rmsnorm", "layernorm", "scalenorm", "cosine"]
ACTIVATIONS = ["relu", "relu2", "gelu", "gelu_tanh", "silu", "mish"]
MIXERS = [
    "attention", "attention", "attention", "delta_net", "differential_attention", "favor",
    "gated_delta_net", "gla", "rnn", "gru", "lstm", "latent_attention", "linear_attention",
    "long_conv", "mamba", "mamba2", "memory", "min_gru", "min_lstm", "retnet", "rg_lru", "rwkv",
    "short_conv", "token_mlp",
]  # fmt: skip
TWO_SIDED = ["attention", "attention", "latent_attention", "long_conv", "short_conv", "memory"]
MLPS = ["dense", "glu", "glu", "memory", "moe", "none"]
RESIDUALS = [
    "add", "add", "add", "hyper", "learned", "manifold_hyper", "mixed", "rezero", "scaled", "slerp",
]  # fmt: skip
OPTIMIZERS = [
    "adamw", "adamw", "adamw", "adam", "adagrad", "sgd", "rmsprop", "adafactor", "lion", "muon",
    "schedule_free_adamw",
]  # fmt: skip


def drawn_run(draw: random.Random, name: str) -> dict[str, Any]:
    """A random run as the tree of its file. Whether it fits together is for the caller to see."""
    topology = draw.choice(["decoder"] * 4 + ["encoder", "encoder_decoder"])
    d = draw.choice([128, 192, 256, 320, 384, 512, 640, 768])
    residual: Any = draw.choice(RESIDUALS)
    if residual in ("hyper", "manifold_hyper"):
        residual = {"type": residual, "streams": draw.choice([2, 4])}
    common = {"residual": residual, "dropout": draw.choice([0, 0, 0.1])}
    depth = draw.randint(1, 6)
    arch: dict[str, Any] = {"name": name, "type": topology, "d_model": d, "max_seq_len": 2048}
    arch["vocab_size"] = draw.choice([512, 1024, 2048, 4096, 8192, 16384, 32768])
    arch["embedding"] = {"tie": draw.random() < 0.5, "dropout": draw.choice([0, 0.1])}
    if not arch["embedding"]["tie"] and draw.random() < 0.3:
        arch["embedding"]["unified"] = {"factor": draw.choice([1, 2, 4])}
    if draw.random() < 0.2:
        arch["head"] = {"softcap": 30.0}
    if topology == "encoder_decoder":
        arch["encoder"] = {"layers": _layers(draw, depth, common, TWO_SIDED)}
        arch["decoder"] = {"layers": _layers(draw, depth, common, ["attention"])}
    else:
        mixers = MIXERS if topology == "decoder" else TWO_SIDED
        arch["layers"] = _layers(draw, depth, common, mixers)
    train: dict[str, Any] = {
        "steps": STEPS, "seed": 0, "threads": 1, "eval_every": STEPS, "checkpoint_every": STEPS,
        "batch_size": draw.choice([1, 2, 4, 8, 16, 32, 64]),
        "seq_len": draw.choice([64, 128, 256, 512, 1024, 2048]),
        "optimizer": draw.choice(OPTIMIZERS), "precision": draw.choice(["float32", "bfloat16"]),
        "activation_checkpointing": draw.random() < 0.25,
    }  # fmt: skip
    if draw.random() < 0.25:
        train["loss_chunk"] = draw.choice(["auto", 256, 512])
    if draw.random() < 0.2 and train["batch_size"] > 1:
        train["micro_batch_size"] = train["batch_size"] // 2
    if draw.random() < 0.15 and train["optimizer"] != "schedule_free_adamw":
        train["ema"] = 0.99
    if train["optimizer"] == "schedule_free_adamw":
        train["schedule"] = "flat"
    train["eval_tokens"] = train["batch_size"] * train["seq_len"]
    return {"arch": arch, "data": {"source": "shakespeare", "tokenizer": "bytes"}, "train": train}


def _layers(
    draw: random.Random, depth: int, common: dict[str, Any], mixers: list[str]
) -> list[dict[str, Any]]:
    """A stack of one to three kinds of layers in turn."""
    kinds = [_layer(draw, common, mixers) for _ in range(draw.choice([1, 1, 2, 3]))]
    repeat = max(1, round(depth / len(kinds)))
    return (
        [{"repeat": repeat, "layers": kinds}] if len(kinds) > 1 else [{**kinds[0], "repeat": depth}]
    )


def _layer(draw: random.Random, common: dict[str, Any], mixers: list[str]) -> dict[str, Any]:
    mixer: dict[str, Any] = {"type": draw.choice(mixers)}
    if mixer["type"] == "attention":
        mixer |= _attention(draw)
    if mixer["type"] == "memory":
        mixer |= {"num_slots": draw.choice([64, 256]), "store": "facts"}
    mlp: dict[str, Any] = {"type": draw.choice(MLPS)}
    if mlp["type"] in ("dense", "glu"):
        mlp |= {"activation": draw.choice(ACTIVATIONS), "dropout": draw.choice([0, 0, 0.1])}
    if mlp["type"] == "memory":
        mlp |= {"num_slots": draw.choice([64, 256]), "store": "facts"}
    if mlp["type"] == "moe":
        experts = draw.choice([2, 4, 8])
        mlp |= {"num_experts": experts, "top_k": draw.choice([1, 2]), "expert": "dense"}
        mlp["expert"] = {"type": draw.choice(["dense", "glu"]), "ratio": 2}
    layer = {
        "norm": draw.choice(NORMS),
        "placement": draw.choice(["pre", "pre", "sandwich", "out", "post"]),
        "mixer": mixer,
        "mlp": mlp,
        **common,
    }
    if draw.random() < 0.2:
        layer["linear"] = {"type": "unified", "kind": draw.choice(["direct", "predicted"])}
    elif draw.random() < 0.1:
        layer["depth"] = {"capacity": 0.5}
    return layer


def _attention(draw: random.Random) -> dict[str, Any]:
    values: dict[str, Any] = {
        "position": draw.choice(["rope", "rope", "alibi", "relative", "none"])
    }
    values["qk_norm"] = draw.choice(["none", "none", "rmsnorm"])
    if draw.random() < 0.25:
        values["window"] = draw.choice([32, 128])
    if draw.random() < 0.15:
        values["softcap"] = 50.0
    if draw.random() < 0.15:
        values["dropout"] = 0.1
    return values


def crude_bytes(run: dict[str, Any]) -> tuple[float, float]:
    """Bytes and FLOPs of a step by rules of thumb, to draw runs of a fitting size. They know
    nothing of what is predicted, so a set stays what it is when the predictor changes."""
    arch, train = run["arch"], run["train"]
    d, v = arch["d_model"], arch["vocab_size"]
    stacks = [
        arch.get("layers", ()),
        *(arch.get(x, {}).get("layers", ()) for x in ("encoder", "decoder")),
    ]
    layers = [x for stack in stacks for g in stack for x in g.get("layers", [g]) * g["repeat"]]
    wide = sum(1 + x["mlp"].get("num_experts", 1) * 0.5 for x in layers)
    params = 8 * wide * d * d + v * d
    tokens = train.get("micro_batch_size", train["batch_size"]) * train["seq_len"]
    kept = 1 if train["activation_checkpointing"] else len(layers)
    logits = 0 if "loss_chunk" in train else 3 * v
    flops = 6 * (12 * len(layers) * d * d + v * d) * train["batch_size"] * train["seq_len"]
    return 16.0 * params + 4.0 * tokens * (30 * d * kept + logits), flops


def drawn_files(folder: Path, seed: int, count: int) -> list[Path]:
    """The run files of a seed, written where they are not yet."""
    draw, files = random.Random(seed), []
    folder.mkdir(parents=True, exist_ok=True)
    while len(files) < count:
        run = drawn_run(draw, f"random-{seed}-{len(files):02d}")
        size, flops = crude_bytes(run)
        text = json.dumps(run)
        slow = any(f'"{name}"' in text for name in SEQUENTIAL) and run["train"]["seq_len"] > 256
        if not LEAST <= size <= MOST or flops > MOST_FLOPS or slow:
            continue
        path = folder / f"{len(files):02d}.yaml"
        path.write_text(json.dumps(run, indent=1), encoding="utf-8")
        try:
            loaded = load_run(path)
            resolve(loaded.config.arch, counted_vocab_size(loaded.config))
        except ConfigError:
            continue  # parts that do not go together: another is drawn
        files.append(path)
    return files


def predicted(path: Path) -> dict[str, Any]:
    """The predicted bytes of a run without its process's base; nothing is built."""
    config = load_run(path).config
    architecture = resolve(config.arch, counted_vocab_size(config))
    memory = run_memory(architecture, config.train)
    return {
        "predicted_net": int(memory.total),
        "moment": memory.peak.name,
        "terms": memory.terms(),
        "precision": config.train.precision,
    }


def measured(path: Path) -> int:
    """The largest resident bytes of a process that trains the run."""
    command = [sys.executable, __file__, "--train", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{path}: {done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])


def train(path: Path) -> None:
    """The run in this process, as `windtunnel train` does it; prints its peak. No texts are written
    at the end: those of a vocabulary wider than the tokenizer's could not be decoded."""
    from windtunnel.train.launch import create_run_folder, ready_run, run_parts
    from windtunnel.train.runner import train_run

    folder = path.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    ready = ready_run(load_run(path))
    made = create_run_folder(ready, folder)
    record = train_run(replace(run_parts(ready), samples=None), made)
    shutil.rmtree(folder)
    print(record["peak_memory_bytes"])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The shares of runs whose prediction is near enough, of the total and without the base."""
    found: dict[str, Any] = {"runs": len(rows)}
    for name in ("total", "net"):
        errors = sorted(abs(row[name] - 1) for row in rows)
        found[f"{name}_within"] = sum(error <= WITHIN for error in errors) / len(errors)
        found[f"{name}_median_error"] = errors[len(errors) // 2]
        found[f"{name}_largest_error"] = errors[-1]
    return found


def main() -> None:
    """Draws, predicts, measures; prints a line for each run, then the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/memory"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--train", type=Path, help="for the child: train this file, print its peak")
    options = parser.parse_args()
    if options.train is not None:
        train(options.train)
        return
    folder = options.out / f"seed-{options.seed}"
    rows = []
    for path in drawn_files(folder, options.seed, options.count):
        row = predicted(path)  # before anything is measured
        kept = path.with_suffix(".measured.json")
        if not kept.exists():
            kept.write_text(json.dumps(measured(path)), encoding="utf-8")
        base, peak = process_bytes(row["precision"]), json.loads(kept.read_text())
        row = {"name": path.stem, "measured": peak, "base": base, **row}
        row["total"] = (row["predicted_net"] + base) / peak
        row["net"] = row["predicted_net"] / max(1, peak - base)
        rows.append(row)
        mib = {key: f"{row[key] / 2**20:.0f}" for key in ("measured", "base", "predicted_net")}
        print(
            f"{row['name']}: measured {mib['measured']} MiB, predicted {mib['base']} + "
            f"{mib['predicted_net']}: total {row['total']:.2f}, net {row['net']:.2f}",
            flush=True,
        )
    found = {
        "seed": options.seed, **summary(rows), "wanted": WANTED,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}, torch {version('torch')}",
        "rows": rows,
    }  # fmt: skip
    result = options.out / f"result-{options.seed}.json"
    result.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(json.dumps({key: value for key, value in found.items() if key != "rows"}, indent=1))


if __name__ == "__main__":
    main()
