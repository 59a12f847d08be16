"""The loop: one generator that takes a step whenever it is asked for the next."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.errors import DataError, UsageError
from windtunnel.nn.auxiliary import collect_auxiliary
from windtunnel.nn.component import after_update, has_updates
from windtunnel.nn.initialize import keyed_generator
from windtunnel.train.batch import BatchSource, TokenBatch, count_targets, moved, pieces
from windtunnel.train.config import TrainConfig
from windtunnel.train.ema import Ema
from windtunnel.train.mup import width_scale
from windtunnel.train.objectives.make import objective_of
from windtunnel.train.objectives.objective import Objective
from windtunnel.train.optimizers.together import build_optimizer, freeze, tagged_names
from windtunnel.train.precision import Weights, gradients, training_weights
from windtunnel.train.schedule import lr_at
from windtunnel.train.watch import Watch

DIVERGED_AFTER = 10
"""Non-finite steps in a row that end a run."""


@dataclass
class Progress:
    """How far a run is: the plain numbers of a checkpoint. All but the last grow over the run."""

    step: int = 0
    """Steps done, skipped updates included."""
    position: int = 0
    """The next batch."""
    tokens: int = 0
    """Targets trained on."""
    flops: float = 0.0
    seconds: float = 0.0
    """Spent on steps: without evaluation and checkpoints."""
    skipped: int = 0
    """Updates that were not made, for a loss or gradient that was not finite."""
    peak_memory_bytes: int = 0
    skipped_in_a_row: int = 0


@dataclass
class TrainState:
    """All that a run needs to go on. A checkpoint holds weights, optimizer and progress."""

    config: TrainConfig
    model: nn.Module
    weights: Weights
    optimizer: torch.optim.Optimizer
    batches: BatchSource
    objective: Objective[Any]
    device: torch.device
    flops_per_token: float = 0.0
    """Of training: forward and backward."""
    progress: Progress = field(default_factory=Progress)
    ema: Ema | None = None
    """An average of the weights, where the recipe asks for one."""

    @property
    def diverged(self) -> bool:
        return self.progress.skipped_in_a_row >= DIVERGED_AFTER


@dataclass(frozen=True)
class StepInfo:
    """What one step did. ``tokens`` and ``seconds`` are totals since the run's first step."""

    step: int
    """Steps done, this one included."""
    loss: float
    """Nats a token on the step's batch, before the update."""
    lr: float
    grad_norm: float
    """Before clipping."""
    tokens: int
    seconds: float
    skipped: bool
    """The loss or the gradient was not finite, so the weights are what they were."""
    watched: Mapping[str, Any] | None = None
    """What ``train.watch_every`` asks for, on the steps on which it does."""


