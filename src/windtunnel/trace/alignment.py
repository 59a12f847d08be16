"""Puts names on every shape of a trace, by sizes or by comparing traces at other b and t."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from windtunnel.trace.record import Call, Collection, Op, TensorInfo, Value

Namer = Callable[[TensorInfo, Sequence[TensorInfo]], tuple[str, ...]]
"""Names the axes of a tensor from itself and its counterparts (none, where there are none)."""


def renamed(call: Call, twins: Sequence[Call], namer: Namer) -> Call:
    """The tree with every tensor's axes named.

    Calls are matched with those of the other traces by module, method and order; a call that
    another trace lacks (a loop over time is shorter there) is named without counterparts.
    """
    keys = [_keyed(twin.children) for twin in twins]
    children = tuple(
        renamed(child, _found(key, keys), namer) for key, child in _keyed(call.children).items()
    )
    same_ops = all(_op_names(twin) == _op_names(call) for twin in twins)
    ops = tuple(
        _renamed_op(op, [twin.ops[i] for twin in twins] if same_ops else [], namer)
        for i, op in enumerate(call.ops)
    )
    inputs = _renamed_collection(call.inputs, [twin.inputs for twin in twins], namer)
    output = call.output
    if output is not None:
        outputs = [twin.output for twin in twins if twin.output is not None]
        output = _renamed_value(output, outputs, namer)
    return replace(call, inputs=inputs, output=output, ops=ops, children=children)


_Key = tuple[str, str, int]


def _keyed(calls: Sequence[Call]) -> dict[_Key, Call]:
    seen: dict[tuple[str, str], int] = {}
    keyed: dict[_Key, Call] = {}
    for call in calls:
        order = seen.get((call.path, call.method), 0)
        seen[call.path, call.method] = order + 1
        keyed[call.path, call.method, order] = call
    return keyed


def _found(key: _Key, others: Sequence[dict[_Key, Call]]) -> list[Call]:
    """The counterparts in every other trace, or none at all."""
    found = [other[key] for other in others if key in other]
    return found if len(found) == len(others) else []


def _op_names(call: Call) -> list[str]:
    return [op.name for op in call.ops]


def _renamed_op(op: Op, twins: Sequence[Op], namer: Namer) -> Op:
    inputs = _renamed_collection(op.inputs, [twin.inputs for twin in twins], namer)
    output = _renamed_value(op.output, [twin.output for twin in twins], namer)
    return replace(op, inputs=inputs, output=output)


def _renamed_value(value: Value, twins: Sequence[Value], namer: Namer) -> Value:
    if isinstance(value, TensorInfo):
        same = [t for t in twins if isinstance(t, TensorInfo) and len(t.shape) == len(value.shape)]
        return replace(value, axes=namer(value, same if len(same) == len(twins) else []))
    return _renamed_collection(value, twins, namer) if isinstance(value, Collection) else value


def _renamed_collection(value: Collection, twins: Sequence[Value], namer: Namer) -> Collection:
    parts = [dict(twin.items) for twin in twins if isinstance(twin, Collection)]
    items = []
    for name, item in value.items:
        others = [part[name] for part in parts if name in part]
        kept = others if len(others) == len(twins) else []
        items.append((name, _renamed_value(item, kept, namer)))
    return replace(value, items=tuple(items))
