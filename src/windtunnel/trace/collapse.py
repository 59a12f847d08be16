"""Equal neighbours as one: ``layers.0-5 ×6``, ``cell ×8``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from windtunnel.trace.record import Call, Op, Trace, tensors


def collapsed(trace: Trace) -> Trace:
    """The trace with runs of equal calls folded, on every level.

    Two calls are equal when class, method, shapes, dtypes, parameters and everything below them
    are equal, and their paths differ in one number at most. A fold's seconds, bytes and
    parameters are sums; `repeat` says of how many calls.
    """
    return replace(
        trace, root=_collapsed(trace.root), uncalled=tuple(_folded_names(trace.uncalled))
    )


def ranges(indices: Sequence[int]) -> str:
    """Sorted numbers in short.

    >>> ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _folded_names(names: Sequence[str]) -> list[str]:
    """Names that differ in their first number only, as one: ``layers.0-5.out``."""
    numbers: dict[tuple[str, ...], list[int]] = {}
    for name in names:
        parts = name.split(".")
        place = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        found = [] if place is None else [int(parts[place])]
        if place is not None:
            parts[place] = "#"
        numbers.setdefault(tuple(parts), []).extend(found)
    return [
        ".".join(ranges(found) if part == "#" else part for part in parts)
        for parts, found in numbers.items()
    ]


def _collapsed(call: Call) -> Call:
    runs: list[list[Call]] = []
    for child in map(_collapsed, call.children):
        if runs and _equal(runs[-1][0], child) and _one_place([*runs[-1], child]) is not None:
            runs[-1].append(child)
        else:
            runs.append([child])
    # How many folds have begun before the call of each old place.
    folds = [i + 1 for i, run in enumerate(runs) for _ in run]
    ops = tuple(replace(op, after=folds[op.after - 1] if op.after else 0) for op in call.ops)
    return replace(call, ops=ops, children=tuple(_merged(run) for run in runs))


def _equal(a: Call, b: Call) -> bool:
    return _signature(a) == _signature(b)


def _signature(call: Call) -> tuple[object, ...]:
    """Everything that must agree; times, bytes of the allocator and shared counts need not."""
    return (
        call.kind,
        call.method,
        len(call.path.split(".")),
        call.repeat,
        call.own_params,
        call.total_params,
        call.training,
        call.error,
        _shapes(call.inputs),
        None if call.output is None else _shapes(call.output),
        tuple(_op_signature(op) for op in call.ops),
        tuple((child.name, _signature(child)) for child in call.children),
    )


def _shapes(value: object) -> tuple[object, ...]:
    return tuple((t.shape, t.dtype, t.device) for t in tensors(value))  # type: ignore[arg-type]


def _op_signature(op: Op) -> tuple[object, ...]:
    return op.name, _shapes(op.inputs), _shapes(op.output)


def _one_place(calls: Sequence[Call]) -> int | None:
    """The part of the path where these differ, all numbers; -1 if nowhere; None if not one."""
    columns = list(zip(*(call.path.split(".") for call in calls), strict=True))
    differing = [i for i, column in enumerate(columns) if len(set(column)) > 1]
    if not differing:
        return -1
    if len(differing) > 1 or not all(part.isdigit() for part in columns[differing[0]]):
        return None
    return differing[0]


def _merged(run: Sequence[Call]) -> Call:
    if len(run) == 1:
        return run[0]
    first, place = run[0], _one_place(run)
    assert place is not None
    path = first.path
    if place >= 0:
        parts = path.split(".")
        parts[place] = ranges([int(call.path.split(".")[place]) for call in run])
        path = ".".join(parts)
    known = [call.allocated_bytes for call in run if call.allocated_bytes is not None]
    return replace(
        first,
        path=path,
        repeat=sum(call.repeat for call in run),
        # One module called again brings no parameters; several modules bring the sum of theirs.
        own_params=first.own_params if place < 0 else sum(call.own_params for call in run),
        total_params=first.total_params if place < 0 else sum(call.total_params for call in run),
        shared_params=first.shared_params if place < 0 else sum(c.shared_params for c in run),
        seconds=sum(call.seconds for call in run),
        output_bytes=sum(call.output_bytes for call in run),
        allocated_bytes=sum(known) if len(known) == len(run) else None,
        children=tuple(
            _merged([call.children[i] for call in run]) for i in range(len(first.children))
        ),
    )
