"""The plain numbers of a run: how far it stands, and what its record says that it took."""

from __future__ import annotations

from typing import Any

from windtunnel.train.loop import Progress, TrainState
from windtunnel.train.memory import peak_memory
from windtunnel.train.optimizers.together import has_average


def totals(progress: Progress) -> dict[str, Any]:
    """Where a run stands, since its first step: the axes of every curve."""
    return {
        "step": progress.step,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "flops": progress.flops,
    }


def parameter_count(state: TrainState) -> int:
    """Numbers that are trained or held, on all processes together."""
    return sum(parameter.numel() for parameter in state.weights.parameters.values())


def what_it_took(state: TrainState) -> dict[str, Any]:
    """Of the whole run: steps, tokens, FLOPs, seconds by the clock and of the processor, memory."""
    progress = state.progress
    peak, measure = peak_memory(state.device)
    return {
        "params": parameter_count(state),
        "steps": progress.step,
        "skipped_steps": progress.skipped,
        "tokens": progress.tokens,
        "flops": progress.flops,
        "train_seconds": progress.seconds,
        "cpu_seconds": progress.cpu_seconds,
        "tokens_per_second": progress.tokens / progress.seconds,
        "peak_memory_bytes": max(peak, progress.peak_memory_bytes),
        "peak_memory_is": measure,
        "device": str(state.device),
        **_evaluated_weights(state),
    }


def _evaluated_weights(state: TrainState) -> dict[str, Any]:
    """Which weights the record's losses are of, where they are not just the trained ones."""
    if state.config.ema is not None:
        return {"weights": "trained; ema_*: their exponential moving average"}
    free = has_average(state.optimizer)
    return {"weights": "the average of a schedule-free optimizer"} if free else {}
