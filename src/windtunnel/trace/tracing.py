"""Trace a forward of any `nn.Module`: what is called, with which shapes, for how long.

Hooks are registered for one forward and removed after it, also after an error; a module that is
not being traced carries nothing of this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from windtunnel.errors import UsageError, WindtunnelError
from windtunnel.trace.alignment import renamed
from windtunnel.trace.describe import tensors_in
from windtunnel.trace.naming import followed_name, guessed_axes, within_shape
from windtunnel.trace.preserve import preserved
from windtunnel.trace.record import TensorInfo, Trace
from windtunnel.trace.recorder import OpsLevel, Recorder

Inputs = tuple[Any, ...] | Mapping[str, Any]
"""Positional arguments, or keyword arguments."""


class TraceError(WindtunnelError):
    """A forward raised; `trace` shows how far it came, `__cause__` is what it raised."""

    def __init__(self, message: str, trace: Trace) -> None:
        self.trace = trace
        super().__init__(message)


def trace(
    module: nn.Module,
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    dims: Mapping[str, int] | None = None,
    depth: int | None = None,
    ops: OpsLevel = "none",
    methods: Collection[str] = (),
    entry: str = "forward",
    clock: Callable[[], float] = time.perf_counter,
) -> Trace:
    """One forward of `module(*args, **kwargs)` as a tree of calls.

    dims: letters and their sizes, to name shapes by (`naming.fixed_name`). depth: calls deeper
    than this are left out (0: the root alone). ops: "torch" lists the functions that each module
    calls, as written; "aten" as executed, and counts the memory they make; both slow the forward
    down, and its times with it. methods: methods recorded besides `forward`, on every module
    that has them. entry: the method of the module to call.

    The training mode and the grad mode are kept as they are. Buffers and random states are put
    back (`preserve.preserved`). A hook makes `nn.TransformerEncoder` and its like take their
    ordinary path instead of a fused one.

    Raises TraceError, with the trace up to there, when the forward raises; UsageError for a
    module whose lazy parameters have no shape yet, or that lacks `entry`.

    >>> tree = trace(nn.Linear(4, 8), torch.zeros(2, 4), dims={"b": 2, "d": 4})
    >>> tree.root.output.text(), tree.params
    ('(b, 2·d)', 40)
    """
    letters = dict(dims or {})
    plan = _Plan(depth, ops, frozenset(methods), entry, clock)
    return _recorded(module, args, kwargs or {}, letters, plan)


def trace_named(
    module: nn.Module,
    make_inputs: Callable[[int, int], Inputs],
    *,
    batch: int = 2,
    time_steps: int = 8,
    dims: Mapping[str, int] | None = None,
    depth: int | None = None,
    ops: OpsLevel = "none",
    methods: Collection[str] = (),
    entry: str = "forward",
    clock: Callable[[], float] = time.perf_counter,
) -> Trace:
    """As `trace`, but knowing, not guessing, which dimensions follow b and t.

    `make_inputs(b, t)` makes the arguments. The forward runs at (b + 1, t), at (b, t − 1) and
    last, warm and timed, at (b, t). `dims` holds the other letters.

    Raises what `trace` raises, and UsageError for a batch below 1 or fewer than 2 time steps.
    """
    if batch < 1 or time_steps < 2:
        raise UsageError(
            f"a batch of at least 1 and 2 time steps are needed, not {batch} and {time_steps}"
        )
    sizes, others = (batch, time_steps), (batch + 1, time_steps - 1)
    letters = {"b": batch, "t": time_steps, **(dims or {})} | {"b": batch, "t": time_steps}
    plan = _Plan(depth, ops, frozenset(methods), entry, clock)
    traces = []
    for b, t in ((others[0], time_steps), (batch, others[1]), sizes):
        args, kwargs = _split(make_inputs(b, t))
        traces.append(_recorded(module, args, kwargs, letters | {"b": b, "t": t}, plan))
    other_batch, other_time, main = traces

    def by_following(info: TensorInfo, twins: Sequence[TensorInfo]) -> tuple[str, ...]:
        if not twins:
            return guessed_axes(info.shape, letters)
        triples = zip(info.shape, twins[0].shape, twins[1].shape, strict=True)
        names = tuple(followed_name(*triple, sizes, others, letters) for triple in triples)
        return within_shape(info.shape, names)

    return replace(main, root=renamed(main.root, [other_batch.root, other_time.root], by_following))


@dataclass(frozen=True)
class _Plan:
    """What is recorded, and how."""

    depth: int | None
    ops: OpsLevel
    methods: frozenset[str]
    entry: str
    clock: Callable[[], float]


def _split(inputs: Inputs) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    return ((), inputs) if isinstance(inputs, Mapping) else (inputs, {})


def _recorded(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dims: Mapping[str, int],
    plan: _Plan,
) -> Trace:
    """One forward, with its shapes named by their sizes."""
    _check(module, plan)
    devices = {t.device for t in (*module.parameters(), *tensors_in([args, kwargs]))}
    methods = plan.methods if plan.entry == "forward" else plan.methods | {plan.entry}
    recorder = Recorder(module, methods, plan.ops, _clock(plan.clock, devices))
    error: Exception | None = None
    try:
        with preserved(module, devices), recorder:
            # A module is called as such, so that the hooks that it has of its own run too.
            called = module if plan.entry == "forward" else getattr(module, plan.entry)
            called(*args, **kwargs)
    except Exception as caught:
        # Whatever a foreign module may raise: it is raised again below, with the trace.
        error = caught
    root = recorder.calls(plan.depth)
    if root is None:
        _raise(error, f"{type(module).__name__}.{plan.entry} was not called")
    tree = Trace(
        root=renamed(root, [], lambda info, _: guessed_axes(info.shape, dims)),
        dims=dict(dims),
        params=sum(p.numel() for p in module.parameters()),
        uncalled=recorder.uncalled(),
    )
    if error is None:
        return tree
    failed = tree.failed_call()
    where = (failed.path if failed is not None else "") or type(module).__name__
    raise TraceError(f"the forward failed in {where}: {tree.error}", tree) from error


def _raise(error: Exception | None, message: str) -> NoReturn:
    raise error if error is not None else AssertionError(message)


def _check(module: nn.Module, plan: _Plan) -> None:
    lazy = [name for name, p in module.named_parameters() if is_lazy(p)]
    if lazy:
        raise UsageError(f"{lazy[0]} has no shape yet: run the module once before it is traced")
    if not callable(getattr(module, plan.entry, None)):
        raise UsageError(f"{type(module).__name__} has no method {plan.entry!r}")
    if plan.depth is not None and plan.depth < 0:
        raise UsageError(f"depth: at least 0 is needed, not {plan.depth}")


def _clock(clock: Callable[[], float], devices: Collection[torch.device]) -> Callable[[], float]:
    """On a GPU a call returns before its work is done: each reading of the clock waits for it."""
    kinds = {device.type for device in devices} & {"cuda", "mps"}
    if not kinds:
        return clock

    def waiting() -> float:
        for kind in kinds:
            torch.get_device_module(kind).synchronize()
        return clock()

    return waiting