def resolve_device(name: str) -> torch.device:
    """The device that a config names; ``auto`` is a GPU where there is one.

    Raises:
        UsageError: this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise UsageError(f"train.device: {name} is not here; this machine has {count} GPUs")
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("train.device: mps is not here")
    return device


def create_train_state(
    model: nn.Module,
    batches: BatchSource,
    config: TrainConfig,
    *,
    flops_per_token: float = 0.0,
) -> TrainState:
    """The state before the first step. Moves the model to the config's device and precision.

    Raises:
        UsageError: this machine has no such device, the objective does not fit the model, or a
            rule of ``train.groups`` or ``train.mup`` does not.
    """
    device = resolve_device(config.device)
    model.to(device)
    tagged = tagged_names(model)
    freeze(config, model)
    weights = training_weights(model, config)
    scale = None if config.mup is None else width_scale(model, config.mup)
    optimizer = build_optimizer(config, weights.parameters, tagged, scale)
    objective = objective_of(config.objective, model)
    ema = None if config.ema is None else Ema(config.ema, weights.parameters)
    return TrainState(
        config, model, weights, optimizer, batches, objective, device, flops_per_token, ema=ema
    )


def train_steps(state: TrainState) -> Iterator[StepInfo]:
    """Takes the steps that are left, one for each item; the caller evaluates, saves and logs.

    Ends after the last step, or where ``state.diverged``. The caller's random state is left alone:
    dropout draws from a generator keyed by (seed, step, micro-batch).

    Raises:
        DataError: a batch has no target.
    """
    while state.progress.step < state.config.steps and not state.diverged:
        yield _take_step(state)


def _take_step(state: TrainState) -> StepInfo:
    started = time.perf_counter()
    progress = state.progress
    if not state.model.training:
        state.model.train()
    generator = keyed_generator(state.config.seed, "objective", progress.step)
    batch = state.objective.prepare(state.batches.at(progress.position), generator)
    tokens = count_targets(batch)
    if tokens == 0:
        raise DataError(f"batch {progress.position} has no target to train on")
    every = state.config.watch_every
    watch = Watch(state.model) if every and (progress.step + 1) % every == 0 else None
    with watch or nullcontext():
        summed = accumulate(state, batch, tokens)
    found = gradients(state.weights)
    assert found, "no parameter got a gradient"
    norm = torch.nn.utils.get_total_norm(found)
    loss, grad_norm = torch.stack([summed / tokens, norm]).tolist()  # the step's only wait
    lr = lr_at(state.config, progress.step)
    finite = math.isfinite(loss) and math.isfinite(grad_norm)
    if finite:
        if watch is not None:
            watch.before_update(state.weights.parameters)
        _update(state, found, grad_norm, lr)
        if watch is not None:
            watch.after_update(state.weights.parameters)
    state.weights.clear()
    progress.step += 1
    progress.position += 1
    progress.tokens += tokens
    progress.flops += state.objective.train_flops(batch, state.flops_per_token)
    progress.skipped += not finite
    progress.skipped_in_a_row = 0 if finite else progress.skipped_in_a_row + 1
    progress.seconds += time.perf_counter() - started
    return StepInfo(
        progress.step, loss, lr, grad_norm, progress.tokens, progress.seconds, not finite,
        watch.values() if watch is not None and finite else None,
    )  # fmt: skip


def accumulate(state: TrainState, batch: TokenBatch, tokens: int) -> Tensor:
    """Adds the gradient of the batch's mean loss to the weights; returns the summed loss.

    Each micro-batch's sum is divided by the targets of the *whole* batch, so the gradient is the
    same however the batch is cut and wherever its ignored targets lie.
    """
    size = state.config.micro_batch_size or state.config.batch_size
    total = torch.zeros((), device=state.device)
    for number, piece in enumerate(pieces(batch, size)):
        key = (state.config.seed, state.progress.step, number)
        with keyed_randomness(state.device, *key), collect_auxiliary() as auxiliary:
            loss = state.objective.summed(state.model, moved(piece, state.device))
            objective = loss / tokens
            if auxiliary.losses:  # means over this piece, so it counts by its share of the batch
                share = count_targets(piece) / tokens
                objective = objective + auxiliary.total() * share
            objective.backward()  # type: ignore[no-untyped-call]
        state.weights.gather()
        total += loss.detach()
    return total


@torch.no_grad()
def _update(state: TrainState, found: list[Tensor], grad_norm: float, lr: float) -> None:
    clip = state.config.clip
    if clip is not None and grad_norm > clip:
        torch._foreach_mul_(found, clip / grad_norm)
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    state.optimizer.step()
    state.weights.publish()
    if has_updates(state.model):
        step = state.progress.step + 1
        state.weights.adjust(lambda: after_update(state.model, state.config.seed, step))
    if state.ema is not None:
        state.ema.update(state.weights.parameters, state.progress.step + 1)


@contextmanager
def keyed_randomness(device: torch.device, seed: int, step: int, piece: int) -> Iterator[None]:
    """Random numbers keyed by (seed, step, piece) on the CPU and ``device``, the caller's after."""
    text = f"dropout/{seed}/{step}/{piece}".encode()
    key = int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1
    devices = [device.index or 0] if device.type != "cpu" else []
    kind = device.type if devices else "cuda"
    with torch.random.fork_rng(devices, device_type=kind):
        torch.default_generator.manual_seed(key)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(key)
        elif device.type == "mps":
            torch.mps.manual_seed(key)
        yield
