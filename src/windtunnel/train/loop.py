"""The loop: one generator that takes a step whenever it is asked for the next."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.data.plan import PlannedBatches
from windtunnel.errors import DataError, UsageError
from windtunnel.nn.auxiliary import tallies
from windtunnel.nn.component import after_update, has_updates
from windtunnel.nn.initialize import keyed_generator
from windtunnel.nn.unit_weights import UnitSphere
from windtunnel.train.accumulate import BatchLoss, Note, accumulate, keyed_randomness, loss_rows
from windtunnel.train.activation_checkpointing import checkpoint_layers
from windtunnel.train.batch import BatchSource, TokenBatch, count_targets
from windtunnel.train.compiling import Compiling, explained
from windtunnel.train.config import DEVICE, DEVICES, TrainConfig
from windtunnel.train.distributed.parallel import Parallel, check_distribution, parallel_of, shard
from windtunnel.train.distributed.world import ALONE, World, whole_tensor
from windtunnel.train.ema import Ema
from windtunnel.train.mup import width_scale
from windtunnel.train.objectives.make import objective_of
from windtunnel.train.objectives.objective import Objective
from windtunnel.train.optimizers.together import (
    build_optimizer,
    freeze,
    has_average,
    tagged_names,
)
from windtunnel.train.precision import (
    LossScaler,
    Weights,
    check_precision,
    gradients,
    training_weights,
)
from windtunnel.train.schedule import lr_at
from windtunnel.train.watch import Watch

__all__ = [
    "Progress",
    "StepInfo",
    "TrainState",
    "accumulate",
    "create_train_state",
    "keyed_randomness",
    "resolve_device",
    "train_steps",
]

DIVERGED_AFTER = 10
"""Non-finite steps in a row that end a run."""


@dataclass
class Progress:
    """How far a run is: the plain numbers of a checkpoint."""

    step: int = 0
    """Steps done, skipped updates included."""
    position: int = 0
    """The next batch."""
    tokens: int = 0
    """Targets trained on."""
    flops: float = 0.0
    seconds: float = 0.0
    """Spent on steps: without evaluation and checkpoints."""
    cpu_seconds: float | None = 0.0
    """Of the process's threads, on the same steps: what a step costs on a shared machine, too. None
    where the run began before this was counted."""
    skipped: int = 0
    """Updates that were not made, for a loss or gradient that was not finite."""
    peak_memory_bytes: int = 0
    skipped_in_a_row: int = 0
    empty_in_a_row: int = 0
    """Batches without a target."""
    micro_batch_size: int = 0
    """Sequences that were found to fit into memory at once; 0: none were sought yet."""
    loss_scale: float = 0.0
    """float16: what the loss is multiplied with; 0: not yet known."""
    good_steps: int = 0
    """float16: updates since the scale was last changed."""
    stages: list[list[float]] = field(default_factory=list)
    """Targets and summed nats of each stage's updates, as far as the run has come."""
    compiled_shapes: list[str] = field(default_factory=list)
    """Of batches that ``train.compile`` compiles, as they came."""
    shift: dict[str, int] = field(default_factory=dict)
    """Of a branch: added to the numbers of rows of each source; see ``data.plan``."""


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
    world: World = ALONE
    parallel: Parallel = field(default_factory=Parallel)
    """How the gradients of several processes become one."""
    scaler: LossScaler | None = None
    compiling: Compiling | None = None
    """What compiles the steps, where the recipe asks for it."""
    notes: list[Note] = field(default_factory=list)
    """What happened that the run's log should tell; whoever reads them clears them."""

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
    empty: bool = False
    """The batch had no target, so there was nothing to train on."""


def resolve_device(name: str, place: str = "train.device") -> torch.device:
    """The device that a config or an option (``place``) names; ``auto`` is a GPU if there is one.

    Raises:
        UsageError: this machine has no such device, or no machine has.
    """
    if not DEVICE.fullmatch(name):
        raise UsageError(f"{place}: {name!r} is no device; allowed: {DEVICES}")
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise UsageError(f"{place}: {name} is not here; this machine has {count} GPUs")
        # Without a number: the process's own, of several processes each has another.
        own = torch.cuda.current_device() if device.index is None else device.index
        return torch.device("cuda", own)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"{place}: mps is not here")
    return device


