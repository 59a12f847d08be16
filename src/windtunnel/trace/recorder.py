"""Records the calls of a forward, through hooks that exist only while it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import wraps
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

from windtunnel.trace.describe import (
    describe,
    describe_arguments,
    output_bytes,
    tensors_in,
)
from windtunnel.trace.record import Call, Collection, Op, Value

OpsLevel = Literal["none", "torch", "aten"]


@dataclass(eq=False)
class _Frame:
    """A call that is being recorded."""

    path: str
    module: nn.Module
    method: str
    inputs: Collection
    training: bool
    handled: BaseException | None  # what was being handled when it began
    started: float
    seconds: float = 0.0
    output: Value | None = None
    output_bytes: int = 0
    allocated_bytes: int = 0
    error: str | None = None
    ops: list[Op] = field(default_factory=list)
    children: list[_Frame] = field(default_factory=list)


class Recorder:
    """A context in which every call under a module is recorded; leaves no hook behind.

    `methods` names methods that are recorded too, besides `forward`, wherever a module has them.
    """

    def __init__(
        self,
        module: nn.Module,
        methods: AbstractSet[str],
        ops: OpsLevel,
        clock: Callable[[], float],
    ) -> None:
        self._module, self._methods, self._ops, self._clock = module, methods, ops, clock
        self._stack: list[_Frame] = []
        self._describing = False
        self._attached = ExitStack()
        self._paths: dict[int, list[str]] = {}
        for path, one in module.named_modules(remove_duplicate=False):
            self._paths.setdefault(id(one), []).append(path)
        self.root: _Frame | None = None

    def __enter__(self) -> Self:
        with ExitStack() as attached:
            for one in self._module.modules():
                self._attach(one, attached)
            if self._ops == "torch":
                attached.enter_context(_FunctionMode(self))
            elif self._ops == "aten":
                attached.enter_context(_DispatchMode(self))
            self._attached = attached.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._attached.close()
        # Hooks do not see an interrupt: what it left open ends here.
        while self._stack:
            self._close(None, error if error is not None else RuntimeError("never returned"))

    def _attach(self, module: nn.Module, attached: ExitStack) -> None:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._open(module, "forward", module.forward, args, kwargs)

        def after(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
        ) -> None:
            # An always-called hook comes after an error too, without an output to tell it by.
            raised = sys.exc_info()[1]
            frame = self._stack[-1] if self._stack else None
            if frame is None or frame.module is not module or frame.method != "forward":
                return  # a hook of the user's raised before the call was opened
            self._close(output, None if raised is frame.handled else raised)

        hook = module.register_forward_pre_hook(before, with_kwargs=True)
        attached.callback(hook.remove)
        hook = module.register_forward_hook(after, with_kwargs=True, always_call=True)
        attached.callback(hook.remove)
        for name in self._methods:
            if callable(getattr(type(module), name, None)):
                self._wrap(module, name, attached)

    def _wrap(self, module: nn.Module, name: str, attached: ExitStack) -> None:
        """Replace a method on this one object by a recording one, until the context ends."""
        original = getattr(module, name)

        @wraps(original)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            self._open(module, name, original, args, kwargs)
            try:
                output = original(*args, **kwargs)
            except Exception as raised:
                self._close(None, raised)
                raise
            self._close(output, None)
            return output

        had, before = name in module.__dict__, module.__dict__.get(name)
        module.__dict__[name] = recorded

        def restore() -> None:
            if had:
                module.__dict__[name] = before
            else:
                del module.__dict__[name]

        attached.callback(restore)

    def _open(
        self,
        module: nn.Module,
        method: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self._describing = True
        frame = _Frame(
            path=self._path_of(module, method),
            module=module,
            method=method,
            inputs=describe_arguments(function, args, kwargs),
            training=module.training,
            handled=sys.exc_info()[1],
            started=0.0,
        )
        if self._stack:
            self._stack[-1].children.append(frame)
        elif self.root is None:
            self.root = frame
        self._stack.append(frame)
        self._describing = False
        frame.started = self._clock()

    def _path_of(self, module: nn.Module, method: str) -> str:
        """The module's name; of several (it is shared), one under the caller, not used before."""
        names = self._paths[id(module)]
        if len(names) == 1 or not self._stack:
            return names[0]
        caller = self._stack[-1]
        prefix = f"{caller.path}." if caller.path else ""
        under = [name for name in names if name.startswith(prefix)] or names
        used = {child.path for child in caller.children if child.method == method}
        return next((name for name in under if name not in used), under[0])

    def _close(self, output: object, raised: BaseException | None) -> None:
        """End the innermost open call, with its output or with what it raised."""
        ended = self._clock()
        frame = self._stack.pop()
        frame.seconds = ended - frame.started
        if raised is None:
            self._describing = True
            frame.output = describe(output)
            frame.output_bytes = output_bytes(output)
            self._describing = False
        else:
            frame.error = _told(raised)
        if self._stack:
            self._stack[-1].allocated_bytes += frame.allocated_bytes

    def run_op(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Run an op and note it, if it makes a tensor inside a recorded call."""
        output = function(*args, **kwargs)
        if self._describing or not self._stack:
            return output
        made = tensors_in(output)
        if made:
            frame = self._stack[-1]
            given = {_storage(t) for t in tensors_in([args, kwargs])} - {None}
            new = {s: t for t in made if (s := _storage(t)) is not None and s not in given}
            frame.allocated_bytes += sum(t.untyped_storage().nbytes() for t in new.values())
            inputs = describe([*args, *kwargs.values()])
            assert isinstance(inputs, Collection)
            is_view = not new and bool(given)
            after = len(frame.children)
            frame.ops.append(Op(name, inputs, describe(output), is_view, after))
        return output

    def calls(self, depth: int | None) -> Call | None:
        """The recorded tree, down to `depth` calls below the root; None if nothing was called."""
        if self.root is None:
            return None
        return _Freezer(self._ops).freeze(self.root, depth)

    def uncalled(self) -> tuple[str, ...]:
        """Modules with parameters of their own that were never called."""
        called: set[int] = set()
        open_frames = [self.root] if self.root is not None else []
        while open_frames:
            frame = open_frames.pop()
            called.add(id(frame.module))
            open_frames += frame.children
        return tuple(
            path
            for path, one in self._module.named_modules()
            if id(one) not in called and any(True for _ in one.parameters(recurse=False))
        )


def _told(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".removesuffix(": ")


def _storage(tensor: Tensor) -> int | None:
    """A name of the tensor's memory; None for layouts without a single one."""
    if tensor.is_nested or tensor.layout is not torch.strided:
        return None
    return int(tensor.untyped_storage()._cdata)


class _FunctionMode(TorchFunctionMode):
    """Ops as a user writes them: `linear`, `softmax`, `scaled_dot_product_attention`."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self._recorder.run_op(_function_name(func), func, args, kwargs or {})


def _function_name(function: Callable[..., Any]) -> str:
    """``softmax``; for a property of a tensor, its name (``T``, ``grad``)."""
    full: str = resolve_name(function) or getattr(function, "__name__", str(function))
    parts = full.removesuffix(".__get__").split(".")
    return parts[-1].strip("_") or parts[-1]


class _DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Ops as they are executed: `addmm`, `_softmax`, `view`; this level sees all memory made."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        return self._recorder.run_op(name, func, args, kwargs or {})


class _Freezer:
    """Turns recorded frames into calls, counting each parameter where it comes first."""

    def __init__(self, ops: OpsLevel) -> None:
        self._knows_memory = ops == "aten"
        self._counted: set[int] = set()

    def freeze(self, frame: _Frame, depth: int | None) -> Call:
        params = {id(p): p.numel() for p in frame.module.parameters()}
        shared = sum(size for key, size in params.items() if key in self._counted)
        below = None if depth is None else depth - 1
        children = tuple(
            self.freeze(child, below) for child in frame.children if depth is None or depth > 0
        )
        self._counted.update(params)
        # Calls that are left out leave no places between the ops either.
        ops = [replace(op, after=min(op.after, len(children))) for op in frame.ops]
        return Call(
            path=frame.path,
            kind=type(frame.module).__name__,
            method=frame.method,
            inputs=frame.inputs,
            output=frame.output,
            own_params=sum(p.numel() for p in frame.module.parameters(recurse=False)),
            total_params=sum(params.values()),
            shared_params=shared,
            seconds=frame.seconds,
            output_bytes=frame.output_bytes,
            allocated_bytes=frame.allocated_bytes if self._knows_memory else None,
            training=frame.training,
            ops=tuple(ops),
            children=children,
            error=frame.error,
        )
