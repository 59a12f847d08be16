"""How each stage of a plan went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.train.config import TrainConfig
from windtunnel.train.loop import Progress


def stage_rows(
    train: TrainConfig, progress: Progress, evaluations: Mapping[int, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Of each stage that has begun: its steps, targets, the mean loss of its updates (each target
    with the same weight), and the validation loss at its end; losses in nats a token."""
    first, rows = 0, []
    begun = zip(train.stages, train.borders, progress.stages, strict=False)
    for stage, end, (tokens, nats) in begun:
        rows.append(
            {
                "name": stage.name,
                "first_step": first,
                "steps": min(end, progress.step) - first,
                "tokens": int(tokens),
                "train_loss": nats / tokens if tokens else None,
                "valid_loss": evaluations.get(end, {}).get("loss"),
            }
        )
        first = end
    return rows
