"""What the recipe's optimizers will do to an architecture, before anything is allocated."""

from __future__ import annotations

import math
from typing import Any

from windtunnel.arch import Architecture, TrainMemory, build, train_memory
from windtunnel.train.config import TrainConfig
from windtunnel.train.groups import Group, optimizer_values, parameter_groups
from windtunnel.train.mup import width_scale
from windtunnel.train.optimizers.together import tagged_names

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
    planned: tuple[list[Group], Shapes] | None = None,
) -> TrainMemory:
    """Predicted peak bytes of a run's training, with its optimizers.

    Args:
        architecture: what is trained.
        train: the recipe.
        seq_len: in place of the recipe's.
        planned: what :func:`planned_groups` gave; without it nothing is built where the recipe
            moves all by AdamW, whose two moments need no shapes.

    Raises:
        UsageError: a rule of ``train.groups`` cannot be followed.
    """
    values = None
    plain = train.optimizer.type == "adamw" and not train.groups and train.ema is None
    if planned is not None or not plain:
        groups, shapes = planned or planned_groups(architecture, train)
        values = optimizer_values(groups, shapes)
        if train.ema is not None:  # a copy of all that is moved
            moved = [n for g in groups if not g.treatment.frozen for n in g.names]
            values += sum(math.prod(shapes[name]) for name in moved)
    return train_memory(
        architecture,
        seq_len=seq_len or train.seq_len,
        batch_size=train.largest_micro_batch,
        precision=train.precision,
        optimizer_values=values,
    )


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
