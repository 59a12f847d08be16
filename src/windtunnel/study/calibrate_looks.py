"""Error rates, power and seeds of comparisons until decided, by simulation.

``python -m windtunnel.study.calibrate looks`` prints the tables of ``docs/design/statistics.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from windtunnel.study.sequential import Looks
from windtunnel.study.statistics import (
    ALPHA,
    Difference,
    Floats,
    detection_probability,
    two_sided_p,
)

Flags: TypeAlias = NDArray[np.bool_]

NOISES = ("normal", "t of 5 df", "t of 3 df", "skewed")
"""Of a run's loss; all with standard deviation 1. Skewed: a gamma distribution of shape 4."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Simulated studies: one base and some arms, all of one true difference to it."""

    looks: Looks
    arms: int = 1
    effect: float = 0.0
    """The true difference, in standard deviations of a same-seed difference."""
    margin: float | None = None
    """In the same unit."""
    noise: str = "normal"
    r: float = 0.0
    """Correlation of an arm with the base within a seed."""
    ratio: float = 1.0
    """Of the arms' standard deviation to the base's."""


@dataclass(frozen=True)
class Ended:
    """How simulated studies ended; each (trials, arms)."""

    differs: Flags
    equivalent: Flags
    seeds: NDArray[np.int64]


def draw(trials: int, seeds: int, noise: str, generator: np.random.Generator) -> Floats:
    """Noise of mean 0 and standard deviation 1, (trials, seeds)."""
    size = (trials, seeds)
    if noise == "normal":
        return generator.standard_normal(size)
    if noise == "skewed":
        return (generator.gamma(4.0, 1.0, size) - 4) / 2
    df = int(noise.split()[2])
    return generator.standard_t(df, size) / math.sqrt(df / (df - 2))


def simulate(setting: Setting, trials: int, generator: np.random.Generator) -> Ended:
    """Studies in which every arm gets seeds until it is decided, as ``compare`` gives them."""
    looks, shape = setting.looks, (trials, setting.arms)
    base = draw(trials, looks.last, setting.noise, generator)
    spread = math.sqrt(1 + setting.ratio**2 - 2 * setting.r * setting.ratio)
    differences = np.empty((*shape, looks.last))
    for arm in range(setting.arms):
        own = draw(trials, looks.last, setting.noise, generator)
        noise = setting.ratio * (setting.r * base + math.sqrt(1 - setting.r**2) * own) - base
        differences[:, arm] = noise / spread + setting.effect
    p, p_equal = np.ones(shape), np.ones(shape)
    differs, equivalent = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    seeds = np.full(shape, looks.first)
    for n in range(looks.first, looks.last + 1):
        going = ~(differs | equivalent)  # the others keep what was found at their last look
        found, equal = _p_values(differences[..., :n], looks, setting.margin)
        p, p_equal = np.where(going, found, p), np.where(going, equal, p_equal)
        seeds = np.where(going, n, seeds)
        differs, equivalent = holm_all(p) < ALPHA, holm_all(p_equal) < ALPHA
    return Ended(differs & ~equivalent, equivalent, seeds)


def _p_values(differences: Floats, looks: Looks, margin: float | None) -> tuple[Floats, Floats]:
    """p of a difference and of equivalence after n seeds, allowing for the looks."""
    n = differences.shape[-1]
    mean, error = differences.mean(-1), differences.std(-1, ddof=1) / math.sqrt(n)

    def looked(distance: Floats) -> Floats:
        return looks.adjusted_all(two_sided_p(Difference(distance, error, n - 1.0)), n)

    if margin is None:
        return looked(mean), np.ones_like(mean)
    room = margin - np.abs(mean)
    return looked(mean), np.where(room > 0, looked(room), 1.0)


def holm_all(p_values: Floats) -> Floats:
    """Holm's adjusted p-values within each row."""
    order = np.argsort(p_values, axis=-1)
    m = p_values.shape[-1]
    scaled = np.take_along_axis(p_values, order, -1) * np.arange(m, 0, -1)
    reached = np.minimum(np.maximum.accumulate(scaled, axis=-1), 1.0)
    adjusted = np.empty_like(p_values)
    np.put_along_axis(adjusted, order, reached, -1)
    return adjusted


