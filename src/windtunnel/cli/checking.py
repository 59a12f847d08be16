"""What ``windtunnel check`` says of a run file: costs, memory, schedule, warnings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rich.console import Console

from windtunnel.arch import Architecture, PartCost, resolve, without_effect
from windtunnel.cli.corpora import prepare_with_progress
from windtunnel.data.dataset import misnamed
from windtunnel.nn.cost import Cost
from windtunnel.report.cost_table import cost_json, cost_view
from windtunnel.train.config import TrainConfig
from windtunnel.train.feed import settled
from windtunnel.train.groups import without_effect as idle_settings
from windtunnel.train.objectives.row_cost import row_cost
from windtunnel.train.planned import groups_json, planned_groups, run_memory
from windtunnel.train.run_config import (
    UNKNOWN_VOCABULARY,
    LoadedRun,
    counted_vocab_size,
    vocab_size_of,
)
from windtunnel.train.schedule import preview


def with_known_stages(loaded: LoadedRun) -> LoadedRun:
    """The run with the length of each stage known; where a plan is written in epochs, its data are
    read (once) for that."""
    if loaded.config.train.settled:
        return loaded
    dataset = prepare_with_progress(loaded.config.data)
    return replace(loaded, config=settled(loaded.config, dataset))


def check_run(loaded: LoadedRun, seq_len: int | None = None) -> dict[str, Any]:
    """The cost of a run by part, as plain JSON; nothing is allocated."""
    config = loaded.config
    train = config.train
    vocabulary = vocab_size_of(config)
    architecture = resolve(config.arch, counted_vocab_size(config))
    length = seq_len or train.seq_len
    width = 2 if train.precision == "bfloat16" else 4
    row = row_cost(train.objective, architecture, length, config.data.kind)
    counted = row.counted
    planned = planned_groups(architecture, train)
    memory = run_memory(architecture, train, seq_len=length, data=config.data.kind, planned=planned)
    parts = [
        _row(name, part.cost, width, _kind(architecture, part.name))
        for part in counted.parts
        for name in _names(part)
    ]
    warnings = [f"arch.{path}: {why}" for path, why in without_effect(config.arch)]
    warnings += [f"train.{path}: {why}" for path, why in idle_settings(train)]
    warnings += misnamed(config.data)
    if config.arch.vocab_size == "auto" and vocabulary is None:
        warnings.append(
            f"the vocabulary is known once the text is read; counted with {UNKNOWN_VOCABULARY}"
        )
    tree = {
        "name": architecture.name,
        "seq_len": length,
        "source_len": row.source_len,
        "vocab_size": architecture.vocab_size,
        "num_layers": len(architecture.layers),
        "digest": architecture.digest(),
        "train_tokens": train.tokens,
        "train_flops": int(row.train_flops_per_token * train.tokens),
        "parts": parts,
        "memory": memory.terms(),
        "groups": groups_json(*planned),
        **({"stages": _stages(train)} if train.stages else {}),
        "warnings": warnings,
    }
    return cost_json(tree)


def _stages(train: TrainConfig) -> list[dict[str, Any]]:
    """The plan: each stage with its steps, rows and tokens, and the shares of its sources."""
    found = []
    for stage in train.stages:
        rows, weights = stage.known_rows(train.batch_size) or 0, stage.data or {}
        found.append(
            {
                "name": stage.name,
                "steps": stage.known_steps(train.batch_size),
                "batch_size": stage.batch_size or train.batch_size,
                "rows": rows,
                "tokens": rows * train.seq_len,
                "shares": {name: w / sum(weights.values()) for name, w in weights.items()},
            }
        )
    return found


def _stage_line(stage: dict[str, Any]) -> str:
    shares = ", ".join(f"{name} {share:.0%}" for name, share in stage["shares"].items())
    return (
        f"stage {stage['name']}: {stage['steps']:,} steps of {stage['batch_size']}, "
        f"{stage['tokens']:,} tokens of {shares or 'all data'}"
    )


def _row(name: str, part: Cost, width: int, kind: str) -> dict[str, Any]:
    return {
        "part": name,
        "kind": kind,
        "params": int(part.params),
        "forward_flops": int(part.forward_flops),
        "training_flops": int(3 * part.forward_flops),
        "decode_flops": int(part.decode_flops),
        "state_bytes": float(part.state_values_per_token) * width,
        "fixed_state_bytes": float(part.state_values) * width,
        "activation_bytes": float(part.activation_values) * width,
    }


def _names(part: PartCost) -> list[str]:
    """One name for each of the equal layers that a part stands for."""
    if part.times == 1:
        return [part.name]
    stem, _, first = part.name.rpartition(".")
    return [f"{stem}.{int(first) + index}" for index in range(part.times)]


def _kind(architecture: Architecture, name: str) -> str:
    if name == "embedding":
        return "tied" if architecture.embedding.tie else "untied"
    if not name.startswith("layers."):
        return ""
    layer = architecture.layers[int(name.split(".")[1])]
    return layer.mixer.type + ("" if layer.mlp.type == "none" else f" + {layer.mlp.type}")


def _group_line(group: dict[str, Any]) -> str:
    """What moves a group of parameters, and how many they are."""
    how = group["optimizer"] or "frozen"
    if group["optimizer"]:
        how += f", decay {group['weight_decay']:g}"
        how += "" if group["lr"] == 1 else f", lr × {group['lr']:g}"
    tensors = group["tensors"]
    return f"{how}: {group['params']:,} parameters in {tensors} tensor{'s' if tensors > 1 else ''}"


def print_check(result: dict[str, Any], loaded: LoadedRun) -> None:
    """The tables, the schedule and the warnings, for the terminal."""
    console = Console()
    console.print(cost_view(result))
    train = loaded.config.train
    tokens, flops = result["train_tokens"], result["train_flops"]
    size = "" if train.stages else f" × {train.batch_size} × {train.seq_len} tokens"
    samples = loaded.config.data.kind != "text"
    at_most = " at most: samples are as long as they are" if samples else ""
    console.print(
        f"{train.steps:,} steps{size} = {tokens:,} tokens, {flops:.3g} FLOPs" + at_most,
        highlight=False,
    )
    for stage in result.get("stages", []):
        console.print(_stage_line(stage), highlight=False, markup=False)
    for group in result["groups"]:
        console.print(_group_line(group), highlight=False, markup=False)
    console.print(preview(train), highlight=False)
    for warning in result["warnings"]:
        console.print(f"warning: {warning}", highlight=False, markup=False)
