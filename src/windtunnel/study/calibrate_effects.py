"""Error rates, power and runs of ablations until decided, by simulation.

``python -m windtunnel.study.calibrate_effects`` prints the tables of ``docs/design/statistics.md``.
The contrasts are those that ``ablate`` tests; noise differs from point to point, and what the
points of a seed share cancels in every contrast.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from windtunnel.study.calibrate_looks import (
    Flags,
    draw,
    head,
    holm_all,
    looks_words,
    rate_interval,
    whole,
)
from windtunnel.study.contrasts import Contrast, effect_contrasts, interaction_contrasts
from windtunnel.study.design import Design, Kind, Point
from windtunnel.study.sequential import Looks
from windtunnel.study.statistics import ALPHA, Difference, Floats, two_sided_p
from windtunnel.study.vary import Factor, Level

FAMILIES = ("effects", "interactions")
SEEDS = (Looks(10, 10), Looks(3, 10), Looks(3, 20))
Shape = tuple[Kind, tuple[int, ...]]
"""A kind of design, and the levels of each factor."""
SHAPES: tuple[Shape, ...] = (
    ("one", (2,)), ("one", (2, 2, 2)), ("one", (2,) * 8), ("leave_one_out", (2, 2, 2)),
    ("both", (2, 2, 2)), ("grid", (2, 2)), ("grid", (2, 2, 2)), ("grid", (3, 3)),
)  # fmt: skip
TRUTHS = ("none", "one factor", "one interaction", "every factor")
"""What there is: nothing; the first factor's second level; that of the first two factors together,
beyond nothing of either; every factor's second level, one added to the other."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Simulated ablations of one design."""

    shape: Shape
    looks: Looks
    truth: str = "none"
    effect: float = 3.0
    """In standard deviations of the difference of two runs of one seed at the first point."""
    noise: str = "normal"
    ratio: float = 1.0
    """Of the last point's standard deviation to the first one's; evenly between."""
    margin: float | None = None
    """In the unit of ``effect``."""


@dataclass(frozen=True)
class Ended:
    """How simulated ablations ended."""

    decided: Flags
    """(trials, contrasts): by the test, in the direction that was found."""
    false: Flags
    """The same where nothing is there, or the other direction."""
    true: Flags
    """(contrasts,): where something is."""
    runs: Floats
    """(trials,), of all points."""
    effects: int
    """The first so many contrasts are effects, the others interactions."""
    equivalent: Flags
    """(trials, contrasts): found to be less than the margin."""
    reaches: Flags
    """(contrasts,): where the true difference is the margin or more."""


def plain_design(shape: Shape) -> Design:
    """A design without runs."""
    kind, sizes = shape
    factors = tuple(
        Factor(name, ((name,),), tuple(Level(f"{name}{i}", i, ()) for i in range(size)))
        for name, size in zip("abcdefgh", sizes, strict=False)
    )
    least = {"grid": 0, "one": 0, "both": 0, "leave_one_out": len(sizes) - 1}[kind]

    def belongs(point: Point) -> bool:
        changed = sum(map(bool, point))
        return kind == "grid" or (least <= changed <= 1) or (
            kind != "one" and changed >= len(sizes) - 1
        )  # fmt: skip

    points = [p for p in itertools.product(*map(range, sizes)) if belongs(p)]
    if kind == "leave_one_out":
        points.reverse()  # all changes together are the reference
    return Design(kind, factors, (0,) * len(sizes), tuple(points), ())


def weights(contrasts: Sequence[Contrast], points: Sequence[Point]) -> Floats:
    """(contrasts, points): by what each point's loss enters each contrast."""
    found = np.zeros((len(contrasts), len(points)))
    for row, contrast in zip(found, contrasts, strict=True):
        for plus, minus in contrast.blocks:
            for signed, side in ((1.0, plus), (-1.0, minus)):
                for point in side:
                    row[points.index(point)] += signed / len(contrast.blocks)
    return found


