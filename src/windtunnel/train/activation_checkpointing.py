"""Activation checkpointing: a layer keeps its input, and is computed again in the backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode
from torch.utils.checkpoint import checkpoint

from windtunnel.arch.model import Layer
from windtunnel.errors import UsageError
from windtunnel.nn.auxiliary import present_collector, replaying

Contexts = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]


def checkpoint_layers(model: nn.Module) -> int:
    """Makes every layer of ``model`` keep its inputs alone while it is trained (Chen et al. 2016,
    arXiv 1604.06174); how many there are.

    Gradients are the same to the bit, dropout included: its random state is put back for the second
    forward. Costs one more forward of the layers: about a third of a step.

    Raises:
        UsageError: the model has no layers of ours.
    """
    layers = {id(module): module for module in model.modules() if isinstance(module, Layer)}
    if not layers:
        raise UsageError("train.activation_checkpointing: the model has no layers to recompute")
    for layer in layers.values():
        layer.forward = _recomputing(layer.forward)  # type: ignore[method-assign]
    return len(layers)


def _recomputing(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def run(*arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments)
        collector, asked = present_collector()
        mode = _present_mode()
        redrawing = _redrawing(_unsaved_device(arguments))

        @contextmanager
        def again() -> Iterator[None]:
            # A backward that was called inside a mode runs outside of it; dropout by rows is one.
            lost = mode is not None and _present_mode() is not mode
            with (
                redrawing,
                replaying(collector, asked),
                mode if mode and lost else nullcontext(),
            ):
                yield

        def contexts() -> Contexts:
            return nullcontext(), again()

        return checkpoint(forward, *arguments, use_reentrant=False, context_fn=contexts)

    return run


def _unsaved_device(arguments: tuple[Any, ...]) -> torch.device | None:
    """The device of which torch's checkpoint does not keep the random state, if there is one.

    It keeps that of modules with an ``_initialized`` that is true; ``torch.mps`` has none (pytorch
    issue 127676).
    """
    for value in arguments:
        if isinstance(value, Tensor) and value.device.type not in ("cpu", "meta"):
            kept = getattr(torch.get_device_module(value.device), "_initialized", False)
            return None if kept else value.device
    return None


def _redrawing(device: torch.device | None) -> AbstractContextManager[None]:
    """Within it the device draws what it would draw now, and after it as if it had not."""
    if device is None:
        return nullcontext()
    module, index = torch.get_device_module(device), device.index or 0
    state = module.get_rng_state(index)

    @contextmanager
    def again() -> Iterator[None]:
        with torch.random.fork_rng([index], device_type=device.type):
            module.set_rng_state(state, index)
            yield

    return again()


def _present_mode() -> Any:
    """The mode that sees torch's functions now, or None."""
    return _get_current_function_mode()  # type: ignore[no-untyped-call]
