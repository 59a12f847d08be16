"""The contrasts of a design: which points are held against which. Formulas in ``ablate.md``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from windtunnel.study.design import Design, Point

Block = tuple[tuple[Point, ...], tuple[Point, ...]]
"""Points whose losses are added, and points whose losses are taken away."""
Role = Literal["main", "alone", "left_out", "all", "interaction"]
"""main: of a level, averaged over the other factors. alone: of one change to the file. left_out: of
taking one back from all changes. all: of all changes together. interaction: difference of
differences."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Losses of some points minus those of others, averaged over blocks."""

    role: Role
    name: str
    factors: tuple[str, ...]
    levels: tuple[str, ...]
    against: tuple[str, ...]
    blocks: tuple[Block, ...]


def effect_pairs(design: Design) -> list[tuple[str, list[tuple[Point, Point]]]]:
    """Each effect's name, with the points that are held against each other."""
    return [
        (contrast.name, [(plus, minus) for (plus,), (minus,) in contrast.blocks])
        for contrast in effect_contrasts(design)
    ]


def effect_contrasts(design: Design) -> list[Contrast]:
    if design.kind == "grid":
        return [c for place in range(len(design.factors)) for c in _main_effects(design, place)]
    found = []
    if design.kind in ("one", "both"):
        found += [
            _single(design, "alone", place, point, design.baseline)
            for point in design.points
            for place in [_only_change(point)]
            if place is not None
        ]
    if design.kind in ("both", "leave_one_out"):
        full = design.changed
        for place in range(len(design.factors)):
            point = (*full[:place], 0, *full[place + 1 :])
            if point in design.points and full in design.points:
                found.append(_single(design, "left_out", place, point, full))
    if design.kind == "both" and design.changed in design.points:
        block = ((design.changed,), (design.baseline,))
        found.append(
            Contrast(
                role="all", name="all changes against the file", factors=(), levels=(), against=(),
                blocks=(block,),
            )
        )  # fmt: skip
    return found


def levels_without_effect(design: Design) -> list[str]:
    """Levels of which no effect can be told, since no valid point has them where another valid one
    differs from it in that alone: factor and level, in words."""
    told = {(c.factors, c.levels) for c in effect_contrasts(design)}
    found = []
    for factor, own in zip(design.factors, design.baseline, strict=True):
        others = [level for index, level in enumerate(factor.levels) if index != own]
        if design.kind == "leave_one_out":
            others = [factor.levels[own]]  # it is the change back that has an effect
        found += [
            f"{factor.name}: {level.label}"
            for level in others
            if ((factor.name,), (level.label,)) not in told
        ]
    return found


def _only_change(point: Point) -> int | None:
    changed = [place for place, index in enumerate(point) if index]
    return changed[0] if len(changed) == 1 else None


def _single(design: Design, role: Role, place: int, point: Point, base: Point) -> Contrast:
    factor = design.factors[place]
    level, against = factor.levels[point[place]].label, factor.levels[base[place]].label
    name = f"{factor.name}: {level} against {against}"
    if role == "left_out":
        name = f"{factor.name}: back to {level}, all else changed"
    return Contrast(
        role=role, name=name, factors=(factor.name,), levels=(level,), against=(against,),
        blocks=(((point,), (base,)),),
    )  # fmt: skip


def _main_effects(design: Design, place: int) -> list[Contrast]:
    """Each level against the baseline's, at every setting of the other factors."""
    factor, known = design.factors[place], set(design.points)
    own = design.baseline[place]
    found = []
    for index, level in enumerate(factor.levels):
        pairs = [
            ((point,), (_at(point, {place: own}),)) for point in design.points
            if point[place] == index and _at(point, {place: own}) in known
        ]  # fmt: skip
        if index != own and pairs:
            against = factor.levels[own].label
            found.append(
                Contrast(
                    role="main", name=f"{factor.name}: {level.label} against {against}",
                    factors=(factor.name,), levels=(level.label,), against=(against,),
                    blocks=tuple(pairs),
                )
            )  # fmt: skip
    return found


def _at(point: Point, levels: Mapping[int, int]) -> Point:
    return tuple(levels.get(place, index) for place, index in enumerate(point))


def interaction_contrasts(design: Design) -> list[Contrast]:
    places = range(len(design.factors))
    if design.kind == "grid":
        pairs = itertools.combinations(places, 2)
        return [c for first, second in pairs for c in _pair(design, first, second)]
    if design.kind == "both":
        return [c for place in places for c in _with_the_rest(design, place)]
    return []


def _pair(design: Design, first: int, second: int) -> list[Contrast]:
    """y(both) − y(first alone) − y(second alone) + y(neither), at every setting of the others."""
    factors, known = design.factors, set(design.points)
    own = {first: design.baseline[first], second: design.baseline[second]}
    found = []
    changes = itertools.product(
        range(len(factors[first].levels)), range(len(factors[second].levels))
    )
    for i, j in changes:
        if i == own[first] or j == own[second]:
            continue
        blocks = []
        for point in design.points:
            if (point[first], point[second]) != (i, j):
                continue
            only_first, only_second = (_at(point, {k: own[k]}) for k in (second, first))
            neither = _at(point, own)
            if {only_first, only_second, neither} <= known:
                blocks.append(((point, neither), (only_first, only_second)))
        if blocks:
            found.append(_interaction(design, (first, second), (i, j), own, tuple(blocks)))
    return found


def _interaction(
    design: Design,
    places: tuple[int, int],
    indices: tuple[int, int],
    own: Mapping[int, int],
    blocks: tuple[Block, ...],
) -> Contrast:
    factors = [design.factors[place] for place in places]
    levels = tuple(f.levels[index].label for f, index in zip(factors, indices, strict=True))
    against = tuple(f.levels[own[p]].label for f, p in zip(factors, places, strict=True))
    names = [f"{f.name} {level}" for f, level in zip(factors, levels, strict=True)]
    return Contrast(
        role="interaction", name=" × ".join(names), factors=tuple(f.name for f in factors),
        levels=levels, against=against, blocks=blocks,
    )  # fmt: skip


def _with_the_rest(design: Design, place: int) -> list[Contrast]:
    """What a change does beside all others, minus what it does alone."""
    full, base, factor = design.changed, design.baseline, design.factors[place]
    alone, rest = _at(base, {place: 1}), _at(full, {place: 0})
    if len(design.factors) == 2 and place == 1:
        return []  # the same contrast as the first one's
    if not {full, base, alone, rest} <= set(design.points):
        return []
    others = "all others" if len(design.factors) > 2 else design.factors[1].name
    return [
        Contrast(
            role="interaction", name=f"{factor.name} {factor.levels[1].label} × {others}",
            factors=(factor.name,), levels=(factor.levels[1].label,),
            against=(factor.levels[0].label,), blocks=(((full, base), (alone, rest)),),
        )
    ]  # fmt: skip