def rate_interval(hits: int, trials: int, level: float = ALPHA) -> tuple[float, float]:
    """Clopper and Pearson's interval of a probability."""
    from scipy.stats import beta

    low = float(beta.ppf(level / 2, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - level / 2, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


def _rate(hits: Flags) -> str:
    low, high = rate_interval(int(hits.sum()), hits.size)
    return f"{100 * hits.mean():.1f}% [{100 * low:.1f}, {100 * high:.1f}]"


NULLS = (
    *((arms, "normal", r, ratio) for arms in (1, 3, 11) for r, ratio in ((0.0, 1.0), (0.9, 1.0))),
    (1, "normal", 0.5, 3.0), (3, "normal", 0.5, 3.0),
    *((arms, noise, 0.5, 1.0) for noise in NOISES[1:] for arms in (1, 3)),
    (1, "skewed", 0.0, 3.0), (3, "skewed", 0.0, 3.0),
)  # fmt: skip
"""Arms, noise, correlation and ratio of spreads."""


def false_verdicts(trials: int, generator: np.random.Generator) -> list[str]:
    """Studies without any true difference: how many have a verdict in any arm."""
    designs = (Looks(10, 10), Looks(2, 5), Looks(3, 10), Looks(3, 20))
    lines = head("arms", "noise", "r", "spreads", *map(looks_words, designs))
    for arms, noise, r, ratio in NULLS:
        cells = []
        for looks in designs:
            setting = Setting(looks=looks, arms=arms, noise=noise, r=r, ratio=ratio)
            ended = simulate(setting, trials, generator)
            cells.append(_rate(np.asarray(ended.differs.any(-1))))
        lines.append(f"| {arms} | {noise} | {r:g} | 1 : {ratio:g} | {' | '.join(cells)} |")
    return lines


def power(trials: int, generator: np.random.Generator) -> list[str]:
    """What is seen and what it takes, beside designs with fixed seeds."""
    lines = head(
        "looks", "true difference", "power", "seeds on average", "power of as many fixed seeds",
        "power of the most seeds, fixed",
    )  # fmt: skip
    for looks in (Looks(3, 5), Looks(3, 10), Looks(3, 20)):
        for effect in (0.5, 1.0, 1.5, 2.0, 3.0, 5.0):
            ended = simulate(Setting(looks=looks, effect=effect), trials, generator)
            mean = float(ended.seeds.mean())
            lines.append(
                f"| {looks_words(looks)} | {effect:g} σ | {whole(ended.differs.mean())} "
                f"| {mean:.1f} | {whole(fixed_power(round(mean), effect))} | "
                f"{whole(fixed_power(looks.last, effect))} |"
            )
    return lines


def fixed_power(n: int, effect: float) -> float:
    """Of a single look after n seeds."""
    return detection_probability(effect * math.sqrt(n), n - 1)


def equivalences(trials: int, generator: np.random.Generator) -> list[str]:
    """How often arms are called equivalent."""
    parts = {0.0: "none", 0.5: "half the margin", 1.0: "the margin: any arm, falsely"}
    lines = head("arms", "seeds", "margin", *(f"difference {words}" for words in parts.values()))
    for arms, looks in ((1, Looks(3, 10)), (3, Looks(3, 10)), (1, Looks(10, 10))):
        for margin in (1.0, 2.0, 4.0):
            cells = []
            for part in parts:
                setting = Setting(looks=looks, arms=arms, effect=part * margin, margin=margin)
                ended = simulate(setting, trials, generator)
                falsely = part == 1.0
                hits = np.asarray(ended.equivalent.any(-1)) if falsely else ended.equivalent
                cells.append(f"{_rate(hits)}, {ended.seeds.mean():.1f} seeds")
            lines.append(f"| {arms} | {looks_words(looks)} | {margin:g} σ | {' | '.join(cells)} |")
    return lines


def shapes(trials: int, generator: np.random.Generator) -> list[str]:
    """Power and seeds of other boundaries: the level of look n in proportion to n to the shape."""
    effects = (1.0, 1.5, 2.0, 3.0, 5.0)
    lines = head("looks", "shape", *(f"{effect:g} σ" for effect in effects))
    for first, last in ((2, 5), (3, 5), (2, 10), (3, 10), (3, 20)):
        for shape in (0.0, 1.0, 2.0, 3.0):
            looks = Looks(first, last, shape)
            cells = []
            for effect in effects:
                ended = simulate(Setting(looks=looks, effect=effect), trials, generator)
                cells.append(f"{whole(ended.differs.mean())}, {ended.seeds.mean():.1f}")
            lines.append(f"| {first} to {last} | {shape:g} | {' | '.join(cells)} |")
    return lines


def looks_words(looks: Looks) -> str:
    if looks.first == looks.last:
        return f"{looks.last} fixed"
    return f"{looks.first} to {looks.last}"


def whole(part: float) -> str:
    return f"{100 * part:.0f}%"


def head(*titles: str) -> list[str]:
    return ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]


def tables(trials: int, seed: int) -> list[str]:
    """All of them, as lines of Markdown."""
    generator = np.random.default_rng(seed)
    parts: Sequence[tuple[str, list[str]]] = (
        ("Any false verdict where all arms are equal, with its 95% interval:",
         false_verdicts(trials, generator)),
        ("Power, in standard deviations of a same-seed difference:", power(trials, generator)),
        ("Called equivalent, by the true difference, and the seeds of an arm:",
         equivalences(trials, generator)),
        ("Power and mean seeds, by the shape of the boundary:", shapes(trials, generator)),
    )  # fmt: skip
    return [line for title, lines in parts for line in ("", title, "", *lines)][1:]