def losses_of(
    setting: Setting, points: Sequence[Point], trials: int, generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """Losses (trials, points, seeds) and what is true (points,)."""
    seeds, number = setting.looks.last, len(points)
    spreads = np.linspace(1.0, setting.ratio, number)
    noise = draw(trials, number * seeds, setting.noise, generator).reshape(trials, number, seeds)
    truth = np.array([_amount(setting.truth, point) for point in points])
    truth = truth * (setting.effect * sqrt(2))
    return noise * spreads[:, None] + truth[:, None], truth


def _amount(truth: str, point: Point) -> float:
    """What is there at a point, in units of the setting's effect."""
    second = [level == 1 for level in point]
    return {
        "none": 0.0,
        "one factor": float(second[0]),
        "one interaction": float(all(second[:2])),
        "every factor": float(sum(second)),
    }[truth]


def simulate(setting: Setting, trials: int, generator: np.random.Generator) -> Ended:
    """Ablations in which seeds are added as ``ablate --until-decided`` adds them."""
    design = plain_design(setting.shape)
    effects, interactions = effect_contrasts(design), interaction_contrasts(design)
    by = weights([*effects, *interactions], design.points)
    losses, truth = losses_of(setting, design.points, trials, generator)
    values, uses = np.einsum("cp,tps->tcs", by, losses), by != 0
    looks, families = setting.looks, (slice(0, len(effects)), slice(len(effects), None))
    margin = None if setting.margin is None else setting.margin * sqrt(2)
    tests = _Tests(values.shape[:2], families)
    runs = np.zeros(trials)
    for n in range(looks.first, looks.last + 1):
        needed = (~tests.closed).astype(np.float64) @ uses > 0  # (trials, points)
        needed[:, 0] |= needed.any(-1)
        first = n == looks.first
        runs += n * len(design.points) if first else needed.sum(-1)
        # A contrast has this seed where all of its points have.
        goes = first | ((~needed).astype(np.float64) @ uses.T == 0)
        tests.see(goes, *_p_values(values[..., :n], looks, margin))
    expected = np.where(np.abs(by @ truth) < 1e-9, 0.0, by @ truth)
    false = tests.differ & (np.sign(tests.means) != np.sign(expected))
    reaches = np.abs(expected) >= (np.inf if margin is None else margin - 1e-9)
    return Ended(tests.differ, false, expected != 0, runs, len(effects), tests.equivalent, reaches)


class _Tests:
    """The p-values of every contrast at its look, and what Holm's correction says of them."""

    def __init__(self, shape: tuple[int, ...], families: Sequence[slice]) -> None:
        self._families = families
        self._p, self._p_equal, self.means = np.ones(shape), np.ones(shape), np.zeros(shape)
        self.differ, self.equivalent = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)

    @property
    def closed(self) -> Flags:
        return self.differ | self.equivalent

    def see(self, goes: Flags, p: Floats, p_equal: Floats, means: Floats) -> None:
        """What a further seed says, where there is one; what is decided stays so."""
        moves = goes & ~self.differ
        self._p, self.means = np.where(moves, p, self._p), np.where(moves, means, self.means)
        self._p_equal = np.where(goes & ~self.equivalent, p_equal, self._p_equal)
        self.differ, self.equivalent = self._decided(self._p), self._decided(self._p_equal)

    def _decided(self, p: Floats) -> Flags:
        return np.concatenate([holm_all(p[:, one]) < ALPHA for one in self._families], axis=-1)


def _p_values(values: Floats, looks: Looks, margin: float | None) -> tuple[Floats, Floats, Floats]:
    """p of every contrast's difference and of its equivalence after n seeds, allowing for the
    looks, and its mean."""
    n = values.shape[-1]
    mean, error = values.mean(-1), values.std(-1, ddof=1) / sqrt(n)

    def looked(distance: Floats) -> Floats:
        return looks.adjusted_all(two_sided_p(Difference(distance, error, n - 1.0)), n)

    if margin is None:
        return looked(mean), np.ones_like(mean), mean
    room = margin - np.abs(mean)
    return looked(mean), np.where(room > 0, looked(room), 1.0), mean


def _rate(hits: Flags) -> str:
    low, high = rate_interval(int(hits.sum()), hits.size)
    return f"{100 * hits.mean():.1f}% [{100 * low:.1f}, {100 * high:.1f}]"


def shape_words(shape: Shape) -> str:
    """Such as ``grid of 2 x 2``, ``both, 3 changes``."""
    kind, sizes = shape
    if kind == "grid":
        return f"grid of {' × '.join(map(str, sizes))}"
    return f"{kind.replace('_', '-')}, {len(sizes)} change{'s' * (len(sizes) > 1)}"


