"""Permutations one after the other: where does each thing lie now?"""

from __future__ import annotations

from functools import cache
from itertools import permutations
from typing import Any, ClassVar, Literal, TypeAlias

from windtunnel.data.probe import register_probe
from windtunnel.data.state_tracking import StateTracking

Group: TypeAlias = Literal["S3", "S4", "S5", "A5"]


@cache
def elements(group: Group) -> tuple[tuple[int, ...], ...]:
    """The permutations of a group in lexical order: all (S), or the even ones (A)."""
    found = permutations(range(int(group[1])))
    return tuple(p for p in found if group[0] == "S" or _even(p))


def _even(permutation: tuple[int, ...]) -> bool:
    pairs = [(a, b) for b in range(len(permutation)) for a in range(b)]
    return sum(permutation[a] > permutation[b] for a, b in pairs) % 2 == 0


@cache
def table(group: Group) -> tuple[tuple[int, ...], ...]:
    """``table[p][q]``: the number of "first p, then q", i ↦ q[p[i]]."""
    number = {p: place for place, p in enumerate(elements(group))}
    return tuple(
        tuple(number[tuple(q[i] for i in p)] for q in elements(group)) for p in elements(group)
    )


@register_probe
class Permutations(StateTracking):
    """Symbols are permutations of 3 to 5 things; to be found at each place: all so far, one after
    the other.

    S5 and A5 (60 of them) are not solvable, and their word problem is complete for NC¹: no model
    of fixed depth that computes all places at once is known to solve it, whatever its width. S3
    and S4 are solvable. Blind answers are right once in 6 (S3), 24 (S4), 120 (S5) or 60 (A5).
    """

    levels: ClassVar[dict[str, dict[str, Any]]] = {
        "medium": {"group": "A5"},
        "hard": {"group": "S5", "length": 32},
    }

    type: Literal["permutations"] = "permutations"
    """The task."""
    group: Group = "S3"
    """All permutations of 3, 4 or 5 things (S), or the even ones of 5 (A5)."""

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple("".join(str(thing + 1) for thing in p) for p in elements(self.group))

    @property
    def order(self) -> int:
        return len(elements(self.group))

    def product(self, before: int, element: int) -> int:
        return table(self.group)[before][element]
