"""How the gradients of several processes become one: DDP, FSDP2, or nothing for one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.arch import build
from windtunnel.arch.model import Layer
from windtunnel.errors import UsageError
from windtunnel.train.config import TrainConfig
from windtunnel.train.distributed.world import ALONE, World, whole_tensor
from windtunnel.train.objectives.diffusion import DiffusionModel
from windtunnel.train.precision import MasterWeights, Weights, is_sharded

_BUCKET_VALUES = 2**22
WHOLE = ("adafactor", "muon", "soap")
"""Optimizers that treat a matrix as one."""


@dataclass(frozen=True)
class Parallel:
    """The loss of a piece of a batch, and what makes one gradient of all processes'.

    The default is that of one process: it only calls ``loss``.
    """

    loss: Callable[[Any], Tensor] | None = None
    factor: float = 1.0
    """The loss is multiplied by it: DDP and FSDP give the mean over processes, we want the sum."""
    world: World = ALONE
    unsynced: Callable[[], AbstractContextManager[Any]] = nullcontext
    """DDP: inside, gradients are only added up."""

    def __call__(self, batch: Any) -> Tensor:
        assert self.loss is not None
        return self.loss(batch)

    def syncing(self, last: bool) -> AbstractContextManager[Any]:
        """Around a piece of a batch: only with the last one do processes exchange gradients."""
        return nullcontext() if last else self.unsynced()

    def reduce(self, weights: Weights) -> None:
        """After all pieces: the gradients of float32 masters, which DDP does not know of."""
        if self.world.size > 1 and isinstance(weights, MasterWeights):
            add_gradients(weights, self.world)


def check_distribution(config: TrainConfig, world: World) -> None:
    """Whether these processes can share the run; asked before anything is written.

    Raises:
        UsageError: a piece of a batch has fewer rows than there are processes, or fsdp is asked for
            and an optimizer needs whole matrices.
    """
    size = config.largest_micro_batch
    least = min(min(size, rows % size or size) for rows in config.batch_rows)
    if least < world.size:
        where = "micro_batch_size" if size < config.largest_batch else "batch_size"
        last = " (the last of a stage may be short)" if config.stages else ""
        raise UsageError(
            f"train.{where}: a piece of a batch has {least} rows{last}, fewer than the "
            f"{world.size} processes that share it; make it larger, or start fewer processes"
        )
    if config.distributed != "fsdp" or world.size == 1:
        return
    used = (config.optimizer, config.secondary_optimizer, *(g.optimizer for g in config.groups))
    whole = sorted({kind for kind in (getattr(one, "type", None) for one in used) if kind in WHOLE})
    if whole:
        raise UsageError(
            f"train.optimizer: {whole[0]} needs whole matrices, and fsdp leaves each process "
            "a part of them; choose ddp, or adamw"
        )


def shard(model: nn.Module, config: TrainConfig, world: World) -> None:
    """fsdp: leaves each process its part of every parameter (FSDP2, arXiv 2304.11277); a layer is
    put together when it is computed. bfloat16: the parts are float32 masters.
    """
    if config.distributed != "fsdp" or world.size == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    mesh = init_device_mesh(next(model.parameters()).device.type, (world.size,))
    policy = MixedPrecisionPolicy()
    if config.precision == "bfloat16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for module in list(model.modules()):
        if isinstance(module, Layer) and not is_sharded(module):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    # Whatever an objective calls beside forward.
    for name in ("hidden", "encode", "embed", "round_off"):
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)


def parallel_of(
    loss: nn.Module, config: TrainConfig, world: World, device: torch.device
) -> Parallel:
    """What computes the loss so that gradients become those of the whole batch."""
    if world.size == 1:
        return Parallel(loss)
    if config.distributed == "fsdp":
        return Parallel(loss, float(world.size), world)
    if config.precision == "bfloat16":  # gathered in float32 masters, so added up there
        return Parallel(loss, 1.0, world)
    from torch.nn.parallel import DistributedDataParallel

    devices = [device.index] if device.type == "cuda" else None
    # A model may say that a batch leaves some parameters out. Those that no process needed then
    # stay without a gradient, as with one process, and the optimizer leaves them alone.
    partial = any(not getattr(module, "uses_every_parameter", True) for module in loss.modules())
    replicated = DistributedDataParallel(
        loss, device_ids=devices, forward_sync_buffers=False, find_unused_parameters=partial
    )
    return Parallel(replicated, float(world.size), world, replicated.no_sync)


@torch.no_grad()
def add_gradients(weights: Weights, world: World) -> None:
    """The sum of all processes' gradients, in float32, some megabytes at a time."""
    bucket: list[Tensor] = []
    values = 0
    for parameter in weights.parameters.values():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        values += parameter.numel()
        if values >= _BUCKET_VALUES:
            _add(bucket, world)
            bucket, values = [], 0
    if bucket:
        _add(bucket, world)


def _add(bucket: list[Tensor], world: World) -> None:
    flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
    world.add(flat)
    parts = torch.split(flat, [tensor.numel() for tensor in bucket])
    for tensor, summed in zip(bucket, parts, strict=True):
        tensor.copy_(summed.view_as(tensor))


@contextmanager
def whole_model(model: nn.Module) -> Iterator[nn.Module]:
    """The model, or of a sharded one a copy that is whole in every process (a collective call)."""
    if not is_sharded(model):
        yield model
        return
    architecture: Any = model.architecture
    device = next(model.parameters()).device
    copy: nn.Module
    if isinstance(model, DiffusionModel):
        copy = DiffusionModel.built(architecture).to(device)
    else:
        copy = build(architecture, device=device)
    with torch.no_grad():
        there = {**dict(copy.named_parameters()), **dict(copy.named_buffers())}
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            there[name].copy_(whole_tensor(tensor))
    yield copy