def create_train_state(
    model: nn.Module,
    batches: BatchSource,
    config: TrainConfig,
    *,
    flops_per_token: float = 0.0,
    world: World = ALONE,
) -> TrainState:
    """The state before the first step. Moves the model to the config's device and precision.

    Args:
        model: with its initial weights, the same in every process.
        batches: whole batches, the same in every process.
        config: the recipe.
        flops_per_token: of training.
        world: the processes that train together.

    Raises:
        UsageError: this machine has no such device, the objective does not fit the model, a rule
            of ``train.groups`` or ``train.mup`` does not, or a part of the recipe does not go with
            the device or the model.
    """
    device = resolve_device(config.device)
    check_precision(config.precision, device)
    model.to(device)
    tagged = tagged_names(model)
    freeze(config, model)
    objective = objective_of(config.objective, model)
    objective.loss_rows = loss_rows(config, objective, model)
    if config.activation_checkpointing:
        checkpoint_layers(model)
    check_distribution(config, world)
    shard(model, config, world)
    weights = training_weights(model, config)
    scale = None if config.mup is None else width_scale(model, config.mup)
    optimizer = build_optimizer(config, weights.parameters, tagged, scale)
    _check_average(config, model, optimizer)
    ema = None if config.ema is None else Ema(config.ema, weights.parameters)
    state = TrainState(
        config, model, weights, optimizer, batches, objective, device, flops_per_token,
        ema=ema, world=world,
    )  # fmt: skip
    loss = BatchLoss(model, objective)
    state.parallel = parallel_of(loss, config, world, device)
    if config.compile != "off":
        state.compiling = Compiling(loss, config.compile)
        state.parallel = Parallel(state.compiling)
    if config.precision == "float16":
        state.scaler = LossScaler(state.progress)
    return state