FALSE = (
    *((shape, "none", "normal", 1.0) for shape in SHAPES),
    *((shape, "one factor", "normal", 1.0) for shape in SHAPES[1:]),
    *((shape, "one interaction", "normal", 1.0) for shape in (SHAPES[4], *SHAPES[6:])),
    *((SHAPES[i], truth, "normal", 3.0) for i in (1, 4, 6) for truth in TRUTHS[:2]),
    *((SHAPES[i], "none", noise, 1.0) for noise in ("t of 3 df", "skewed") for i in (1, 6)),
)  # fmt: skip
"""Design, what is true, noise, ratio of spreads."""


def false_verdicts(trials: int, generator: np.random.Generator) -> list[str]:
    """Studies with any false verdict among the effects, and among the interactions."""
    columns = [f"{looks_words(looks)}: {what}" for looks in SEEDS for what in FAMILIES]
    lines = head("design", "true", "noise", "spreads", *columns)
    for shape, truth, noise, ratio in FALSE:
        cells = []
        for looks in SEEDS:
            setting = Setting(shape=shape, looks=looks, truth=truth, noise=noise, ratio=ratio)
            ended = simulate(setting, trials, generator)
            parts = ended.false[:, : ended.effects], ended.false[:, ended.effects :]
            cells += [_rate(np.asarray(one.any(-1))) if one.size else "–" for one in parts]
        words = f"| {shape_words(shape)} | {truth} | {noise} | 1 : {ratio:g}"
        lines.append(f"{words} | {' | '.join(cells)} |")
    return lines


def savings(trials: int, generator: np.random.Generator) -> list[str]:
    """What is found of what is there, and what it takes, beside ten seeds fixed."""
    lines = head(
        "design", "true", "found", "found by 10 fixed", "all decided", "runs on average",
        "of at most",
    )  # fmt: skip
    cases: tuple[tuple[Shape, tuple[float, ...]], ...] = (
        (("one", (2,)), (1.0, 2.0, 4.0)), (("one", (2, 2, 2)), (2.0, 4.0)),
        (("both", (2, 2)), (2.0,)), (("grid", (2, 2)), (1.0, 2.0)),
        (("grid", (2, 2, 2)), (1.0, 2.0)),
    )  # fmt: skip
    for shape, sizes in cases:
        kinds = ("one factor",) if shape[0] == "one" else TRUTHS[1:3]
        for truth, size in itertools.product(kinds, sizes):
            made = [
                simulate(
                    Setting(shape=shape, looks=looks, truth=truth, effect=size), trials, generator
                )
                for looks in (Looks(3, 10), Looks(10, 10))
            ]
            until, fixed = made
            found = [whole((one.decided & ~one.false)[:, one.true].mean()) for one in made]
            lines.append(
                f"| {shape_words(shape)} | {truth}, {size:g} σ | {' | '.join(found)} | "
                f"{whole(until.decided.all(-1).mean())} | {until.runs.mean():.1f} | "
                f"{fixed.runs[0]:.0f} |"
            )
    return lines


def all_there(trials: int, generator: np.random.Generator) -> list[str]:
    """Runs where every change does something: the arms stop one by one."""
    lines = head("changes", "true difference of each", "found", "runs", "of at most")
    for changes, size in itertools.product((1, 3, 8), (1.0, 2.0, 4.0)):
        values = generator.standard_normal((trials, changes + 1, 10))
        runs, found = _one_by_one(values, size * sqrt(2), Looks(3, 10))
        lines.append(
            f"| {changes} | {size:g} σ | {whole(found)} | {runs:.1f} | {10 * (changes + 1)} |"
        )
    return lines


AT_MARGIN: tuple[tuple[Shape, str, float, str, float], ...] = (
    *((SHAPES[i], "one factor", 2.0, "normal", 1.0) for i in (0, 1, 3, 4, 5, 6, 7)),
    *((SHAPES[i], "every factor", 2.0, "normal", 1.0) for i in (1, 3, 4, 5, 6, 7)),
    *((SHAPES[i], "one interaction", 2.0, "normal", 1.0) for i in (4, 5, 6, 7)),
    *((SHAPES[i], "every factor", margin, "normal", 1.0) for i in (1, 6) for margin in (1.0, 4.0)),
    *((SHAPES[i], "every factor", 2.0, "normal", 3.0) for i in (1, 6)),
    *((SHAPES[i], "every factor", 2.0, "skewed", 1.0) for i in (1, 6)),
)
"""Design, what is as large as the margin, the margin, noise, ratio of spreads."""


