"""Any value of Python as metadata: shapes and types, and no reference to a tensor kept."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from windtunnel.trace.record import Collection, Other, TensorInfo, Value

_DEEPEST = 8
_LONGEST_REPR = 40


def describe(value: object, depth: int = 0) -> Value:
    """Tensors become `TensorInfo`; tuples, lists, mappings, NamedTuples and dataclasses are
    followed eight deep; everything else is named in short."""
    if isinstance(value, Tensor):
        return describe_tensor(value)
    items = _items(value) if depth < _DEEPEST else None
    if items is None:
        return Other(type(value).__name__, _short(value))
    described = tuple((name, describe(item, depth + 1)) for name, item in items)
    return Collection(type(value).__name__, described)


def describe_tensor(tensor: Tensor) -> TensorInfo:
    """The metadata of one tensor; its axes carry their sizes until they are named."""
    # A nested tensor has no one shape: its ragged dimension is told as -1.
    if tensor.is_nested:
        shape = (tensor.size(0), *(-1 for _ in range(tensor.dim() - 1)))
    else:
        shape = tuple(int(size) for size in tensor.shape)
    return TensorInfo(
        shape=shape,
        dtype=str(tensor.dtype).removeprefix("torch."),
        device=str(tensor.device),
        bytes=_bytes(tensor),
        axes=tuple(map(str, shape)),
    )


def _bytes(tensor: Tensor) -> int | None:
    if tensor.is_nested or tensor.layout is not torch.strided:
        return None
    return tensor.numel() * tensor.element_size()


def _items(value: object) -> list[tuple[str, object]] | None:
    """The named parts of a container; None for what is none."""
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, tuple | list):
        names = getattr(value, "_fields", None) or range(len(value))
        return [(str(name), item) for name, item in zip(names, value, strict=True)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Not `asdict`: that would copy the tensors.
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    return None


def _short(value: object) -> str:
    if value is None or isinstance(value, bool | int | float | str):
        text = repr(value)
        return text if len(text) <= _LONGEST_REPR else text[: _LONGEST_REPR - 1] + "…"
    # The repr of a foreign object may be long, slow, or raise.
    return f"<{type(value).__name__}>"


def describe_arguments(
    function: Callable[..., Any], args: Sequence[object], kwargs: Mapping[str, object]
) -> Collection:
    """The arguments of a call under the names that the function gives them."""
    try:
        bound = inspect.signature(function).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        # No signature (built in, scripted), or a call that does not fit it and is about to fail.
        bound = {str(i): value for i, value in enumerate(args)} | dict(kwargs)
    return Collection("arguments", tuple((name, describe(item)) for name, item in bound.items()))


def output_bytes(value: object, seen: set[int] | None = None, depth: int = 0) -> int:
    """Bytes of the tensors in a value, each tensor object once; unknown ones count as zero."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        if id(value) in seen:
            return 0
        seen.add(id(value))
        return _bytes(value) or 0
    items = _items(value) if depth < _DEEPEST else None
    return sum(output_bytes(item, seen, depth + 1) for _, item in items or ())


def tensors_in(value: object, depth: int = 0) -> list[Tensor]:
    """The tensors in nested containers, depth first."""
    if isinstance(value, Tensor):
        return [value]
    items = _items(value) if depth < _DEEPEST else None
    return [tensor for _, item in items or () for tensor in tensors_in(item, depth + 1)]
