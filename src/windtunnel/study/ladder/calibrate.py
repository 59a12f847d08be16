"""Whether the intervals of ladders hit as often as they say, on ladders made from a known law.

    python -m windtunnel.study.ladder.calibrate [--studies 200] [--draws 300] [--seed 0]

Two architectures of one law (so every verdict about them is false) at sizes from 150k, each 2.2
times the one before, and budgets of 5, 10 and 20 tokens a parameter. The log loss of a run
scatters with a standard deviation of 0.4%, 70% of its variance shared by the budgets of one
trunk; with ``misfit`` each cell's mean besides by that much. Counted are, over all studies: the
loss at ten times the largest compute inside its interval; that difference decided although there
is none; and losses of the next size, predicted with run noise, inside theirs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from windtunnel.study.ladder.cells import Measured
from windtunnel.study.ladder.predict import band, best_at, cell_noise
from windtunnel.study.ladder.resample import Draws, Resampled, make_draws, resample
from windtunnel.study.statistics import Floats

LEVELS = (0.9, 0.95)
NOISE = 0.004
SHARED = 0.7
_FIRST, _APART, _BUDGETS = 1.5e5, 2.2, np.array([5.0, 10.0, 20.0])


@dataclass(frozen=True)
class Setting:
    """One kind of ladder."""

    sizes: int
    seeds: int
    misfit: float = 0.0


SETTINGS = (Setting(3, 2), Setting(3, 3), Setting(4, 2), Setting(4, 3), Setting(4, 3, NOISE))


def law(params: Floats, tokens: Floats) -> Floats:
    """The law of the simulation."""
    return 1.7 + 90 * params**-0.38 + 300 * tokens**-0.36


def simulated(setting: Setting, generator: np.random.Generator) -> Measured:
    """A ladder with one size more than the setting has, to be predicted."""
    params = np.asarray(_FIRST * _APART ** np.arange(setting.sizes + 1), dtype=np.float64)
    tokens = params[:, None] * _BUDGETS
    shape = (len(params), len(_BUDGETS), setting.seeds)
    trunk = generator.standard_normal((shape[0], 1, setting.seeds))
    runs = SHARED**0.5 * trunk + (1 - SHARED) ** 0.5 * generator.standard_normal(shape)
    cells = generator.standard_normal((*shape[:2], 1))
    losses = law(params[:, None], tokens)[..., None]
    grid = np.geomspace(params[0] / 2, params[-1] * 20, 60)
    return Measured(
        name="simulated",
        params=params,
        tokens=tokens,
        flops=6 * params[:, None] * tokens,
        losses=losses * np.exp(NOISE * runs + setting.misfit * cells),
        cost_params=grid,
        cost_flops=6 * grid,
    )


@dataclass
class Counts:
    """Hits of a setting, by level."""

    studies: int = 0
    absolute: Floats = None  # type: ignore[assignment]
    false: Floats = None  # type: ignore[assignment]
    held_out: Floats = None  # type: ignore[assignment]

    def rates(self) -> dict[str, list[float]]:
        return {
            "absolute": (self.absolute / (2 * self.studies)).tolist(),
            "false": (self.false / self.studies).tolist(),
            "held_out": (self.held_out / (2 * self.studies * len(_BUDGETS))).tolist(),
        }


def simulate(setting: Setting, *, studies: int, draws: int, seed: int) -> Counts:
    """Many studies of one setting."""
    counts = Counts(studies, *(np.zeros(len(LEVELS)) for _ in range(3)))
    for number in range(studies):
        generator = np.random.default_rng((seed, number))
        arms = [simulated(setting, generator) for _ in range(2)]
        shared = make_draws(number, draws, setting.sizes, setting.seeds)
        ends = [_count(arm, setting, shared, counts) for arm in arms]
        points, again = zip(*ends, strict=True)
        for place, level in enumerate(LEVELS):
            found = band(points[1] - points[0], again[1] - again[0], level)
            counts.false[place] += not found.low <= 0 <= found.high
    return counts


def _count(arm: Measured, setting: Setting, draws: Draws, counts: Counts) -> tuple[float, Floats]:
    """Adds an arm's hits; its loss at ten times the largest compute, and the resampled ones."""
    smaller = arm.first_sizes(setting.sizes)
    fitted = resample(smaller, draws)
    far = np.array([10 * smaller.flops.max()])
    point = float(best_at(fitted.law, smaller, far)[0, 0])
    again = best_at(fitted.laws, smaller, far)[:, 0]
    true = float(law(arm.cost_params, far / arm.cost_flops).min())
    bands = [band(point, again, level) for level in LEVELS]
    counts.absolute += [b.low <= true <= b.high for b in bands]
    for inside in _next_size(arm, fitted, draws, setting.seeds):
        counts.held_out += inside
    return point, again


def _next_size(arm: Measured, fitted: Resampled, draws: Draws, seeds: int) -> Iterator[list[bool]]:
    x = [np.full(len(_BUDGETS), arm.params[-1]), arm.tokens[-1]]
    noise = cell_noise(fitted, draws.generator, seeds, len(_BUDGETS))
    points, again = fitted.law(*x)[0], fitted.laws(*x) * np.exp(noise)
    for place, mean in enumerate(arm.means[-1]):
        bands = [band(points[place], again[:, place], level) for level in LEVELS]
        yield [b.low <= float(np.exp(mean)) <= b.high for b in bands]


def main() -> None:
    """Prints one row for each setting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(
        "| sizes | seeds | misfit | loss at 10×: 90% | 95% | next size: 90% | 95% | false at 5% |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for setting in SETTINGS:
        rates = simulate(setting, studies=asked.studies, draws=asked.draws, seed=asked.seed).rates()
        shown = [*rates["absolute"], *rates["held_out"], rates["false"][1]]
        cells = " | ".join(f"{rate:.0%}" if rate >= 0.1 else f"{rate:.1%}" for rate in shown)
        misfit = f"{setting.misfit:.1%}" if setting.misfit else "none"
        print(f"| {setting.sizes} | {setting.seeds} | {misfit} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
