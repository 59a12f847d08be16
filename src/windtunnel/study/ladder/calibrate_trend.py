"""How often the intervals of a ladder's trend hold the truth, on ladders made from a known one.

    python -m windtunnel.study.ladder.calibrate_trend [--ladders 20000] [--seed 0]

Same-seed differences at sizes from 150k, each 2.2 times the one before, and at three budgets:
−0.3 nats, −0.05 more per tenfold parameters, +0.02 per tenfold tokens; one run of noise has a
standard deviation of 0.02, 70% of its variance shared by the budgets of a trunk. Settings add what
the rule says it stands: a shift that one seed gives all sizes, and sizes of unlike noise; and what
it can only allow for: means of sizes that scatter about the line. The last column counts ladders
whose lead is said to hold although ten times the size takes a quarter of it away.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from windtunnel.study.ladder.slopes import lead, size_slope, token_slope
from windtunnel.study.ladder.trend import HOLDS
from windtunnel.study.statistics import ALPHA, Difference, Floats, critical_t

NOISE, SHARED = 0.02, 0.7
LEAD, PER_SIZE, PER_TOKENS = -0.3, -0.05, 0.02
_FIRST, _APART, _BUDGETS = 1.5e5, 2.2, np.array([1e6, 2e6, 4e6])


@dataclass(frozen=True)
class Setting:
    """One kind of ladder."""

    sizes: int
    seeds: int
    shift: float = 0.0
    """Standard deviation of what one seed adds at all sizes."""
    unlike: float = 1.0
    """Noise of the smallest size over that of the largest."""
    misfit: float = 0.0
    """Standard deviation of a size's mean about the line, equal for all seeds."""

    @property
    def words(self) -> str:
        told = {
            "a shift of each seed": self.shift > 0,
            f"noise 1 : {self.unlike:g}": self.unlike != 1,
            "sizes off the line": self.misfit > 0,
        }
        return ", ".join(text for text, is_so in told.items() if is_so) or "normal"


SETTINGS = (
    *(Setting(sizes, seeds) for sizes in (3, 4, 5) for seeds in (2, 3)),
    *(Setting(3, seeds, shift=NOISE) for seeds in (2, 3)),
    *(Setting(3, seeds, unlike=3.0) for seeds in (2, 3)),
    *(Setting(4, seeds, misfit=NOISE) for seeds in (2, 3)),
)


@dataclass(frozen=True)
class Rates:
    """Parts of the ladders of which the 95% interval holds the truth."""

    lead: float
    size: float
    tokens: float
    false_holds: float
    """Parts of the ladders that say ``holds`` where the change is a quarter of the lead."""


def simulate(setting: Setting, *, ladders: int, seed: int) -> Rates:
    """Many ladders of one setting."""
    generator = np.random.default_rng((seed, setting.sizes, setting.seeds))
    params = np.asarray(_FIRST * _APART ** np.arange(setting.sizes), dtype=np.float64)
    tokens = np.broadcast_to(_BUDGETS, (setting.sizes, len(_BUDGETS)))
    x = np.log10(params) - np.log10(params).mean()
    z = np.log10(_BUDGETS) - np.log10(_BUDGETS).mean()
    noise = _noise(setting, generator, ladders)
    gaps = (LEAD + PER_SIZE * x[:, None] + PER_TOKENS * z)[..., None] + noise
    fading = (LEAD * (1 - HOLDS * x[:, None]) + PER_TOKENS * z)[..., None] + noise
    return Rates(
        _holds(lead(gaps), LEAD),
        _holds(size_slope(params, gaps).slope, PER_SIZE),
        _holds(token_slope(tokens, gaps), PER_TOKENS),
        float(_said_to_hold(lead(fading), size_slope(params, fading).slope).mean()),
    )


def _noise(setting: Setting, generator: np.random.Generator, ladders: int) -> Floats:
    """(ladders, s, b, k)."""
    s, b, k = setting.sizes, len(_BUDGETS), setting.seeds
    draw = generator.standard_normal
    runs = SHARED**0.5 * draw((ladders, s, 1, k)) + (1 - SHARED) ** 0.5 * draw((ladders, s, b, k))
    spreads = np.geomspace(setting.unlike**0.5, setting.unlike**-0.5, s)[:, None, None]
    found = NOISE * spreads * runs
    found += setting.shift * draw((ladders, 1, 1, k))
    found += setting.misfit * draw((ladders, s, 1, 1))
    return np.asarray(found)


def _reach(found: Difference) -> Floats:
    return np.asarray(critical_t(found.df, ALPHA) * found.std_error)


def _holds(found: Difference, true: float) -> float:
    return float((np.abs(found.delta - true) <= _reach(found)).mean())


def _said_to_hold(ahead: Difference, slope: Difference) -> Floats:
    """The rule of :mod:`windtunnel.study.ladder.trend`, for many ladders."""
    is_lead = np.abs(ahead.delta) > _reach(ahead)
    small = np.abs(slope.delta) + _reach(slope) < HOLDS * np.abs(ahead.delta)
    return np.asarray(is_lead & small, dtype=np.float64)


def main() -> None:
    """Prints one row for each setting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ladders", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    head = ["sizes", "seeds", "noise", "mean", "per tenfold parameters", "per tenfold tokens"]
    print(f"| {' | '.join([*head, 'falsely holds'])} |")
    print("|---" * 7 + "|")
    for setting in SETTINGS:
        rates = simulate(setting, ladders=asked.ladders, seed=asked.seed)
        told = (rates.lead, rates.size, rates.tokens, rates.false_holds)
        shown = " | ".join(f"{rate:.1%}" for rate in told)
        print(f"| {setting.sizes} | {setting.seeds} | {setting.words} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
