"""Small runs for the tests on a GPU: text that can be learnt, models, and how they are trained."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from standins import Lengths, recipe

from windtunnel.arch import Architecture, ArchSpec, build, resolve
from windtunnel.arch.presets import preset_document
from windtunnel.config import Document, decode
from windtunnel.data.loader import Batches, evaluation_batches
from windtunnel.train.loop import StepInfo, TrainState, create_train_state, train_steps
from windtunnel.train.runner import RunParts

V = 64


@cache
def corpus(count: int = 60_000) -> np.ndarray:
    """Tokens in which each follows from the one before it, nine times of ten."""
    draw = np.random.default_rng(0)
    noise = np.where(draw.random(count) < 0.1, draw.integers(V, size=count), 0)
    tokens = np.zeros(count, dtype=np.uint16)
    for place in range(1, count):
        tokens[place] = (3 * tokens[place - 1] + 1 + noise[place]) % V
    return tokens


def architecture(preset: str = "llama", **changes: Any) -> Architecture:
    """A preset with all of its layers of one kind, ``layers`` of them."""
    document = preset_document(preset)
    layers = changes.pop("layers", 2)
    for path, value in ({"d_model": 64, "max_seq_len": 64, "vocab_size": V} | changes).items():
        document = document.edit(f"{path}={value}")
    tree = document.tree
    written = tree.get("layers", [{}])
    tree["layers"] = [{**written[0], "repeat": layers}]
    return resolve(decode(Document(tree), ArchSpec))


def state_of(model: Architecture, device: str, **changes: Any) -> TrainState:
    """The state before the first step of a run on ``device``."""
    values = {"steps": 6, "batch_size": 16, "seq_len": 64, "lr": 3e-3, "micro_batch_size": None}
    config = recipe(**(values | {"device": device} | changes))
    batches = Batches(
        corpus(), seq_len=config.seq_len, batch_size=config.batch_size, seed=config.seed
    )
    return create_train_state(build(model, seed=config.seed), batches, config)


def losses_of(state: TrainState) -> list[float]:
    return [info.loss for info in train_steps(state)]


def parts_of(model: Architecture, device: str, **changes: Any) -> RunParts:
    """A whole run, as ``train_run`` wants it."""
    values = {"steps": 20, "batch_size": 8, "seq_len": 64, "lr": 3e-3, "eval_every": 10,
              "checkpoint_every": 5}  # fmt: skip
    config = recipe(**(values | {"device": device} | changes))
    return RunParts(
        model=build(model, seed=config.seed),
        batches=Batches(
            corpus(), seq_len=config.seq_len, batch_size=config.batch_size, seed=config.seed
        ),
        valid=list(evaluation_batches(corpus()[:4000], seq_len=64, batch_size=8, max_tokens=2000)),
        tokenizer=Lengths(np.ones(V, dtype=np.int32)),
        train=config,
        identity={"train": config.model_dump(mode="json", exclude={"device"}), "device": device},
    )


class Crash(Exception):
    """As an error of the machine: the run goes on from its checkpoint."""


def crash_after(step: int) -> Callable[[StepInfo], None]:
    def on_step(info: StepInfo) -> None:
        if info.step == step:
            raise Crash

    return on_step


def seconds_of(call: Callable[[], object], device: str, *, least: float = 0.3) -> float:
    """Of one call, by the median of at least three, after one that warms up."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    call()
    times: list[float] = []
    while len(times) < 3 or sum(times) < least:
        wait()
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


@contextmanager
def limited(device: str, limit: int) -> Iterator[None]:
    """Within it torch's allocator has ``limit`` bytes of the GPU; nothing in a rehearsal."""
    if device != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(limit / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def peak_of(device: str, call: Callable[[], object]) -> int:
    """Most bytes allocated on the GPU within a call; 0 in a rehearsal."""
    if device != "cuda":
        call()
        return 0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def compilable(patch: pytest.MonkeyPatch, name: str) -> None:
    """Lets a torch before 2.13, whose compile has no limits of recompiling, do without them; skips
    what it is seen to compile wrongly."""
    if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:
        if name == "mamba":
            pytest.skip("torch 2.11 loses the gradient of a short convolution when it compiles it")
        plain: Any = torch.compile

        def compiled(loss: Any, *, dynamic: bool, options: Any, **unknown: Any) -> Any:
            return plain(loss, dynamic=dynamic, options=options)

        patch.setattr(torch, "compile", compiled)
