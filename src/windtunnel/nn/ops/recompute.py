"""Keeping an operation's inputs alone: what lies between is computed again in the backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function

from windtunnel.nn.ops.wide import without_autocast

Operation: TypeAlias = Callable[..., tuple[Tensor, ...]]


class _Recomputed(Function):
    @staticmethod
    def forward(ctx: Any, operation: Operation, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.operation = operation
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)  # a state that nobody reads costs no backward
        with without_autocast(tensors[0].device):
            return operation(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        tensors = ctx.saved_tensors  # once: behind a checkpoint they can be had once
        with without_autocast(tensors[0].device):  # also if the backward is within it
            inputs = [
                x.detach().requires_grad_(need) for x, need in zip(tensors, needed, strict=True)
            ]
            with torch.enable_grad():
                outputs = ctx.operation(*inputs)
            reached = [
                (y, grad)
                for y, grad in zip(outputs, grads, strict=True)
                if grad is not None and y.requires_grad
            ]
            wanted = [x for x in inputs if x.requires_grad]
            ends, starts = [y for y, _ in reached], [grad for _, grad in reached]
            found = iter(torch.autograd.grad(ends, wanted, starts, allow_unused=True))
        return None, *(next(found) if need else None for need in needed)


def recomputed(operation: Operation, *tensors: Tensor) -> tuple[Tensor, ...]:
    """``operation(*tensors)``, of which autograd keeps the tensors and nothing else.

    The operation must be a pure function of the tensors, return a tuple of new ones, and draw
    nothing at random; gradients flow to ``tensors`` alone. Autocast is off within, so the operation
    widens what it is to compute in float32. It costs one more forward in the backward, and saves
    the intermediate values: for a recurrence in chunks, many times its inputs.
    """
    outputs: tuple[Tensor, ...] = _Recomputed.apply(operation, *tensors)  # type: ignore[no-untyped-call]
    return outputs