def _check_average(config: TrainConfig, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raises UsageError where an optimizer's own average does not go with the rest."""
    if not has_average(optimizer):
        return
    if config.ema is not None:
        raise UsageError("train.ema: schedule_free_adamw keeps an average of its own; give one")
    if any(isinstance(module, UnitSphere) for module in model.modules()):
        raise UsageError(
            "train.optimizer: the average that schedule_free_adamw keeps leaves the unit sphere on "
            "which this architecture's weights are held; choose another optimizer"
        )


def train_steps(state: TrainState) -> Iterator[StepInfo]:
    """Takes the steps that are left, one for each item; the caller evaluates, saves and logs.

    Ends after the last step, or where ``state.diverged``. The caller's random state is left alone:
    dropout draws from a generator keyed by (seed, step, micro-batch).

    Raises:
        DataError: as many batches in a row as end a run have no target.
    """
    while state.progress.step < state.config.steps and not state.diverged:
        yield _take_step(state)


def _take_step(state: TrainState) -> StepInfo:
    started, computed = time.perf_counter(), time.process_time()
    progress = state.progress
    if not state.model.training:
        state.model.train()
    generator = keyed_generator(state.config.seed, "objective", progress.step)
    batch = state.objective.prepare(_next_batch(state), generator)
    tokens = count_targets(batch)
    if tokens == 0:
        return _passed_over(state)
    every = state.config.watch_every
    watch = Watch(state.model, state.world) if every and (progress.step + 1) % every == 0 else None
    progress.empty_in_a_row = 0
    with watch or nullcontext(), explained():
        summed = accumulate(state, batch, tokens, watch)
    found = gradients(state.weights)
    assert found, "no parameter got a gradient"
    if state.scaler is not None:
        state.scaler.unscale(found)
    norm = whole_tensor(torch.nn.utils.get_total_norm(found))
    loss, grad_norm = torch.stack([summed / tokens, norm]).tolist()  # the step's only wait
    lr = lr_at(state.config, progress.step)
    finite = math.isfinite(loss) and math.isfinite(grad_norm)
    if finite:
        if watch is not None:
            watch.before_update(state.weights.parameters)
        _update(state, found, grad_norm, lr)
        if watch is not None:
            watch.after_update(state.weights.parameters)
    # A gradient that only the scale made too large says nothing about the run.
    overflow = state.scaler is not None and state.scaler.update(grad_norm) and math.isfinite(loss)
    state.weights.clear()
    progress.tokens += tokens
    progress.flops += state.objective.train_flops(batch, state.flops_per_token)
    _count(state, tokens, loss, finite=finite, overflow=overflow)
    if progress.cpu_seconds is not None:
        progress.cpu_seconds += time.process_time() - computed
    _count_time(state, time.perf_counter() - started)
    return StepInfo(
        progress.step, loss, lr, grad_norm, progress.tokens, progress.seconds, not finite,
        watch.values() if watch is not None and finite else None,
    )  # fmt: skip


def _passed_over(state: TrainState) -> StepInfo:
    """A step on a batch without a target, such as one short window that is all prompt: nothing is
    computed and nothing changes, but that it is counted and noted."""
    progress = state.progress
    progress.empty_in_a_row += 1
    if progress.empty_in_a_row == DIVERGED_AFTER:
        raise DataError(
            f"batch {progress.position} has no target to train on, nor have the "
            f"{DIVERGED_AFTER - 1} before it"
        )
    text = f"batch {progress.position} has no target to train on: it is passed over"
    state.notes.append(Note(text, {"step": progress.step + 1}))
    lr = lr_at(state.config, progress.step)
    progress.step += 1
    progress.position += 1
    return StepInfo(
        progress.step, math.nan, lr, 0.0, progress.tokens, progress.seconds, True, empty=True
    )


def _next_batch(state: TrainState) -> TokenBatch:
    progress = state.progress
    if not progress.shift:
        return state.batches.at(progress.position)
    assert isinstance(state.batches, PlannedBatches), "only planned batches can be shifted"
    shifted: TokenBatch = state.batches.shifted(progress.shift).at(progress.position)
    return shifted


def _count_time(state: TrainState, seconds: float) -> None:
    """Counts a step's time, and lets it decide what compiles; call after the step is counted."""
    state.progress.seconds += seconds
    compiling = state.compiling
    if compiling is not None:
        state.progress.compiled_shapes = list(compiling.shapes)
        state.notes += [Note(text, {}) for text in compiling.warnings]
        compiling.warnings.clear()
        step = state.progress.step
        told = compiling.after_step(step, seconds, state.config.steps - step)
        if told is not None:
            state.notes.append(Note(f"steps are {told['chosen']}", told, "compile"))


def _count(state: TrainState, tokens: int, loss: float, *, finite: bool, overflow: bool) -> None:
    """Counts a step, and what it means for the run where it was not finite."""
    progress = state.progress
    progress.step += 1
    progress.position += 1
    progress.skipped += not finite
    if not overflow:
        progress.skipped_in_a_row = 0 if finite else progress.skipped_in_a_row + 1
    if not finite:
        for tally in tallies(state.model):  # of an update that is not made
            tally.zero_()
    _count_in_stage(state, tokens, loss, finite)


def _count_in_stage(state: TrainState, tokens: int, loss: float, finite: bool) -> None:
    """Adds a step's targets and nats to those of its stage; call after the step is counted."""
    borders = state.config.borders
    if not borders:
        return
    index = sum(state.progress.step > border for border in borders[:-1])
    totals = state.progress.stages
    totals += [[0, 0.0] for _ in range(index + 1 - len(totals))]
    if finite:
        totals[index][0] += tokens
        totals[index][1] += tokens * loss


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
        for tally in tallies(state.model):
            state.world.add(tally)
        step = state.progress.step + 1
        state.weights.adjust(lambda: after_update(state.model, state.config.seed, step))
    if state.ema is not None:
        state.ema.update(state.weights.parameters, state.progress.step + 1)
