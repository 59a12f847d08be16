"""The configurations that none of the others beats in everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def pareto_front(values: Mapping[int, Sequence[float]]) -> list[int]:
    """The keys of values that no other dominates, by the first value, then the key. Lower is
    better; of equal values all stay.

    >>> pareto_front({0: (1.0, 5.0), 1: (2.0, 3.0), 2: (2.5, 4.0)})
    [0, 1]
    """
    front = [
        key
        for key, own in values.items()
        if not any(_dominates(other, own) for other in values.values())
    ]
    return sorted(front, key=lambda key: (values[key][0], key))


def _dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