def false_equivalents(trials: int, generator: np.random.Generator) -> list[str]:
    """Studies in which anything that reaches the margin is called less: where it is exactly the
    margin, which is the worst there can be, and (last) half as much again, the larger of all."""
    columns = [f"{looks_words(looks)}: {what}" for looks in SEEDS[:2] for what in FAMILIES]
    lines = head("design", "the margin is", "margin", "noise", "spreads", *columns, "1.5 margins")
    for shape, truth, margin, noise, ratio in AT_MARGIN:
        cells: list[str] = []
        beyond = 0.0
        for looks, part in itertools.product(SEEDS[:2], (1.0, 1.5)):
            setting = Setting(shape=shape, looks=looks, truth=truth, effect=part * margin,
                              noise=noise, ratio=ratio, margin=margin)  # fmt: skip
            ended = simulate(setting, trials, generator)
            falsely = ended.equivalent & ended.reaches
            families = (slice(0, ended.effects), slice(ended.effects, None))
            found = [falsely[:, one].any(-1) for one in families]
            if part > 1:
                beyond = max(beyond, *(float(one.mean()) for one in found))
                continue
            there = [bool(ended.reaches[one].any()) for one in families]
            cells += [_rate(np.asarray(one)) if any_there else "–"
                      for one, any_there in zip(found, there, strict=True)]  # fmt: skip
        words = f"| {shape_words(shape)} | {truth} | {margin:g} σ | {noise} | 1 : {ratio:g}"
        lines.append(f"{words} | {' | '.join(cells)} | {100 * beyond:.1f}% |")
    return lines


def margin_savings(trials: int, generator: np.random.Generator) -> list[str]:
    """What a margin saves where nothing is there, or one factor of twice the margin."""
    lines = head(
        "design", "true", "margin", "all decided", "without a margin", "runs", "without a margin",
        "of at most",
    )  # fmt: skip
    for i, margin, truth in itertools.product((1, 2, 4, 5, 6, 7), (2.0, 4.0), TRUTHS[:2]):
        shape, looks = SHAPES[i], Looks(3, 10)
        made = [
            simulate(
                Setting(shape=shape, looks=looks, truth=truth, effect=2 * margin, margin=one),
                trials, generator,
            )
            for one in (margin, None)
        ]  # fmt: skip
        told = [whole((ended.decided | ended.equivalent).all(-1).mean()) for ended in made]
        runs = [f"{ended.runs.mean():.1f}" for ended in made]
        words = truth if truth == "none" else f"{truth}, {2 * margin:g} σ"
        lines.append(
            f"| {shape_words(shape)} | {words} | {margin:g} σ | {' | '.join([*told, *runs])} | "
            f"{looks.last * len(plain_design(shape).points)} |"
        )
    return lines


def _one_by_one(values: Floats, effect: float, looks: Looks) -> tuple[float, float]:
    """Mean runs and the part that is found, where each change alone has the same effect."""
    differences = values[:, 1:] - values[:, :1] + effect
    p, decided = np.ones(differences.shape[:2]), np.zeros(differences.shape[:2], np.bool_)
    runs = np.full(len(values), float(looks.first * values.shape[1]))
    for n in range(looks.first, looks.last + 1):
        if n > looks.first:
            runs += (~decided).sum(-1) + (~decided).any(-1)
        p = np.where(decided, p, _p_values(differences[..., :n], looks, None)[0])
        decided = holm_all(p) < ALPHA
    return float(runs.mean()), float(decided.mean())


def tables(trials: int, seed: int, *, margins_alone: bool = False) -> list[str]:
    """All of them, or those of margins alone, as lines of Markdown."""
    differences = (
        ("Any false verdict among the effects, among the interactions:", false_verdicts),
        ("What is found, 3 to 10 seeds:", savings),
        ("Each change alone, all of one size, 3 to 10 seeds:", all_there),
    )
    margins = (
        ("What is as large as the margin, called less:", false_equivalents),
        ("What a margin saves, 3 to 10 seeds:", margin_savings),
    )
    lines = []
    # Generators of their own, so that the tables of margins are the same by themselves.
    for parts, numbers in ((() if margins_alone else differences, seed), (margins, [seed, 1])):
        generator = np.random.default_rng(numbers)
        for title, made in parts:
            lines += ["", title, "", *made(trials, generator)]
    return lines[1:]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m windtunnel.study.calibrate_effects", description=__doc__
    )
    parser.add_argument("--trials", type=int, default=20_000, help="simulated studies a cell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--margins", action="store_true", help="only the tables of margins")
    options = parser.parse_args(arguments)
    print("\n".join(tables(options.trials, options.seed, margins_alone=options.margins)))


if __name__ == "__main__":
    main()
