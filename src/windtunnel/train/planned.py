"""What the recipe's optimizers will do to an architecture, before anything is allocated."""

from __future__ import annotations

import math
from typing import Any

from windtunnel.arch import Architecture, Step, TrainMemory, build, train_memory
from windtunnel.arch.memory import HEAP_BLOCK
from windtunnel.data.config import Kind
from windtunnel.train.accumulate import CHUNK_LOGITS, CHUNK_ROWS
from windtunnel.train.config import TrainConfig
from windtunnel.train.groups import Group, optimizer_values, parameter_groups, update_values
from windtunnel.train.mup import width_scale
from windtunnel.train.objectives.config import chosen
from windtunnel.train.objectives.row_cost import row_cost
from windtunnel.train.optimizers.config import ScheduleFreeConfig
from windtunnel.train.optimizers.together import tagged_names

_CHUNKED = ("next_token", "masked_token", "seq2seq")
"""Objectives whose loss can be computed in chunks."""

Shapes = dict[str, tuple[int, ...]]


def planned_groups(architecture: Architecture, train: TrainConfig) -> tuple[list[Group], Shapes]:
    """The groups of an architecture's parameters, and their shapes; a tied one stands once.

    Raises:
        UsageError: a rule of ``train.groups`` cannot be followed.
    """
    model = build(architecture, device="meta")
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    scale = None if train.mup is None else width_scale(model, train.mup)
    return parameter_groups(train, shapes, tagged_names(model), scale), shapes


def run_memory(
    architecture: Architecture,
    train: TrainConfig,
    *,
    seq_len: int | None = None,
    data: Kind = "text",
    planned: tuple[list[Group], Shapes] | None = None,
) -> TrainMemory:
    """Predicted peak bytes of a run's training, with its optimizers.

    Args:
        architecture: what is trained.
        train: the recipe.
        seq_len: in place of the recipe's.
        data: what the rows are; of pairs each side may be as long as a row.
        planned: what :func:`planned_groups` gave; without it nothing is built where the recipe
            moves all by AdamW, whose two moments need no shapes.

    Raises:
        UsageError: a rule of ``train.groups`` cannot be followed.
    """
    values, working, small = None, 0, 0
    plain = train.optimizer.type == "adamw" and not train.groups and train.ema is None
    if planned is not None or not plain:
        groups, shapes = planned or planned_groups(architecture, train)
        values = optimizer_values(groups, shapes)
        working = update_values(groups, shapes)
        small = update_values(groups, shapes, below=HEAP_BLOCK // 4)
        if train.ema is not None:  # a copy of all that is moved
            moved = [n for g in groups if not g.treatment.frozen for n in g.names]
            values += sum(math.prod(shapes[name]) for name in moved)
    length, rows = seq_len or train.seq_len, train.largest_micro_batch
    source = row_cost(train.objective, architecture, length, data).source_len
    cut = source if data == "text" else 0
    return train_memory(
        architecture,
        seq_len=length - cut,
        batch_size=rows,
        source_len=source or None,
        step=Step(
            precision=train.precision,
            optimizer_values=values,
            update_values=working,
            update_in_heap=small,
            averaged=isinstance(train.optimizer, ScheduleFreeConfig),
            loss_rows=planned_loss_rows(architecture, train),
            checkpointing=train.activation_checkpointing,
            in_pieces=rows < train.largest_batch,
            updates=train.steps,
        ),
    )


def planned_loss_rows(architecture: Architecture, train: TrainConfig) -> int | None:
    """How many tokens' logits a run will have at once, as ``train.loss_chunk`` asks; None: all."""
    known = chosen(train.objective, architecture.type).type in _CHUNKED
    if train.loss_chunk is None or not known or architecture.head.type != "vocabulary":
        return None
    tokens = train.largest_micro_batch * train.seq_len
    if train.loss_chunk == "auto":
        return CHUNK_ROWS if tokens * architecture.vocab_size >= CHUNK_LOGITS else None
    return min(train.loss_chunk, tokens)


def groups_json(groups: list[Group], shapes: Shapes) -> list[dict[str, Any]]:
    """The groups as plain values: what moves how many parameters, how fast, with which decay."""
    rows = []
    for group in groups:
        treatment = group.treatment
        rows.append(
            {
                "optimizer": None if treatment.frozen else treatment.optimizer.type,
                "lr": treatment.lr,
                "weight_decay": treatment.weight_decay,
                "tensors": len(group.names),
                "params": sum(math.prod(shapes[name]) for name in group.names),
                "names": list(group.names),
            }
        )
    return rows
