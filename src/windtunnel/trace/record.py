"""What a trace is: a tree of calls, plain frozen values with no tensor in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TensorInfo:
    """A tensor that went in or out: its metadata only.

    `axes` names each dimension, with letters where they are known (``("b", "t", "3·d")``) and
    numbers elsewhere. `bytes` is None where the layout does not tell (nested tensors).
    """

    shape: tuple[int, ...]
    dtype: str
    device: str
    bytes: int | None
    axes: tuple[str, ...]

    def text(self) -> str:
        """The named shape: ``(b, t, d)``."""
        return f"({', '.join(self.axes)})"

    def to_json(self) -> dict[str, Any]:
        return {
            "tensor": list(self.shape),
            "axes": list(self.axes),
            "dtype": self.dtype,
            "device": self.device,
            "bytes": self.bytes,
        }


@dataclass(frozen=True)
class Collection:
    """A tuple, list, mapping, NamedTuple or dataclass, with named items."""

    kind: str
    items: tuple[tuple[str, Value], ...]

    def text(self) -> str:
        """Its tensors' shapes, one after the other: ``(b, t, d); (1, b, d)``."""
        return "; ".join(value.text() for _, value in self.items) or f"empty {self.kind}"

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "items": {name: value.to_json() for name, value in self.items}}


@dataclass(frozen=True)
class Other:
    """Anything that holds no tensor, in short."""

    kind: str
    shown: str

    def text(self) -> str:
        return self.shown

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "value": self.shown}


Value = TensorInfo | Collection | Other


def tensors(value: Value | None) -> Iterator[TensorInfo]:
    """The tensors in a value, depth first."""
    if isinstance(value, TensorInfo):
        yield value
    elif isinstance(value, Collection):
        for _, item in value.items:
            yield from tensors(item)


@dataclass(frozen=True)
class Op:
    """A function of PyTorch that a module called: its name and the tensors in and out.

    `is_view`: the output shares the memory of an input (a view, or in place). `after`: how many
    of the module's recorded children were called before it.
    """

    name: str
    inputs: Collection
    output: Value
    is_view: bool
    after: int

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "inputs": [one.to_json() for one in tensors(self.inputs)],
            "output": self.output.to_json(),
            "is_view": self.is_view,
            "after": self.after,
        }


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of one module (or, after `collapsed`, several equal ones).

    path: the module's name in the traced one, "" for that itself; ``layers.0-5.mixer`` when
    collapsed. params: `own_params` are the module's direct parameters, `total_params` all under
    it, each once; `shared_params` of these were already counted at an earlier call, so
    total − shared sums to the trace's total. seconds: wall clock, children included; summed over
    the `repeat` calls. output_bytes: of the tensors returned, each once. allocated_bytes: new
    memory made by the ops inside, children included; None unless the ops were traced as "aten".
    error: what the call raised.
    """

    path: str
    kind: str
    method: str
    inputs: Collection
    output: Value | None
    own_params: int
    total_params: int
    shared_params: int
    seconds: float
    output_bytes: int
    allocated_bytes: int | None
    training: bool
    ops: tuple[Op, ...] = ()
    children: tuple[Call, ...] = ()
    error: str | None = None
    repeat: int = 1

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def new_params(self) -> int:
        """Parameters that no earlier call has counted."""
        return self.total_params - self.shared_params

    @property
    def own_seconds(self) -> float:
        """Seconds outside the recorded children."""
        return self.seconds - sum(child.seconds for child in self.children)

    def walk(self) -> Iterator[Call]:
        """This call and all below it, in the order of the forward."""
        yield self
        for child in self.children:
            yield from child.walk()

    def to_json(self) -> dict[str, Any]:
        tree: dict[str, Any] = {
            "path": self.path,
            "class": self.kind,
            "method": self.method,
            "repeat": self.repeat,
            "inputs": self.inputs.to_json()["items"],
            "output": None if self.output is None else self.output.to_json(),
            "params": {
                "own": self.own_params,
                "total": self.total_params,
                "shared": self.shared_params,
            },
            "seconds": self.seconds,
            "mean_seconds": self.seconds / self.repeat,
            "own_seconds": self.own_seconds,
            "output_bytes": self.output_bytes,
            "allocated_bytes": self.allocated_bytes,
            "training": self.training,
            "error": self.error,
        }
        if self.ops:
            tree["ops"] = [op.to_json() for op in self.ops]
        tree["children"] = [child.to_json() for child in self.children]
        return tree


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One forward: the tree of calls, the sizes of the letters, and the exact parameter count.

    `uncalled` are modules with parameters of their own that nothing called: their parameters are
    used by other means (as `nn.MultiheadAttention` uses its `out_proj`), or not at all.
    """

    root: Call
    dims: Mapping[str, int] = field(default_factory=dict)
    params: int
    uncalled: tuple[str, ...] = ()

    @property
    def error(self) -> str | None:
        """What the forward raised, None when it came through."""
        return self.root.error

    def failed_call(self) -> Call | None:
        """The innermost call that raised, None when the forward came through."""
        failed = [call for call in self.root.walk() if call.error is not None]
        return failed[-1] if failed and self.root.error is not None else None

    def to_json(self) -> dict[str, Any]:
        """The whole trace as plain JSON."""
        return {
            "dims": dict(self.dims),
            "params": self.params,
            "uncalled": list(self.uncalled),
            "error": self.error,
            "root": self.root.to_json(),
        }
