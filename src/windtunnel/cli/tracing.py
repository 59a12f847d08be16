"""One small batch through a run's model, for ``windtunnel trace``."""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console

from windtunnel.arch import Architecture, build, cost, example_inputs, resolve
from windtunnel.arch.model import scope_of
from windtunnel.errors import UsageError
from windtunnel.report.trace_table import trace_view
from windtunnel.report.units import bytes_text
from windtunnel.study.machine import free_memory_bytes
from windtunnel.trace.collapse import collapsed
from windtunnel.trace.record import Trace
from windtunnel.trace.tracing import trace_named
from windtunnel.train.run_config import LoadedRun, counted_vocab_size

_SHORT = 64


def trace_run(
    loaded: LoadedRun, *, batch: int, seq_len: int | None, depth: int | None = None
) -> Trace:
    """The trace of one forward in eval mode, with shapes in the letters of ``docs/shapes.md``.

    Raises:
        UsageError: the batch fits into no memory that is free.
    """
    config = loaded.config
    architecture = resolve(config.arch, counted_vocab_size(config))
    length = seq_len or min(_SHORT, config.train.seq_len)
    _check_room(architecture, batch, length)
    model = build(architecture, config.train.seed).eval()

    def inputs(b: int, t: int) -> tuple[Any, ...]:
        return example_inputs(architecture, b, t)

    with torch.no_grad():
        traced = trace_named(
            model, inputs, batch=batch, time_steps=length, dims=letters(architecture), depth=depth
        )
    return collapsed(traced)


def _check_room(architecture: Architecture, batch: int, length: int) -> None:
    """Raises UsageError where weights, the residual stream and the head's outputs, which a forward
    holds at once, are more than is free."""
    free = free_memory_bytes()
    tokens, head = batch * length, architecture.head
    rows = batch if head.type == "classification" else tokens
    outputs = rows * head.outputs(scope_of(architecture))
    params = cost(architecture).total.params
    needed = 4 * int(params + tokens * architecture.d_model + outputs)
    if free is not None and needed > free:
        raise UsageError(
            f"trace runs a batch of {batch:,} × {length:,} tokens, which takes "
            f"{bytes_text(needed)} at least, and {bytes_text(free)} are free; give a smaller "
            "--seq-len or --batch (`check --seq-len` counts costs without running anything)"
        )


def letters(architecture: Architecture) -> dict[str, int]:
    """The size of each letter, as far as the layers agree on it."""
    found: dict[str, set[int]] = {}
    for layer in architecture.layers:
        for config in (layer.mixer, layer.mlp):
            for field, letter in (("num_heads", "h"), ("num_kv_heads", "g"), ("head_dim", "k"),
                                  ("d_ff", "f"), ("d_hidden", "n")):  # fmt: skip
                value = getattr(config, field, None)
                if value is not None:
                    found.setdefault(letter, set()).add(value)
    agreed = {letter: sizes.pop() for letter, sizes in found.items() if len(sizes) == 1}
    if architecture.streams is not None:
        agreed.setdefault("n", architecture.streams)
    return {"d": architecture.d_model, "V": architecture.vocab_size, **agreed}


def print_trace(traced: Trace) -> None:
    """The tree as a table, for the terminal."""
    Console().print(trace_view(traced.to_json()))
