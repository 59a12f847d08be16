"""Splits that cannot leak: a structure lies on one side, whatever its dropout or its family's name.

Which side is decided by the structure and the seed alone, so it is the same in every space.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from windtunnel.data.order import keyed_number
from windtunnel.errors import UsageError
from windtunnel.spaces.families import twins_of
from windtunnel.spaces.space import Space

_WORD = 2**64


def by_structure(space: Space, shares: Mapping[str, float], seed: int = 0) -> dict[str, Space]:
    """Parts of about these shares of the structures, which sum to 1, each in the space's order.

    Members that differ in dropout alone, and equal sizes of twin families (gpt_encoder and
    mini_gpt compute the same with the same tensors), are never apart.

    Raises:
        UsageError: shares that are not positive or do not sum to 1.
    """
    whole = abs(sum(shares.values()) - 1) <= 1e-9  # false too where one is no number
    if not (shares and whole and min(shares.values()) > 0):
        raise UsageError(f"shares must be positive and sum to 1, not {dict(shares)}")
    draws = _draws(space, seed)
    edges = np.cumsum(list(shares.values()))
    edges[-1] = 1.0
    sides = np.searchsorted(edges, draws, side="right")
    return {name: space[sides == number] for number, name in enumerate(shares)}


def _draws(space: Space, seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each member's structure."""
    key = np.uint64(keyed_number("split", seed) % _WORD)
    value = space.structures().astype(np.uint64) ^ key  # an empty column has no type of its own
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    value = value ^ (value >> np.uint64(31))
    return np.asarray((value >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def protocol(
    space: Space,
    *,
    d_model: int,
    n_layer: int,
    left_out: Collection[str] = (),
    n_head: int | None = None,
    ff_ratio: int | None = None,
    held_out: float = 0.1,
    seed: int = 0,
) -> dict[str, Space]:
    """The parts of a fair trial of a hypernetwork.

    ``train`` and ``in_distribution`` (a share ``held_out`` of the structures) have widths and
    depths up to ``d_model`` and ``n_layer``, and heads and feed-forward ratios up to ``n_head`` and
    ``ff_ratio`` where those are given. ``wide`` has at least twice the width at a known depth,
    ``deep`` at least twice the depth at a known width, ``left_out`` the sizes of training in
    families that it does not see, ``large`` known widths and depths with more heads or a wider
    feed-forward. What lies between is in no part.

    Raises:
        UsageError: a family is left out whose twin, or a structure of which, is not; or a size fits
            no member.
    """
    known = space.families()
    for family in left_out:
        if family not in known:
            raise UsageError(f"left_out: {space.name} has no family {family!r}")
        twins = (twins_of(family) & known.keys()) - set(left_out)
        if twins:
            raise UsageError(
                f"left_out: {family} has the same tensors as {', '.join(sorted(twins))}: leave "
                "out both"
            )
    seen, never = _families(known, left_out)
    usual = [f"{name} <= {most}" for name, most in (("n_head", n_head), ("ff_ratio", ff_ratio))
             if most is not None]  # fmt: skip
    recurrent = "not n_head >= 0"  # a family without heads is never too large in them
    small = " and ".join(usual)
    inside = f"(({small}) or {recurrent})" if usual else "true == true"
    narrow, shallow = f"d_model <= {d_model}", f"n_layer <= {n_layer}"
    core = f"{narrow} and {shallow} and {inside}"
    trained = space.where(f"{core} and {seen}")
    sides = by_structure(trained, {"train": 1 - held_out, "in_distribution": held_out}, seed)
    wide = f"d_model >= {2 * d_model} and {shallow} and {inside} and {seen}"
    deep = f"{narrow} and n_layer >= {2 * n_layer} and {inside} and {seen}"
    parts = {**sides, "wide": space.where(wide), "deep": space.where(deep)}
    if left_out:
        parts["left_out"] = space.where(f"{core} and {never}")
        _check_unseen(parts["left_out"], trained)
    if usual:
        large = f"{narrow} and {shallow} and {seen} and not {inside}"
        parts["large"] = space.where(large)
    return parts


def _check_unseen(left_out: Space, trained: Space) -> None:
    """Raises UsageError for a structure that a family of another name brings into training: parts
    of a space that edit run files have twins that no family tells of."""
    seen = np.isin(trained.structures(), left_out.structures())
    if seen.any():
        first = trained[int(np.flatnonzero(seen)[0])]
        raise UsageError(
            f"left_out: {int(seen.sum()):,} members that are trained on have the same structure as "
            f"one that is left out, such as {first.name}: leave out {first.family} too, or take "
            "them out of the space"
        )


def _families(known: Mapping[str, int], left_out: Collection[str]) -> tuple[str, str]:
    """Conditions for the families that are seen, and for those that are not."""
    if not left_out:
        return "true == true", "true == false"
    listed = ", ".join(repr(name) for name in left_out)
    if set(left_out) >= set(known):
        raise UsageError("left_out: some family must be trained on")
    return f"family not in [{listed}]", f"family in [{listed}]"
